"""How right scored rows are, and by how much two scorings of the same rows differ."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lorica.metrics.base import Column, Evaluator, Metric, mean_of
from lorica.metrics.bootstrap import estimate, paired_difference
from lorica.metrics.metric_table import METRICS
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
    return scored.gold.tolist(), [float(best_choice) for best_choice in scored.best.tolist()]


def quality(scored: ScoredRows, confidence: float = 0.95) -> Interval:
    """The metric of labelled rows with its bootstrap interval."""
    return _interval(scored.metric, *columns(scored), scored.rows, confidence)


def accuracy(scored: ScoredRows) -> Interval:
    """How often the most probable choice of labelled rows is right, with its 95% bootstrap interval."""
    best = [float(choice) for choice in scored.best.tolist()]
    return _interval(METRICS["accuracy"], scored.gold.tolist(), best, scored.rows, 0.95)


def skill(scored: ScoredRows) -> Skill:
    """The metric of labelled rows, and for ROC-AUC its standard error."""
    gold, predicted = columns(scored)
    metric_value = scored.metric(gold, predicted)
    if math.isnan(metric_value):
        return Skill(None, None)
    positive = sum(gold)
    return Skill(metric_value, auc_error(metric_value, positive, len(gold) - positive) if scored.is_ranking else None)


def quality_difference(own_scores: ScoredRows, reference: ScoredRows, confidence: float = 0.95) -> Interval:
    """The metric of `own_scores` minus that of `reference`, on the same labelled rows."""
    own_columns, (_, reference_predictions) = columns(own_scores), columns(reference)
    return _interval(own_scores.metric, *own_columns, own_scores.rows, confidence, reference_predictions)


def mean_difference(
    own_values: Floats, other_values: Floats, rows: Sequence[Row], confidence: float = STRICT
) -> Interval:
    """mean(own_values) - mean(other_values) over the same rows; [n] each."""
    return _interval(_MEAN, [0] * len(rows), own_values, rows, confidence, other_values)


def _interval(
    metric: Metric,
    gold: Column,
    predicted: Column,
    rows: Sequence[Row],
    confidence: float,
    reference: Column | None = None,
) -> Interval:
    """A metric with its bootstrap interval over rows, or over the groups that they are in; reference: less the metric
    of these predictions, paired."""
    groups = None
    if any(row.group for row in rows):
        groups = [f"group {row.group}" if row.group else f"row {row.id}" for row in rows]
    if reference is None:
        return interval(estimate(metric, gold, predicted, resamples=RESAMPLES, confidence=confidence, groups=groups))
    difference = paired_difference(
        metric, gold, predicted, reference, resamples=RESAMPLES, confidence=confidence, groups=groups
    )
    return interval(difference)


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


def centred(log_odds: Floats, is_first: NDArray[np.bool_]) -> Floats:
    """Log-probability of the gold choices [n] from log-odds [n] of the first choice, all shifted by the constant that
    makes the gold choices most probable. is_first [n]: whether the gold is the first choice."""
    gold_signs = np.where(is_first, 1.0, -1.0)
    lower_shift, upper_shift = -float(np.abs(log_odds).max()) - 10.0, float(np.abs(log_odds).max()) + 10.0
    for _ in range(60):  # the slope falls with the shift: halve until it is zero
        shift = (lower_shift + upper_shift) / 2
        slope = float(np.sum(gold_signs / (1 + np.exp(np.clip(gold_signs * (log_odds + shift), -700, 700)))))
        lower_shift, upper_shift = (shift, upper_shift) if slope > 0 else (lower_shift, shift)
    return np.asarray(-np.logaddexp(0.0, -gold_signs * (log_odds + (lower_shift + upper_shift) / 2)))


def compare(scored: ScoredRows, reference: ScoredRows) -> Comparison:
    """How much more probable the gold choices are than in `reference`, on the same labelled rows."""
    return paired(gold_logprobs(scored) - gold_logprobs(reference))


def paired(difference: Floats) -> Comparison:
    """Mean of paired differences [n], and over its standard error."""
    mean_gain = float(difference.mean()) if len(difference) else 0.0
    deviation = float(difference.std(ddof=1)) if len(difference) > 1 else 0.0
    standard_error = deviation / np.sqrt(len(difference)) if len(difference) else 0.0
    if standard_error < 1e-12:
        return Comparison(mean_gain, 0.0 if abs(mean_gain) < 1e-9 else float(np.sign(mean_gain)) * 100.0)
    return Comparison(mean_gain, float(mean_gain / standard_error))


def auc_error(auc_value: float, positive: int, negative: int) -> float:
    """The standard error of an AUC (Hanley and McNeil 1982), never below that of one misplaced row."""
    if not positive or not negative:
        return math.nan
    q1, q2 = auc_value / (2 - auc_value), 2 * auc_value**2 / (1 + auc_value)
    variance = auc_value * (1 - auc_value) + (positive - 1) * (q1 - auc_value**2) + (negative - 1) * (q2 - auc_value**2)
    return max(float(np.sqrt(max(variance, 0.0) / (positive * negative))), 0.5 / max(positive, negative))


def ranking_z(ability: Skill, reference: Skill) -> float:
    """By how many standard errors a ROC-AUC exceeds another on the same rows; 0 where there is none, or where it is no
    better than chance."""
    if ability.value is None or reference.value is None or not ability.error or not reference.error:
        return 0.0
    if ability.above_chance < SURE:
        return 0.0
    return (ability.value - reference.value) / (math.sqrt(2) * max(ability.error, reference.error))
