"""Judged answers by column, so that each group of rows is measured on a part of what was read and compared once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from lorica.metrics.base import Column, Evaluator, Floats, Metric, mean_of
from lorica.metrics.bootstrap import MetricInputs
from lorica.pipeline.judged_answers import JudgedAnswer, bootstrap_clusters, row_weights

# Rows whose texts all metrics compare before the next rows' turn: what reads texts remembers as many.
_TEXTS_TOGETHER = 1024

Indices = NDArray[np.intp]


class JudgedTable:
    """The columns [n] that metrics are measured on."""

    def __init__(self, judged: Sequence[JudgedAnswer], metrics: Sequence[Metric]) -> None:
        """metrics: all that may be measured; answers are compared with gold here, once. Raises ValueError for gold that
        a metric cannot take."""
        self._gold: list[Any] = [judged_row.row.gold for judged_row in judged]
        self._values: list[Any] = [judged_row.value for judged_row in judged]
        self._scores = [judged_row.answer.score for judged_row in judged]
        self._has_score = np.array([score is not None for score in self._scores], dtype=bool)
        self._weights = row_weights(judged)
        rows = [judged_row.row for judged_row in judged]
        self._clusters = bootstrap_clusters(rows)
        self._has_group = np.array([bool(row.group) for row in rows], dtype=bool)
        self._applies: dict[Callable[[Any], bool], NDArray[np.bool_]] = {}
        self._compared = self._compare(metrics)

    @property
    def all_rows(self) -> Indices:
        """Of every row."""
        return np.arange(len(self._gold))

    def measured_rows(self, metric: Metric, indices: Indices) -> Indices:
        """Those of these rows that the metric is measured on."""
        if metric.takes_scores:
            indices = indices[self._has_score[indices]]
        if metric.applies is not None:
            indices = indices[self._applying(metric.applies)[indices]]
        return indices

    def clusters(self, indices: Indices) -> list[str] | None:
        """What is drawn together of these rows; None where every row stands for itself."""
        if self._clusters is None or not self._has_group[indices].any():
            return None
        return _taken(self._clusters, indices)

    def measured(self, metric: Metric, indices: Indices, clusters: Sequence[str] | None) -> MetricInputs:
        """A metric on rows that it is measured on, these being drawn in these clusters."""
        weights = None if self._weights is None else self._weights[indices]
        if weights is not None and (weights == 1).all():
            weights = None
        gold, compared = _taken(self._gold, indices), self._compared.get(metric.name)
        if compared is not None:
            metric = msgspec.structs.replace(metric, prepare=_prepare_compared)
            return MetricInputs(metric, gold, compared[indices], clusters, weights)
        predicted = self._scores if metric.takes_scores else self._values
        return MetricInputs(metric, gold, _taken(predicted, indices), clusters, weights)

    def _applying(self, applies: Callable[[Any], bool]) -> NDArray[np.bool_]:
        if applies not in self._applies:
            self._applies[applies] = np.array([applies(gold) for gold in self._gold], dtype=bool)
        return self._applies[applies]

    def _compare(self, metrics: Sequence[Metric]) -> dict[str, Floats]:
        """Metric that is the mean of one value a row -> these values [n], nan where it is not measured."""
        row_values = {metric: metric.row_values for metric in metrics if metric.row_values is not None}
        compared = {metric.name: np.full(len(self._gold), np.nan) for metric in row_values}
        for first in range(0, len(self._gold), _TEXTS_TOGETHER):
            together = np.arange(first, min(first + _TEXTS_TOGETHER, len(self._gold)))
            for metric, values_of in row_values.items():
                indices = self.measured_rows(metric, together)
                gold, values = _taken(self._gold, indices), _taken(self._values, indices)
                compared[metric.name][indices] = values_of(gold, values)
        return compared


def _taken(column: Sequence[Any], indices: Indices) -> list[Any]:
    return [column[index] for index in indices.tolist()]


def _prepare_compared(gold: Column, row_values: Column) -> Evaluator:
    return mean_of(np.asarray(row_values, dtype=np.float64))
