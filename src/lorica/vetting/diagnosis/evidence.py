"""Evidence, and what it makes of the hypotheses: naive Bayes over `lorica.vetting.causes`, counted once per group.

A weight is a natural-log likelihood ratio: how much more probable the evidence is if the cause is at work than if it
is not. 0 says nothing; +2.3 makes the cause ten times as probable against the others, -2.3 ten times less.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import msgspec

from lorica.vetting.causes import CAUSES

# What is left when every listed cause is refuted. It takes no evidence of its own, so it rises as the others fall.
NONE = "none_of_these"
NONE_TITLE = "none of these"
NONE_MEANS = "the evidence refutes every cause that Lorica knows"
NONE_PRIOR = 0.02
# However strong the evidence, so much room stays for a cause that nobody listed.
NONE_FLOOR = 0.01

# The bounds of "for" and "strongly for", as likelihood ratios of about 2.7 and 12.
SOME, STRONG = 1.0, 2.5
# No single group of evidence counts for more, however many findings are in it: a ratio of about 22,000.
GROUP_CAP = 10.0

Direction = Literal["strongly for", "for", "neutral", "against", "strongly against"]


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was seen. id: unique in a diagnosis. text: one line for people. source: the code of a finding, the
    name of an experiment, or "checks" for what was looked for and not found. group: what shares one root, so that it
    counts once. weights: cause -> log likelihood ratio; causes that are not named are not touched.
    """

    id: str
    text: str
    source: str
    group: str
    weights: dict[str, float]


class Weighed(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of evidence as it bears on one hypothesis."""

    id: str
    text: str
    source: str
    direction: Direction
    weight: float


class Hypothesis(msgspec.Struct, frozen=True, kw_only=True):
    """One cause, before and after the evidence. evidence_for, evidence_against: the heaviest first."""

    cause: str
    title: str
    means: str
    prior: float
    posterior: float
    evidence_for: tuple[Weighed, ...] = ()
    evidence_against: tuple[Weighed, ...] = ()


def direction(weight: float) -> Direction:
    """A log likelihood ratio in words."""
    if weight >= STRONG:
        return "strongly for"
    if weight >= SOME:
        return "for"
    if weight <= -STRONG:
        return "strongly against"
    return "against" if weight <= -SOME else "neutral"


def weigh(evidence: Sequence[Evidence]) -> list[Hypothesis]:
    """All hypotheses after the evidence, the most probable first; posteriors sum to 1."""
    total = sum(cause.prior for cause in CAUSES.values()) + NONE_PRIOR
    priors = {name: cause.prior / total for name, cause in CAUSES.items()} | {NONE: NONE_PRIOR / total}
    logs = {name: math.log(prior) for name, prior in priors.items()}
    for name, weight in _summed(evidence).items():
        logs[name] += weight
    posteriors = _normalised(logs)
    return sorted(
        (_hypothesis(name, priors[name], posterior, evidence) for name, posterior in posteriors.items()),
        key=lambda each: (-each.posterior, each.cause),
    )


def _summed(evidence: Iterable[Evidence]) -> dict[str, float]:
    """Cause -> sum over groups; within a group the heaviest evidence for and the heaviest against count, once each."""
    strongest: dict[tuple[str, str], tuple[float, float]] = {}
    for each in evidence:
        for cause, weight in each.weights.items():
            up, down = strongest.get((each.group, cause), (0.0, 0.0))
            strongest[each.group, cause] = (max(up, weight), min(down, weight))
    sums: dict[str, float] = {}
    for (_, cause), (up, down) in strongest.items():
        sums[cause] = sums.get(cause, 0.0) + max(-GROUP_CAP, min(GROUP_CAP, up + down))
    return sums


def _normalised(logs: Mapping[str, float]) -> dict[str, float]:
    top = max(logs.values())
    odds = {name: math.exp(value - top) for name, value in logs.items()}
    whole = sum(odds.values())
    shares = {name: value / whole for name, value in odds.items()}
    if shares[NONE] < NONE_FLOOR:
        rest = 1 - shares[NONE]
        shares = {name: value / rest * (1 - NONE_FLOOR) for name, value in shares.items()} | {NONE: NONE_FLOOR}
    return shares


def _hypothesis(name: str, prior: float, posterior: float, evidence: Sequence[Evidence]) -> Hypothesis:
    known = CAUSES.get(name)
    weighed = [
        Weighed(id=each.id, text=each.text, source=each.source, direction=direction(weight), weight=round(weight, 2))
        for each in evidence
        if (weight := each.weights.get(name, 0.0)) and direction(weight) != "neutral"
    ]
    weighed.sort(key=lambda each: (-abs(each.weight), each.id))
    return Hypothesis(
        cause=name,
        title=known.title if known else NONE_TITLE,
        means=known.means if known else NONE_MEANS,
        prior=round(prior, 4),
        posterior=round(posterior, 4),
        evidence_for=tuple(each for each in weighed if each.weight > 0),
        evidence_against=tuple(each for each in weighed if each.weight < 0),
    )
