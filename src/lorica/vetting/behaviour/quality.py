"""How right replies are, and by how much two sets of replies to the same rows differ."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lorica.metrics.base import Column, Evaluator, Metric, mean_of
from lorica.metrics.bootstrap import estimate, paired_difference
from lorica.metrics.table import METRICS
from lorica.records import Row
from lorica.vetting.behaviour.asking import Floats, Replies
from lorica.vetting.behaviour.measures import Interval, interval

RESAMPLES = 1_000
# Several things are compared at once, so each must be surer than usual.
STRICT = 0.99


def labelled(replies: Replies) -> Replies:
    """The replies to rows with a known gold choice."""
    known = {row.id for row, gold in zip(replies.rows, replies.gold.tolist(), strict=True) if gold >= 0}
    return replies.keep(known)


def metric_name(task: str) -> str:
    """What judges the choices of a task."""
    return "roc_auc" if task == "rules" else "accuracy"


def columns(task: str, replies: Replies) -> tuple[list[int], list[float]]:
    """gold and prediction for the task's metric, of labelled replies."""
    if task == "rules":
        # The first choice says that the rule is broken, which is gold 1.
        scores = [float(each[0]) for each in replies.probabilities]
        return [int(gold == 0) for gold in replies.gold.tolist()], scores
    return replies.gold.tolist(), [float(best) for best in replies.best.tolist()]


def quality(task: str, replies: Replies, confidence: float = 0.95) -> Interval:
    """The task's metric with its interval."""
    gold, predicted = columns(task, replies)
    metric = METRICS[metric_name(task)]
    found = estimate(metric, gold, predicted, resamples=RESAMPLES, confidence=confidence, groups=_groups(replies.rows))
    return interval(found)


def quality_value(task: str, replies: Replies) -> float | None:
    """The task's metric alone."""
    gold, predicted = columns(task, replies)
    value = METRICS[metric_name(task)](gold, predicted)
    return None if value != value else value


def quality_difference(task: str, a: Replies, b: Replies, confidence: float = 0.95) -> Interval:
    """The metric of `a` minus that of `b`, replies to the same rows."""
    gold, first = columns(task, a)
    _, second = columns(task, b)
    metric = METRICS[metric_name(task)]
    groups = _groups(a.rows)
    found = paired_difference(metric, gold, first, second, resamples=RESAMPLES, confidence=confidence, groups=groups)
    return interval(found)


def mean_difference(a: Floats, b: Floats, rows: Sequence[Row], confidence: float = STRICT) -> Interval:
    """mean(a) - mean(b) over the same rows; [n] each."""
    zero = [0] * len(rows)
    groups = _groups(rows)
    found = paired_difference(_MEAN, zero, a, b, resamples=RESAMPLES, confidence=confidence, groups=groups)
    return interval(found)


def _mean(gold: Column, values: Column) -> Evaluator:
    return mean_of(np.asarray(values, dtype=np.float64))


_MEAN = Metric("mean", "score", _mean)


def _groups(rows: Sequence[Row]) -> list[str] | None:
    if not any(row.group for row in rows):
        return None
    return [f"group {row.group}" if row.group else f"row {row.id}" for row in rows]
