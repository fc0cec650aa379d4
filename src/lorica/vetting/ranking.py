"""Many adapters side by side: which to trust first, and why each stands above the next."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

import msgspec

from lorica.vetting.findings import LEVELS, Status, Verdict

_ORDER: tuple[Status, ...] = ("trusted", "warnings", "unchecked", "rejected")


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """What the ranking looks at, of one adapter.

    gain: lower end of the interval of the paired gain over the base model on the same labelled rows, None when it was
    not measured. metric: the adapter's own main metric on them.
    """

    verdict: Verdict
    gain: float | None = None
    metric: float | None = None


class RankedAdapter(msgspec.Struct, frozen=True):
    """A place in the ranking, from 1. above: why it stands above the next, "" for the last."""

    position: int
    name: str
    above: str


def rank(standings: Sequence[Standing]) -> list[RankedAdapter]:
    """Order adapters by criteria that can be defended one by one; the first that differs decides.

    1. verdict: trusted, then warnings, then what could not be checked, then rejected; 2. how sure the gain over the
    base model is (the lower end of its interval), where it was measured; 3. levels passed; 4. number of warnings; 5.
    the main metric; last the name, numbers in it by size, so that the order never depends on the order of the
    arguments.
    """
    ordered = sorted(
        standings, key=lambda standing: (_criteria(standing), _by_numbers(standing.verdict.name), standing.verdict.name)
    )
    reasons = [_why(first, second) for first, second in pairwise(ordered)] + [""]
    return [
        RankedAdapter(number, standing.verdict.name, reason)
        for number, (standing, reason) in enumerate(zip(ordered, reasons, strict=True), 1)
    ]


def _by_numbers(adapter_name: str) -> list[tuple[int, str]]:
    """ "checkpoint-90" before "checkpoint-100"."""
    pieces = [piece.lstrip("0") if piece.isdecimal() else piece for piece in re.split(r"(\d+)", adapter_name)]
    return [(len(piece) if index % 2 else 0, piece) for index, piece in enumerate(pieces)]


def levels_passed(verdict: Verdict) -> int:
    """Levels that ran without a warning or a rejection."""
    return sum(result in ("passed", "noted") for result in verdict.levels.values())


def warnings(verdict: Verdict) -> int:
    """Findings that a person must look at."""
    return sum(finding.severity == "warn" for finding in verdict.findings)


def _criteria(standing: Standing) -> tuple[float, ...]:
    """Smaller is better."""
    return (
        _ORDER.index(standing.verdict.status),
        0.0 if standing.gain is None else -standing.gain,
        -levels_passed(standing.verdict),
        warnings(standing.verdict),
        0.0 if standing.metric is None else -standing.metric,
    )


def _why(first: Standing, second: Standing) -> str:
    first_verdict, second_verdict = first.verdict, second.verdict
    passed = f"{levels_passed(first_verdict)} of {len(LEVELS)} levels passed"
    reasons = (
        f"verdict {first_verdict.status} before {second_verdict.status}",
        f"gain over the base at least {_signed(first.gain)}, the next {_signed(second.gain)}",
        f"{passed}, the next {levels_passed(second_verdict)}",
        f"{warnings(first_verdict)} warnings, the next {warnings(second_verdict)}",
        f"metric {_number(first.metric)}, the next {_number(second.metric)}",
    )
    for reason, first_value, second_value in zip(reasons, _criteria(first), _criteria(second), strict=True):
        if first_value != second_value:
            return reason
    return "equal in all that was measured; by name"


def _signed(gain: float | None) -> str:
    return "not measured" if gain is None else f"{gain:+.3f}"


def _number(metric: float | None) -> str:
    return "not measured" if metric is None else f"{metric:.3f}"
