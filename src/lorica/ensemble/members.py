"""The members of an ensemble: files of answers to the same rows, aligned by row id."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from lorica.errors import DataError
from lorica.metrics.health import ScoreHealth, score_health
from lorica.records import Answer

Scores = NDArray[np.float64]

# What makes a column of scores useless to a blend; `lorica eval` explains each.
_DEGENERATE = ("collapsed", "two_values", "dominant_value", "empty")
_ENOUGH_ANSWERS = 20  # that are all one: of fewer rows that may be so


class EnsembleMember(msgspec.Struct, frozen=True):
    """One file of answers. answers: row id -> answer, of the same rows in every member."""

    name: str
    answers: Mapping[str, Answer]

    def scores(self, row_ids: Sequence[str]) -> Scores:
        """The scores [n] of these rows. Raises DataError naming a row that has none."""
        unscored = [row_id for row_id in row_ids if self.answers[row_id].score is None]
        if unscored:
            raise DataError(
                f"{len(unscored)} of {len(row_ids)} rows have no score",
                path=self.name,
                row_id=unscored[0],
                fix="blend files with a score in every row, or --method vote for their answers",
            )
        return np.array([self.answers[row_id].score for row_id in row_ids], dtype=np.float64)

    def probabilities(self, row_ids: Sequence[str]) -> Scores:
        """The scores [n] of these rows for a fitted blend. Raises DataError naming a row whose score is none that it
        takes."""
        scores = self.scores(row_ids)
        outside = np.flatnonzero((scores < 0) | (scores > 1))
        if len(outside):
            raise DataError(
                f"a fitted blend takes probabilities, and scores go from {scores.min():g} to {scores.max():g}",
                path=self.name,
                row_id=row_ids[int(outside[0])],
                fix="--method rank, without a fitted blend, takes scores of any scale",
            )
        return scores

    def require(self, row_ids: Collection[str], source: str, *, fix: str) -> None:
        """Raise DataError, naming the first, where rows of `source` have no answer here."""
        missing = [row_id for row_id in row_ids if row_id not in self.answers]
        if missing:
            raise DataError(
                f"it lacks {len(missing)} of the {len(row_ids)} rows of {source}",
                path=self.name,
                row_id=missing[0],
                fix=fix,
            )


def check_alignment(members: Sequence[EnsembleMember]) -> list[str]:
    """The ids of the rows that all members answer, in the order of the first.

    Raises DataError naming the member and a row that it lacks, or has and the first has not: the rank of a row depends
    on all rows, so nothing is filled in or left out.
    """
    first = members[0]
    for member in members[1:]:
        for answering, other in ((member, first), (first, member)):
            answering.require(other.answers, other.name, fix="blend files that answer the same rows")
    return list(first.answers)


def degenerate_reasons(scores: Scores) -> str:
    """Why scores [n] would add nothing but noise to a blend, or "": all equal, hard labels, one value for most."""
    health: ScoreHealth = score_health(scores, lower_bound=float(scores.min()), upper_bound=float(scores.max()))
    return "; ".join(health.reasons[flag] for flag in _DEGENERATE if flag in health.reasons)


def vote_reasons(member: EnsembleMember, row_ids: Sequence[str]) -> str:
    """Why a member's answers to these rows would add nothing to a vote, or "": there is none, or all are one."""
    answers = [(member.answers[row_id].answer or "").strip() for row_id in row_ids]
    if not any(answers):
        return "no answer in any row"
    if len(answers) >= _ENOUGH_ANSWERS and len(set(answers)) == 1:
        return f"the same answer {answers[0]!r:.40} in all {len(answers)} rows"
    return ""


def rank_correlations(member_scores: Sequence[Scores]) -> NDArray[np.float64]:
    """Spearman's rank correlation of every two columns of scores [n]: [m, m]; nan where a column is constant."""
    ranks = np.stack([average_ranks(scores) for scores in member_scores])
    centred = ranks - ranks.mean(axis=1, keepdims=True)
    lengths = np.sqrt((centred**2).sum(axis=1))
    products: NDArray[np.float64] = np.outer(lengths, lengths)
    correlations: NDArray[np.float64] = np.divide(
        centred @ centred.T, products, out=np.full_like(products, np.nan), where=products > 0
    )
    return correlations


def average_ranks(scores: Scores) -> Scores:
    """Ranks from 1 [n]; equal scores share the mean of theirs, as scipy's rankdata does."""
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    last_ranks = np.cumsum(counts)
    means: Scores = last_ranks - (counts - 1) / 2
    return means[inverse]
