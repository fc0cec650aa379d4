"""Many adapters side by side: which to trust first, and why each stands above the next."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

import msgspec

from lorica.names import count_of
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

    def order(standing: Standing) -> tuple[object, ...]:
        name = standing.verdict.name
        return [value for value, _, _ in _criteria(standing)], _by_numbers(name), name

    ordered = sorted(standings, key=order)
    names, reasons = [standing.verdict.name for standing in ordered], [*map(_why, ordered, ordered[1:]), ""]
    return list(map(RankedAdapter, itertools.count(1), names, reasons))


def _by_numbers(adapter_name: str) -> list[tuple[int, str]]:
    """ "checkpoint-90" before "checkpoint-100"."""
    pieces = [piece.lstrip("0") if piece.isdecimal() else piece for piece in re.split(r"(\d+)", adapter_name)]
    return [(len(piece) if index % 2 else 0, piece) for index, piece in enumerate(pieces)]


def _criteria(standing: Standing) -> tuple[tuple[float, str, str], ...]:
    """(a number, the smaller the better; how it reads of the one above; how of the next) of each criterion."""
    verdict = standing.verdict
    # Levels that ran without a warning or a rejection, and findings that a person must look at.
    passed = sum(result in ("passed", "noted") for result in verdict.levels.values())
    warning_count = sum(finding.severity == "warn" for finding in verdict.findings)
    gain = "not measured" if standing.gain is None else f"{standing.gain:+.3f}"
    metric = "not measured" if standing.metric is None else f"{standing.metric:.3f}"
    return (
        (_ORDER.index(verdict.status), f"verdict {verdict.status} before", verdict.status),
        (-(standing.gain or 0.0), f"gain over the base at least {gain}, the next", gain),
        (-passed, f"{passed} of {len(LEVELS)} levels passed, the next", f"{passed}"),
        (warning_count, f"{count_of(warning_count, 'warning')}, the next", f"{warning_count}"),
        (-(standing.metric or 0.0), f"metric {metric}, the next", metric),
    )


def _why(first: Standing, second: Standing) -> str:
    for (value, text, _), (next_value, _, next_text) in zip(_criteria(first), _criteria(second), strict=True):
        if value != next_value:
            return f"{text} {next_text}"
    return "equal in all that was measured; by name"
