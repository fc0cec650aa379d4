"""What out-of-fold answers are worth: each fold's metrics, their mean and spread, and those of all rows together."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lorica.ensemble.blends import unit_ranks
from lorica.metrics.base import Metric
from lorica.metrics.bootstrap import Estimate, paired_difference
from lorica.metrics.metric_table import find_metric
from lorica.pipeline.evaluate import estimate_metric
from lorica.pipeline.judged_answers import JudgedAnswer, bootstrap_clusters, metric_columns
from lorica.tasks.base import Task


@dataclass(frozen=True)
class FoldScores:
    """The metrics of one fold's held-out rows, the task's main metric first."""

    fold: int
    rows: int
    metrics: Mapping[str, Estimate]


@dataclass(frozen=True)
class FoldTable:
    """mean, spread: metric -> mean and sample standard deviation over the folds where it is defined; nan where it is in
    none, or in one alone. pooled: the metrics of all rows, each scored by the fold that did not see it; a metric of
    ranking compares scores of different models there. pooling_cost: what that takes off the main metric, against the
    same scores ranked within their folds, on the same rows; None where the main metric does not rank."""

    metric: str
    folds: tuple[FoldScores, ...]
    mean: Mapping[str, float]
    spread: Mapping[str, float]
    pooled: Mapping[str, Estimate]
    pooling_cost: Estimate | None = None

    @property
    def best(self) -> int:
        """The fold whose held-out rows have the best main metric; the first where none is defined."""
        sign = 1 if find_metric(self.metric).higher_is_better else -1
        defined = [scores for scores in self.folds if not math.isnan(scores.metrics[self.metric].value)]
        return max(
            defined or self.folds[:1], key=lambda scores: (sign * scores.metrics[self.metric].value, -scores.fold)
        ).fold


def measure_folds(task: Task, judged: Sequence[JudgedAnswer], folds: Sequence[int]) -> FoldTable:
    """judged: [n] out-of-fold answers; folds: [n] the fold in which each row was held out, from 1."""
    metrics = [find_metric(name) for name in task.metric_names]
    by_fold: dict[int, list[JudgedAnswer]] = {}
    for judged_row, fold in zip(judged, folds, strict=True):
        by_fold.setdefault(fold, []).append(judged_row)
    scores = tuple(
        FoldScores(
            fold,
            len(by_fold[fold]),
            {metric.name: estimate_metric(metric, by_fold[fold], 0, within=True) for metric in metrics},
        )
        for fold in sorted(by_fold)
    )
    values = {
        metric.name: [value for fold in scores if not math.isnan(value := fold.metrics[metric.name].value)]
        for metric in metrics
    }
    return FoldTable(
        metrics[0].name,
        scores,
        mean={name: statistics.fmean(numbers) if numbers else math.nan for name, numbers in values.items()},
        spread={name: statistics.stdev(numbers) if len(numbers) > 1 else math.nan for name, numbers in values.items()},
        pooled={metric.name: estimate_metric(metric, judged, 0) for metric in metrics},
        pooling_cost=_pooling_cost(metrics[0], judged, folds) if metrics[0].takes == "score" else None,
    )


def _pooling_cost(metric: Metric, judged: Sequence[JudgedAnswer], folds: Sequence[int]) -> Estimate | None:
    columns = metric_columns(metric, judged)
    if not columns.rows:
        return None
    fold_of = {judged_row.row.id: str(fold) for judged_row, fold in zip(judged, folds, strict=True)}
    ranks = unit_ranks(np.asarray(columns.predicted, dtype=np.float64), [fold_of[row.id] for row in columns.rows])
    return paired_difference(
        metric, columns.gold, ranks, columns.predicted, groups=bootstrap_clusters(columns.rows), weights=columns.weights
    )
