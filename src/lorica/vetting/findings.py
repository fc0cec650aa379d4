"""What a check says: findings with stable codes, and the verdict they add up to.

    L0 safe to read · L1 structure and claims · L2 numbers · L3 base · L4 behaviour

A finding's code never changes its meaning; `findings.toml` lists them all with the causes that they speak for,
docs/findings.md shows them.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import files
from typing import Any, Literal

import msgspec

from lorica.errors import UNCHECKED

Severity = Literal["reject", "warn", "note"]

LEVELS = {0: "files", 1: "structure", 2: "numbers", 3: "base", 4: "behaviour"}

Status = Literal["trusted", "warnings", "rejected", "unchecked"]
LevelResult = Literal["passed", "noted", "warned", "failed", "skipped"]

# For scripts and CI: numbers that no error has (`lorica.errors`). The highest of several adapters' counts.
EXIT_CODES: dict[Status, int] = {"trusted": 0, "warnings": 10, "rejected": 11, "unchecked": UNCHECKED}

# These two say that nothing is wrong with the adapter itself, so every rejection refutes them.
SOUND = ("healthy", "hard_task")


class FindingCode(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A row of the table: what findings of one code have in common. The head of `findings.toml` explains its fields.

    causes: keys of `causes()` that it speaks for, the most probable first. likelihoods: cause -> log likelihood ratio;
    None where they follow from causes and severity. variants: name -> what changes in them.
    """

    severity: Severity
    title: str
    expected: str = ""
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
    known_causes = code_rows.pop("causes")
    codes = {code: _row(code_row) for code, code_row in code_rows.items()}
    return msgspec.convert({"causes": known_causes, "codes": codes}, _Table)


def _row(code_row: dict[str, Any]) -> dict[str, Any]:
    """A row with `sound` written out, and with its causes where likelihoods stand in their place."""
    if "likelihoods" not in code_row:
        return code_row
    likelihoods = _written_out(code_row["likelihoods"])
    variants = {name: _written_out(changes) for name, changes in code_row.get("variants", {}).items()}
    highest: dict[str, float] = {}
    for weights in (likelihoods, *variants.values()):
        highest |= {cause: max(weight, highest.get(cause, weight)) for cause, weight in weights.items() if weight > 0}
    ranked = sorted(highest, key=lambda cause: -highest[cause])
    return {"causes": ranked} | code_row | {"likelihoods": likelihoods, "variants": variants}


def _written_out(likelihoods: dict[str, float]) -> dict[str, float]:
    weights = dict(likelihoods)
    sound_weight = weights.pop("sound", None)
    return weights if sound_weight is None else weights | dict.fromkeys(SOUND, sound_weight)


class Finding(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One observation of a check. `file` is relative to the adapter ("" when no one file is meant).

    seen, expected, fix: for people, one line each. facts: the same as numbers, for the diagnosis and for programs.
    """

    code: str
    severity: Severity
    seen: str
    expected: str = ""
    fix: str = ""
    file: str = ""
    facts: dict[str, Any] = {}

    @property
    def level(self) -> int:
        """0 to 4, from the code."""
        return int(self.code[1])

    @property
    def title(self) -> str:
        """What findings of this code have in common."""
        return finding_codes()[self.code].title


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """All that was found about one adapter. levels: level -> how it went; a level that could not run is skipped."""

    name: str
    path: str
    status: Status
    levels: dict[int, LevelResult]
    findings: tuple[Finding, ...]


def finding(
    code: str,
    seen: str,
    *,
    expected: str = "",
    fix: str = "",
    file: str = "",
    facts: Mapping[str, Any] | None = None,
    severity: Severity | None = None,
) -> Finding:
    """A finding of a listed code; what is not given is as the code's row says. KeyError for another code."""
    code_row = finding_codes()[code]
    return Finding(
        code=code,
        severity=severity or code_row.severity,
        seen=seen,
        expected=expected or code_row.expected,
        fix=fix or code_row.fix,
        file=file,
        facts=dict(facts or {}),
    )


def unreadable(error: OSError, file: str, severity: Severity | None = None) -> Finding:
    """L008: a file that the system does not let us read."""
    return finding("L008", f"it cannot be read ({error.strerror})", file=file, severity=severity)


def judge(
    name: str, path: str, findings: Iterable[Finding], levels_run: Iterable[int], *, readable: bool = True
) -> Verdict:
    """The verdict over findings. levels_run: those that were carried out. readable: whether anything could be judged.

    Any `reject` rejects; else any `warn` warns. Notes never change the verdict.
    """
    ordered = tuple(sorted(findings, key=lambda finding: (_WEIGHT[finding.severity], finding.code, finding.file)))
    levels: dict[int, LevelResult] = dict.fromkeys(LEVELS, "skipped")
    for level in levels_run:
        weights = [_WEIGHT[finding.severity] for finding in ordered if finding.level == level]
        levels[level] = _RESULTS[min(weights, default=-1)]
    severities = {finding.severity for finding in ordered}
    status: Status = "rejected" if "reject" in severities else "warnings" if "warn" in severities else "trusted"
    return Verdict(name=name, path=path, status=status if readable else "unchecked", levels=levels, findings=ordered)


_WEIGHT: dict[Severity, int] = {"reject": 0, "warn": 1, "note": 2}
_RESULTS: tuple[LevelResult, ...] = ("failed", "warned", "noted", "passed")
