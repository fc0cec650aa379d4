"""The ranking: each criterion decides in its turn, and the reason names it."""

from __future__ import annotations

import itertools

from lorica.vetting.findings import Status, finding, judge
from lorica.vetting.ranking import Standing, rank


def standing(
    name: str,
    *,
    warned: int = 0,
    rejected: bool = False,
    ran: int = 3,
    gain: float | None = None,
    metric: float | None = None,
    readable: bool = True,
) -> Standing:
    findings = [finding("L340", "seen", severity="warn") for _ in range(warned)]
    findings += [finding("L002", "seen", severity="reject")] if rejected else []
    return Standing(verdict=judge(name, name, findings, range(ran), readable=readable), gain=gain, metric=metric)


def test_the_first_criterion_that_differs_decides_and_says_so() -> None:
    standings = [
        standing("rejected", rejected=True, gain=0.9),
        standing("unreadable", readable=False, ran=0),
        standing("warned", warned=1, gain=0.5),
        standing("sure", gain=0.3, metric=0.8),
        standing("surer", gain=0.4, metric=0.7),
        standing("fewer levels", ran=2, gain=0.3),
        standing("better", gain=0.3, metric=0.9),
    ]
    places = rank(standings)
    assert [each.name for each in places] == [
        "surer",
        "better",
        "sure",
        "fewer levels",
        "warned",
        "unreadable",
        "rejected",
    ]
    assert [each.position for each in places] == list(range(1, 8))
    assert places[0].above == "gain over the base at least +0.400, the next +0.300"
    assert places[1].above == "metric 0.900, the next 0.800"
    assert places[2].above == "3 of 5 levels passed, the next 2"
    assert places[3].above == "verdict trusted before warnings"
    assert places[4].above == "verdict warnings before unchecked"
    assert places[6].above == ""


def test_the_order_of_the_arguments_does_not_matter() -> None:
    standings = [standing("b"), standing("a"), standing("c", warned=2), standing("d", warned=1)]
    orders = {tuple(each.name for each in rank(order)) for order in itertools.permutations(standings)}
    assert orders == {("a", "b", "d", "c")}
    assert rank(standings)[2].above == "1 warning, the next 2"


def test_an_adapter_that_was_not_measured_does_not_stand_above_a_measured_gain() -> None:
    places = rank([standing("unmeasured"), standing("gains", gain=0.1), standing("loses", gain=-0.1)])
    assert [each.name for each in places] == ["gains", "unmeasured", "loses"]


def test_notes_never_change_a_verdict() -> None:
    found = judge("a", "a", [finding("L340", "seen", severity="note")], {0, 1, 3})
    status: Status = "trusted"
    assert found.status == status
    assert found.levels == {0: "passed", 1: "passed", 2: "skipped", 3: "noted", 4: "skipped"}
