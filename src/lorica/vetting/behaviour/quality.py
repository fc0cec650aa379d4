"""How right replies are, and by how much two sets of replies to the same rows differ."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lorica.metrics.base import Column, Evaluator, Metric, mean_of
from lorica.metrics.bootstrap import estimate, paired_difference
from lorica.metrics.metric_table import METRICS
from lorica.records import Row
from lorica.tasks.base import Task
from lorica.vetting.behaviour.asking import Floats, Replies
from lorica.vetting.behaviour.measures import Interval, interval

RESAMPLES = 1_000
# Several things are compared at once, so each must be surer than usual.
STRICT = 0.99


def labelled(replies: Replies) -> Replies:
    """The replies to rows with a known gold choice."""
    known = {row.id for row, gold in zip(replies.rows, replies.gold.tolist(), strict=True) if gold >= 0}
    return replies.keep(known)


def choice_metric(task: Task) -> Metric:
    """What judges the choices of a task: its main metric, or accuracy where it judges written answers by that."""
    return METRICS["accuracy" if task.answer_type == "text" else task.metric_names[0]]


def columns(metric: Metric, replies: Replies) -> tuple[list[int], list[float]]:
    """gold and prediction as a metric takes them, of labelled replies."""
    if metric.takes == "score":
        # The first choice stands for label 1.
        scores = [float(each[0]) for each in replies.probabilities]
        return [int(gold == 0) for gold in replies.gold.tolist()], scores
    return replies.gold.tolist(), [float(best) for best in replies.best.tolist()]


def quality(task: Task, replies: Replies, confidence: float = 0.95) -> Interval:
    """The task's metric with its interval."""
    metric = choice_metric(task)
    gold, predicted = columns(metric, replies)
    found = estimate(metric, gold, predicted, resamples=RESAMPLES, confidence=confidence, groups=_groups(replies.rows))
    return interval(found)


def quality_value(task: Task, replies: Replies) -> float | None:
    """The task's metric alone."""
    metric = choice_metric(task)
    value = metric(*columns(metric, replies))
    return None if value != value else value


def quality_difference(task: Task, a: Replies, b: Replies, confidence: float = 0.95) -> Interval:
    """The metric of `a` minus that of `b`, replies to the same rows."""
    metric = choice_metric(task)
    gold, first = columns(metric, a)
    _, second = columns(metric, b)
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
