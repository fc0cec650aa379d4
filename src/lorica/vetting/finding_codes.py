"""The table of findings, `findings.toml`: what each code means, and the causes that findings speak for."""

from __future__ import annotations

import tomllib
from functools import cache
from importlib.resources import files
from typing import Any, Literal

import msgspec

Severity = Literal["reject", "warn", "note"]

# These two say that nothing is wrong with the adapter itself, so every rejection refutes them.
SOUND = ("healthy", "hard_task")


class FindingCode(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A row of the table: what findings of one code have in common. The head of `findings.toml` explains its fields.

    causes: keys of `causes()` that it speaks for, the most probable first. likelihoods: cause -> log likelihood ratio;
    None where they follow from causes and severity. variants: name -> what changes in them.
    """

    severity: Severity
    title: str
    fix: str = ""
    causes: tuple[str, ...] = ()
    likelihoods: dict[str, float] | None = None
    variants: dict[str, dict[str, float]] = {}
    group: str = ""
    weighed_by: str = ""
    explains: tuple[str, ...] = ()


class Cause(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Why an adapter misbehaves: a hypothesis of the diagnosis. Its fields are explained in `findings.toml`."""

    title: str
    means: str
    prior: float
    command: str
    first: str = ""


class _Table(msgspec.Struct, frozen=True):
    causes: dict[str, Cause]
    codes: dict[str, FindingCode]


def finding_codes() -> dict[str, FindingCode]:
    """Code -> its row, in the order of codes."""
    return _table().codes


def causes() -> dict[str, Cause]:
    """Key -> cause."""
    return _table().causes


@cache
def _table() -> _Table:
    code_rows = tomllib.loads(files("lorica.vetting").joinpath("findings.toml").read_text("utf-8"))
    return msgspec.convert(
        {
            "causes": code_rows.pop("causes"),
            "codes": {finding_code: _row(code_row) for finding_code, code_row in code_rows.items()},
        },
        _Table,
    )


def _row(code_row: dict[str, Any]) -> dict[str, Any]:
    """A row with `sound` written out, and with its causes where likelihoods stand in their place."""
    variant_likelihoods = {
        variant_name: _written_out(likelihoods) for variant_name, likelihoods in code_row.get("variants", {}).items()
    }
    if "likelihoods" not in code_row:
        return code_row
    likelihoods = _written_out(code_row["likelihoods"])
    highest: dict[str, float] = {}
    for weights in (likelihoods, *variant_likelihoods.values()):
        highest |= {cause_name: max(weight, highest.get(cause_name, weight)) for cause_name, weight in weights.items()}
    ranked = sorted(
        (cause_name for cause_name, weight in highest.items() if weight > 0),
        key=lambda cause_name: -highest[cause_name],
    )
    return {"causes": ranked} | code_row | {"likelihoods": likelihoods, "variants": variant_likelihoods}


def _written_out(likelihoods: dict[str, float]) -> dict[str, float]:
    weights = dict(likelihoods)
    sound_weight = weights.pop("sound", None)
    return weights if sound_weight is None else weights | dict.fromkeys(SOUND, sound_weight)
