"""What a column of scores looks like: signs that a model collapsed, or that its result is too good to be true."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from lorica.metrics.base import Column, Floats
from lorica.metrics.metric_table import METRICS

# Below this spread the scores hold nothing that a ranking could use.
COLLAPSED_STD = 1e-4
# From so many rows on, few distinct values or a single one are telling.
ENOUGH_ROWS = 20
# A value that this share of rows has is a constant somewhere, not a judgement.
DOMINANT_SHARE = 0.5
# So many rows at 0 or 1 mean that hard labels came out, not probabilities.
SATURATED_SHARE = 0.9
# A share of fall-back answers that visibly moves a ranking metric.
FALLBACK_SHARE = 0.01
# On real tasks with noisy labels such a value is more often a leak than a success.
TOO_GOOD_AUC = 0.995
TOO_GOOD_ROWS = 100
# With less of the model's probability than this in half of the rows, choices are not what it would answer. Where prompt
# and template fit, medians are 0.3 (an instruct model not trained for the task) to 1 (trained adapters); where prompts
# ask for another form of answer 0.02 to 0.07, with the template of another model 0.01 and less (docs/tasks.md).
LOW_MASS = 0.1
_LOW_MASS_CAUSES = (
    "a prompt column that asks for another form of answer, a chat template of another model (model.chat_template), an "
    "adapter of another task"
)
# So near a bound a probability counts as being at it.
NEAR = 1e-3
BINS = 20
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)


class ScoreHealth(msgspec.Struct, frozen=True):
    """A column of scores, summed up. Shares are of the n scores that are present.

    missing: rows without a score (None or nan). at_low, at_high: share exactly at the bounds. mode_share:
    share of the most frequent value. fallback_share: share of all rows that the caller marked as fall-backs.
    flags: sorted words, empty when nothing is suspicious; `reasons` explains each. near_low, near_high: share within
    NEAR of the bounds. mode: the most frequent value. diversity: different values per score, 1 when all differ.
    entropy: of the histogram over low to high in BINS bins, 0 (all in one) to 1 (spread evenly). balance: share
    above the middle. quantiles: the values at QUANTILES.
    """

    n: int
    missing: int
    unique: int
    mean: float
    std: float
    minimum: float
    maximum: float
    at_low: float
    at_high: float
    mode_share: float
    fallback_share: float
    flags: tuple[str, ...]
    reasons: dict[str, str]
    near_low: float = 0.0
    near_high: float = 0.0
    mode: float = math.nan
    diversity: float = 0.0
    entropy: float = 0.0
    balance: float = 0.0
    quantiles: tuple[float, ...] = ()


class MassHealth(msgspec.Struct, frozen=True):
    """How much of the model's probability the choices had (`Answer.choice_mass`), in the n rows that say so.

    median, p10: over these rows; p10 is the 10th percentile. low: the median lies below LOW_MASS.
    """

    n: int
    median: float
    p10: float
    low: bool

    @property
    def problem(self) -> str:
        """What is wrong, for a person, and what causes it; "" where nothing is wrong."""
        message = f"the choices have little of the model's probability (choice_mass: {self}), so scores mean little"
        return f"{message}; likely causes: {_LOW_MASS_CAUSES}" if self.low else ""

    def __str__(self) -> str:
        return f"median {self.median:.3g}, 10th percentile {self.p10:.3g}, n {self.n}"


def mass_health(masses: Sequence[float | None]) -> MassHealth | None:
    """Sum up the masses of rows; None where no row has one."""
    present_masses = np.array([mass for mass in masses if mass is not None], dtype=np.float64)
    if not present_masses.size:
        return None
    median, p10 = np.quantile(present_masses, (0.5, 0.1)).tolist()
    return MassHealth(int(present_masses.size), median, p10, median < LOW_MASS)


def score_health(
    scores: Sequence[float | None] | Column,
    *,
    gold: Column | None = None,
    fallback: Sequence[bool] | None = None,
    masses: Sequence[float | None] = (),
    lower_bound: float = 0.0,
    upper_bound: float = 1.0,
) -> ScoreHealth:
    """Sum up scores [rows] that should lie in lower_bound to upper_bound.

    gold: [rows] of 0 and 1, where known, for the too-good flag. fallback: [rows], true where the score is a
    declared constant because the answer could not be read. masses: of the choices, where known. ValueError for lists of
    other lengths.
    """
    for name, score_column in (("gold", gold), ("fallback", fallback)):
        if score_column is not None and len(score_column) != len(scores):
            raise ValueError(
                f"{len(scores)} scores and {len(score_column)} values of {name}; there must be as many of both"
            )
    score_column = np.array([math.nan if score is None else score for score in scores], dtype=np.float64)
    is_present = ~np.isnan(score_column)
    present_scores = score_column[is_present]
    score_count = len(present_scores)
    distinct_scores, value_counts = np.unique(present_scores, return_counts=True)
    fallback_share = _share(np.asarray(fallback, dtype=bool)) if fallback is not None else 0.0
    health = ScoreHealth(
        n=score_count,
        missing=len(score_column) - score_count,
        unique=len(distinct_scores),
        mean=float(present_scores.mean()) if score_count else math.nan,
        std=float(present_scores.std()) if score_count else math.nan,
        minimum=float(present_scores.min()) if score_count else math.nan,
        maximum=float(present_scores.max()) if score_count else math.nan,
        at_low=_share(present_scores == lower_bound),
        at_high=_share(present_scores == upper_bound),
        mode_share=int(value_counts.max()) / score_count if score_count else 0.0,
        fallback_share=fallback_share,
        flags=(),
        reasons={},
        near_low=_share((present_scores >= lower_bound) & (present_scores <= lower_bound + NEAR)),
        near_high=_share((present_scores <= upper_bound) & (present_scores >= upper_bound - NEAR)),
        mode=float(distinct_scores[value_counts.argmax()]) if score_count else math.nan,
        diversity=len(distinct_scores) / score_count if score_count else 0.0,
        entropy=_entropy(present_scores, lower_bound, upper_bound),
        balance=_share(present_scores > (lower_bound + upper_bound) / 2),
        quantiles=tuple(np.quantile(present_scores, QUANTILES).tolist())
        if score_count and np.isfinite(present_scores).all()
        else (),
    )
    auc = math.nan
    if gold is not None and score_count:
        auc = METRICS["roc_auc"](np.asarray(gold)[is_present], present_scores)
    reasons = _reasons(health, auc, lower_bound, upper_bound)
    mass_summary = mass_health(masses)
    if mass_summary is not None and mass_summary.low:
        reasons["low_mass"] = mass_summary.problem
    return msgspec.structs.replace(health, flags=tuple(sorted(reasons)), reasons=reasons)


def _share(hits: NDArray[np.bool_]) -> float:
    return float(hits.mean()) if hits.size else 0.0


def _entropy(values: Floats, lower_bound: float, upper_bound: float) -> float:
    """Of the histogram, in units of the entropy of an even one; values outside the bounds count at them."""
    bin_counts, _ = np.histogram(np.clip(values, lower_bound, upper_bound), bins=BINS, range=(lower_bound, upper_bound))
    bin_shares = bin_counts[bin_counts > 0] / max(bin_counts.sum(), 1)
    return abs(float(-(bin_shares * np.log(bin_shares)).sum() / math.log(BINS)))


def _reasons(health: ScoreHealth, auc: float, lower_bound: float, upper_bound: float) -> dict[str, str]:
    """Flag -> why, for everything suspicious."""
    reasons = {}
    if health.missing:
        reasons["missing"] = f"{health.missing} of {health.missing + health.n} rows have no score"
    if not health.n:
        return reasons | {"empty": "there is no score at all"}
    if health.minimum < lower_bound or health.maximum > upper_bound:
        reasons["out_of_range"] = (
            f"{health.minimum:g} to {health.maximum:g}, expected {lower_bound:g} to {upper_bound:g}"
        )
    enough_rows = health.n >= ENOUGH_ROWS
    if enough_rows and health.std < COLLAPSED_STD:
        reasons["collapsed"] = f"standard deviation {health.std:.1e}: all rows get the same score"
    elif enough_rows and health.unique == 2:
        reasons["two_values"] = "only two different scores: hard labels, not probabilities"
    elif enough_rows and health.mode_share > DOMINANT_SHARE:
        reasons["dominant_value"] = f"{health.mode_share:.0%} of the rows have one and the same score"
    if enough_rows and health.at_low + health.at_high > SATURATED_SHARE:
        reasons["saturated"] = (
            f"{health.at_low + health.at_high:.0%} of the scores are exactly {lower_bound:g} or {upper_bound:g}"
        )
    if health.fallback_share > FALLBACK_SHARE:
        reasons["fallbacks"] = f"{health.fallback_share:.1%} of the rows were answered by the fall-back constant"
    if health.n >= TOO_GOOD_ROWS and auc > TOO_GOOD_AUC:
        reasons["too_good"] = f"ROC-AUC {auc:.4f} on {health.n} rows: look for a leak of gold into the input"
    elif health.n >= TOO_GOOD_ROWS and auc < 1 - TOO_GOOD_AUC:
        reasons["inverted"] = f"ROC-AUC {auc:.4f}: the scores order the rows backwards"
    return reasons
