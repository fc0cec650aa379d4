"""How right scored rows are, and by how much two scorings of the same rows differ."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lorica.metrics.base import Column, Evaluator, Metric, mean_of
from lorica.metrics.bootstrap import estimate, paired_difference
from lorica.records import Row
from lorica.vetting.measure.measurements import Comparison, Interval, Skill, interval
from lorica.vetting.measure.scoring import Floats, ScoredRows

RESAMPLES = 1_000
# Standard errors, two-sided: a hint, and beyond chance even after a dozen looks.
HINT, SURE = 2.0, 3.0
# Several things are compared at once, so each must be surer than usual.
STRICT = 0.99


def columns(scored: ScoredRows) -> tuple[list[int], list[float]]:
    """gold and prediction for the rows' metric; all rows are labelled."""
    if scored.is_ranking:
        # The first choice stands for label 1.
        return [int(gold == 0) for gold in scored.gold.tolist()], [float(row[0]) for row in scored.probabilities]
    return scored.gold.tolist(), [float(best) for best in scored.best.tolist()]


def quality(scored: ScoredRows, confidence: float = 0.95) -> Interval:
    """The metric of labelled rows with its bootstrap interval."""
    gold, predicted = columns(scored)
    metric, groups = scored.metric, _groups(scored.rows)
    return interval(estimate(metric, gold, predicted, resamples=RESAMPLES, confidence=confidence, groups=groups))


def skill(scored: ScoredRows) -> Skill:
    """The metric of labelled rows, and for ROC-AUC its standard error."""
    gold, predicted = columns(scored)
    value = scored.metric(gold, predicted)
    if math.isnan(value):
        return Skill(None, None)
    positive = sum(gold)
    return Skill(value, auc_error(value, positive, len(gold) - positive) if scored.is_ranking else None)


def quality_difference(a: ScoredRows, b: ScoredRows, confidence: float = 0.95) -> Interval:
    """The metric of `a` minus that of `b`, on the same labelled rows."""
    gold, first = columns(a)
    _, second = columns(b)
    metric, groups = a.metric, _groups(a.rows)
    return interval(
        paired_difference(metric, gold, first, second, resamples=RESAMPLES, confidence=confidence, groups=groups)
    )


def mean_difference(a: Floats, b: Floats, rows: Sequence[Row], confidence: float = STRICT) -> Interval:
    """mean(a) - mean(b) over the same rows; [n] each."""
    zero = [0] * len(rows)
    groups = _groups(rows)
    return interval(paired_difference(_MEAN, zero, a, b, resamples=RESAMPLES, confidence=confidence, groups=groups))


def _mean(gold: Column, values: Column) -> Evaluator:
    return mean_of(np.asarray(values, dtype=np.float64))


_MEAN = Metric("mean", "score", _mean)


def gold_logprobs(scored: ScoredRows) -> Floats:
    """[n]: log-probability of the gold choice of labelled rows. For a ranking after the shift of all log-odds that
    suits the rows best: a mere preference for one answer, which a threshold mends, hides nothing then."""
    is_first = scored.gold == 0
    if scored.is_ranking and is_first.any() and not is_first.all():
        return centred(np.array([float(row[0] - row[1]) for row in scored.logprobs]), is_first)
    return -scored.losses


def centred(odds: Floats, is_first: NDArray[np.bool_]) -> Floats:
    """Log-probability of the gold choices [n] from log-odds [n] of the first choice, all shifted by the constant that
    makes the gold choices most probable. is_first [n]: whether the gold is the first choice."""
    signs = np.where(is_first, 1.0, -1.0)
    low, high = -float(np.abs(odds).max()) - 10.0, float(np.abs(odds).max()) + 10.0
    for _ in range(60):  # the slope falls with the shift: halve until it is zero
        shift = (low + high) / 2
        slope = float(np.sum(signs / (1 + np.exp(np.clip(signs * (odds + shift), -700, 700)))))
        low, high = (shift, high) if slope > 0 else (low, shift)
    return np.asarray(-np.logaddexp(0.0, -signs * (odds + (low + high) / 2)))


def compare(scored: ScoredRows, reference: ScoredRows) -> Comparison:
    """How much more probable the gold choices are than in `reference`, on the same labelled rows."""
    return paired(gold_logprobs(scored) - gold_logprobs(reference))


def paired(difference: Floats) -> Comparison:
    """Mean of paired differences [n], and over its standard error."""
    mean = float(difference.mean()) if len(difference) else 0.0
    spread = float(difference.std(ddof=1)) if len(difference) > 1 else 0.0
    error = spread / np.sqrt(len(difference)) if len(difference) else 0.0
    if error < 1e-12:
        return Comparison(mean, 0.0 if abs(mean) < 1e-9 else float(np.sign(mean)) * 100.0)
    return Comparison(mean, float(mean / error))


def auc_error(value: float, positive: int, negative: int) -> float:
    """The standard error of an AUC (Hanley and McNeil 1982), never below that of one misplaced row."""
    if not positive or not negative:
        return math.nan
    q1, q2 = value / (2 - value), 2 * value**2 / (1 + value)
    spread = value * (1 - value) + (positive - 1) * (q1 - value**2) + (negative - 1) * (q2 - value**2)
    return max(float(np.sqrt(max(spread, 0.0) / (positive * negative))), 0.5 / max(positive, negative))


def _groups(rows: Sequence[Row]) -> list[str] | None:
    if not any(row.group for row in rows):
        return None
    return [f"group {row.group}" if row.group else f"row {row.id}" for row in rows]


def ranking_z(ability: Skill, reference: Skill) -> float:
    """By how many standard errors a ROC-AUC exceeds another on the same rows; 0 where there is none, or where it is no
    better than chance."""
    if ability.value is None or reference.value is None or not ability.error or not reference.error:
        return 0.0
    if ability.above_chance < SURE:
        return 0.0
    return (ability.value - reference.value) / (math.sqrt(2) * max(ability.error, reference.error))
