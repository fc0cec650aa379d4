"""Evidence, and the ranking of causes that follows from it: naive Bayes over `findings.causes()`, each group once.

Evidence carries natural-log likelihood ratios: how much more probable it is if the cause is at work than if it is
not. 0 says nothing; +2.3 makes the cause ten times as probable against the others, -2.3 ten times less. They were set
by hand on small models, so their sum ranks the causes and gives no probability: people are told a `Certainty`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import msgspec

from lorica.vetting.findings import Cause, causes

# What is left when every listed cause is refuted. It takes no evidence of its own, so it rises as the others fall.
NONE = "none_of_these"
_NONE = Cause(
    title="none of these",
    means="the evidence refutes every cause that Lorica knows",
    prior=0.02,
    command="lorica check {path} --base {base} --json",
)
# However strong the evidence, so much room stays for a cause that nobody listed.
NONE_FLOOR = 0.01

# The bounds of "for", "strongly for" and of what decides a cause alone, as likelihood ratios of about 2.7, 12 and 55.
SOME, STRONG, DECISIVE = 1.0, 2.5, 4.0
# No single group of evidence counts for more, however many findings are in it: a ratio of about 22,000.
GROUP_CAP = 10.0
# Posteriors from which a cause may be settled, and needs no further experiments; is likely (more than all others
# together); is possible. docs/diagnosis.md says how often each word is right on the fault bench.
SETTLED, LIKELY, POSSIBLE = 0.95, 0.5, 0.05

Direction = Literal["strongly for", "for", "neutral", "against", "strongly against"]
Certainty = Literal["settled", "likely", "possible", "unlikely"]


def all_causes() -> dict[str, Cause]:
    """Key -> cause: those of the table, and NONE."""
    return causes() | {NONE: _NONE}


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


def outcome(evidence_id: str, sentence: str, group: str, weights: dict[str, float]) -> Evidence:
    """What came out of an experiment, as evidence. evidence_id: the experiment's name; where it gives several, with a
    dot and what this one is about."""
    return Evidence(id=evidence_id, text=sentence, source=evidence_id.split(".")[0], group=group, weights=weights)


class Bearing(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of evidence as it bears on one hypothesis."""

    id: str
    text: str
    source: str
    direction: Direction


class Hypothesis(msgspec.Struct, frozen=True, kw_only=True):
    """One cause after the evidence. evidence_for, evidence_against: the heaviest first.

    certainty: *settled*, when evidence that decides a cause alone speaks for it, none speaks strongly against it, and
    all other causes are unlikely; *likely*, when more speaks for it than for all others together; *possible*, when it
    is not refuted; else *unlikely*.
    """

    cause: str
    title: str
    means: str
    certainty: Certainty
    evidence_for: tuple[Bearing, ...] = ()
    evidence_against: tuple[Bearing, ...] = ()


def direction(weight: float) -> Direction:
    """A log likelihood ratio in words."""
    if weight >= STRONG:
        return "strongly for"
    if weight >= SOME:
        return "for"
    if weight <= -STRONG:
        return "strongly against"
    return "against" if weight <= -SOME else "neutral"


def certainty(posterior: float, weights: Sequence[float]) -> Certainty:
    """A posterior in words. weights: of all evidence that bears on the cause."""
    if posterior >= SETTLED and max(weights, default=0.0) >= DECISIVE and min(weights, default=0.0) > -STRONG:
        return "settled"
    if posterior >= LIKELY:
        return "likely"
    return "possible" if posterior >= POSSIBLE else "unlikely"


def posteriors(evidence: Sequence[Evidence]) -> dict[str, float]:
    """Cause -> posterior after the evidence, the most probable first; they sum to 1. Only their order is meant: see the
    head of this module."""
    summed_weights = _summed(evidence)
    log_odds = {name: math.log(cause.prior) + summed_weights.get(name, 0.0) for name, cause in all_causes().items()}
    cause_shares = _normalised(log_odds)
    return dict(sorted(cause_shares.items(), key=lambda cause_share: (-round(cause_share[1], 4), cause_share[0])))


def rank(evidence: Sequence[Evidence]) -> tuple[Hypothesis, ...]:
    """All hypotheses after the evidence, the most probable first."""
    return tuple(_hypothesis(cause_name, posterior, evidence) for cause_name, posterior in posteriors(evidence).items())


def _summed(evidence: Iterable[Evidence]) -> dict[str, float]:
    """Cause -> sum over groups; within a group the heaviest evidence for and the heaviest against count, once each."""
    strongest: dict[tuple[str, str], tuple[float, float]] = {}
    for item in evidence:
        for cause, weight in item.weights.items():
            highest, lowest = strongest.get((item.group, cause), (0.0, 0.0))
            strongest[item.group, cause] = (max(highest, weight), min(lowest, weight))
    summed_weights: dict[str, float] = {}
    for (_, cause), (highest, lowest) in strongest.items():
        group_weight = max(-GROUP_CAP, min(GROUP_CAP, highest + lowest))
        summed_weights[cause] = summed_weights.get(cause, 0.0) + group_weight
    return summed_weights


def _normalised(log_odds: Mapping[str, float]) -> dict[str, float]:
    highest_log = max(log_odds.values())
    relative_odds = {cause: math.exp(odds - highest_log) for cause, odds in log_odds.items()}
    total_odds = sum(relative_odds.values())
    shares = {cause: odds / total_odds for cause, odds in relative_odds.items()}
    if shares[NONE] < NONE_FLOOR:
        listed_share = 1 - shares[NONE]
        shares = {cause: share / listed_share * (1 - NONE_FLOOR) for cause, share in shares.items()}
        shares[NONE] = NONE_FLOOR
    return shares


def _hypothesis(cause_name: str, posterior: float, evidence: Sequence[Evidence]) -> Hypothesis:
    cause = all_causes()[cause_name]
    telling = [item for item in evidence if direction(item.weights.get(cause_name, 0.0)) != "neutral"]
    telling.sort(key=lambda item: (-abs(item.weights[cause_name]), item.id))
    weights = [item.weights[cause_name] for item in telling]
    bearings = [
        Bearing(id=item.id, text=item.text, source=item.source, direction=direction(weight))
        for item, weight in zip(telling, weights, strict=True)
    ]
    return Hypothesis(
        cause=cause_name,
        title=cause.title,
        means=cause.means,
        certainty=certainty(posterior, weights),
        evidence_for=tuple(bearing for bearing in bearings if bearing.direction.endswith("for")),
        evidence_against=tuple(bearing for bearing in bearings if bearing.direction.endswith("against")),
    )
