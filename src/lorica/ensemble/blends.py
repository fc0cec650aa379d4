"""Ways to make one column of scores out of several."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from lorica.ensemble.members import EnsembleMember, Scores, average_ranks
from lorica.records import Answer

METHODS: dict[str, str] = {
    "rank": "mean of ranks, between 0 and 1: members may have different scales",
    "mean": "mean of scores",
    "power": "power mean of scores: above 1 confident Yes counts more, below 1 confident No",
    "stack": "logistic regression on the members' scores, fitted on rows it does not score",
    "vote": "the answer that most members give",
}


def unit_ranks(scores: Scores, groups: Sequence[str] | None = None) -> Scores:
    """Ranks of scores [n] spread over 0 to 1, within each group where `groups` [n] are given: (rank - 1/2) / rows.

    Within groups, a shift or another scale of one group's scores (a rule that is answered Yes more often) changes
    nothing.
    """
    if groups is None:
        return (average_ranks(scores) - 0.5) / len(scores)
    ranks = np.empty(len(scores))
    rows_of: dict[str, list[int]] = {}
    for row_index, group_name in enumerate(groups):
        rows_of.setdefault(group_name, []).append(row_index)
    for row_indices in rows_of.values():
        ranks[row_indices] = (average_ranks(scores[row_indices]) - 0.5) / len(row_indices)
    return ranks


def blend_scores(
    member_scores: Sequence[Scores],
    weights: Sequence[float],
    method: str,
    *,
    groups: Sequence[str] | None = None,
    power: float = 1.0,
) -> Scores:
    """One column of scores [n] of several, by `mean`, `rank` or `power`; weights: one for each, their sum 1.

    groups: [n], within which ranks are taken, also those of `mean` and `power`, whose results are ranked then. power:
    the exponent of `power`; its scores must not be negative. Raises ValueError for negative scores there.
    """
    stacked = np.stack(list(member_scores))
    column_weights = np.asarray(weights)[:, None]
    if method == "rank":
        ranks = np.stack([unit_ranks(scores, groups) for scores in member_scores])
        return np.asarray((ranks * column_weights).sum(axis=0))
    if method == "power":
        blended = _power_mean(stacked, column_weights, power)
    else:
        blended = (stacked * column_weights).sum(axis=0)
    return blended if groups is None else unit_ranks(blended, groups)


def _power_mean(stacked: Scores, column_weights: Scores, power: float) -> Scores:
    """Of scores [m, n]. Each is taken as a share of its column's largest (with a negative exponent: smallest), so that
    powers do not vanish; with a negative exponent a 0 makes the mean 0. Raises ValueError for negative scores."""
    if stacked.min() < 0:
        raise ValueError(f"a power mean needs scores from 0 on, and one is {stacked.min():g}")
    weighing = column_weights[:, 0] > 0
    weighed = stacked[weighing]
    scale = weighed.max(axis=0) if power > 0 else weighed.min(axis=0)
    shares = np.divide(weighed, scale, out=np.ones_like(weighed), where=scale > 0)
    return np.asarray(scale * ((shares**power) * column_weights[weighing]).sum(axis=0) ** (1 / power))


def vote(members: Sequence[EnsembleMember], weights: Sequence[float], row_ids: Sequence[str]) -> list[Answer]:
    """The answer with the largest weight of members behind it, for each row; a tie goes to the first member's side
    and is flagged `tied`. Members without an answer, or of weight 0, do not vote; a row without any vote has
    no answer."""
    return [_vote_of_row(members, weights, row_id) for row_id in row_ids]


def _vote_of_row(members: Sequence[EnsembleMember], weights: Sequence[float], row_id: str) -> Answer:
    votes: Counter[str] = Counter()
    for member, weight in zip(members, weights, strict=True):
        answer_text = member.answers[row_id].answer
        if weight and answer_text is not None and answer_text.strip():
            votes[answer_text.strip()] += weight  # type: ignore[assignment]
    if not votes:
        return Answer(row_id, stage="invalid", flags=("invalid",), problem="no member that has a say gave an answer")
    shares: Mapping[str, float] = {text: weight / sum(votes.values()) for text, weight in votes.items()}
    most = max(shares.values())
    winners = [text for text, share in shares.items() if share > most - 1e-9]
    return Answer(row_id, winners[0], scores=dict(shares), flags=("tied",) if len(winners) > 1 else ())


def to_answers(row_ids: Sequence[str], scores: Scores) -> list[Answer]:
    """Answers with these scores [n]."""
    return [Answer(row_id, score=float(score)) for row_id, score in zip(row_ids, scores, strict=True)]
