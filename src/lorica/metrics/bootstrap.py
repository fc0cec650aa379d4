"""Confidence intervals by the percentile bootstrap: the metric on rows drawn again and again with replacement."""

from __future__ import annotations

import math
from collections.abc import Iterator

import msgspec
import numpy as np
from numpy.typing import NDArray

from lorica.metrics.base import Column, Evaluator, Floats, Metric, check_lengths, ratio

RESAMPLES = 2_000
CONFIDENCE = 0.95

# Row weights held at once: 16 MB of float64, small enough for the cache to help.
_CELLS = 2_000_000


class Estimate(msgspec.Struct, frozen=True):
    """A value with its interval (low, high) over n rows; nan where undefined, and `note` says why. groups: how many
    groups of rows the interval draws from, 0 where it draws rows."""

    value: float
    low: float
    high: float
    n: int
    note: str = ""
    groups: int = 0

    def __str__(self) -> str:
        if math.isnan(self.value):
            return f"undefined ({self.note})" if self.note else "undefined"
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def estimate(
    metric: Metric,
    gold_values: Column,
    predictions: Column,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    confidence: float = CONFIDENCE,
    groups: Column | None = None,
    weights: Floats | None = None,
) -> Estimate:
    """The metric with its percentile interval. Equal input and seed give an equal result.

    gold_values, predictions: [n]. groups: [n] names; whole groups are drawn, for rows that are not independent (one
    user, one question). weights: [n] from 0 on, how much each row counts wherever it is drawn. ValueError for bad
    input.
    """
    (drawn,) = metric_resamples(
        metric, gold_values, predictions, resamples=resamples, seed=seed, groups=groups, weights=weights
    )
    return percentile_interval(metric, drawn, len(gold_values), confidence, groups)


class MetricResamples(msgspec.Struct, frozen=True):
    """value: the metric on all rows. resampled: on the drawn rows, [resamples]; empty where `value` is nan."""

    value: float
    resampled: Floats

    def minus(self, other: MetricResamples) -> MetricResamples:
        """The difference of two metrics of the same drawn rows."""
        difference = self.value - other.value
        return MetricResamples(difference, np.empty(0) if math.isnan(difference) else self.resampled - other.resampled)


def metric_resamples(
    metric: Metric,
    gold_values: Column,
    *predictions: Column,
    resamples: int = RESAMPLES,
    seed: int = 0,
    groups: Column | None = None,
    weights: Floats | None = None,
) -> list[MetricResamples]:
    """The metric of each prediction [n] on all rows and on the same rows drawn again; see `estimate`. For the same
    gold, groups and seed the same rows are drawn in another call, too. Nothing is drawn where a value is nan."""
    evaluators = [
        weighted_evaluator(metric.prepare(gold_values, prediction), weights, len(gold_values))
        for prediction in predictions
    ]
    values = [float(evaluator(np.ones((1, len(gold_values))))[0]) for evaluator in evaluators]
    if any(map(math.isnan, values)):
        return [MetricResamples(value, np.empty(0)) for value in values]
    weight_blocks = draw_weights(len(gold_values), resamples, seed, groups)
    blocks = [[evaluator(counts) for evaluator in evaluators] for counts in weight_blocks]
    return [
        MetricResamples(value, np.concatenate(resampled))
        for value, resampled in zip(values, zip(*blocks, strict=True), strict=True)
    ]


def weighted_evaluator(evaluator: Evaluator, weights: Floats | None, row_count: int) -> Evaluator:
    """`evaluator` with row weights [n] in each resample. Raises ValueError for weights that are negative, not finite or
    not one for each row."""
    if weights is None:
        return evaluator
    row_weights = np.asarray(weights, dtype=np.float64)
    if row_weights.shape != (row_count,):
        raise ValueError(f"{row_count} rows and weights of shape {row_weights.shape}; there must be one for each row")
    if not np.isfinite(row_weights).all() or (row_weights < 0).any():
        raise ValueError("weights must be finite numbers from 0 on")
    return lambda counts: evaluator(counts * row_weights)


def paired_difference(
    metric: Metric,
    gold_values: Column,
    a: Column,
    b: Column,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    confidence: float = CONFIDENCE,
    groups: Column | None = None,
    weights: Floats | None = None,
) -> Estimate:
    """metric(gold_values, a) - metric(gold_values, b) with its interval, both on the same drawn rows; see `estimate`.

    An interval that excludes 0 means that the two differ by more than the choice of rows explains.
    """
    first, second = metric_resamples(
        metric, gold_values, a, b, resamples=resamples, seed=seed, groups=groups, weights=weights
    )
    return percentile_interval(metric, first.minus(second), len(gold_values), confidence, groups)


def averaged_over(metric: Metric, groups: Column) -> Metric:
    """The mean of the metric within each group, each group counted once whatever its size (column-averaged); of groups
    in which it is undefined nothing counts. groups: [n], the names of the rows it will be called with."""
    members: dict[object, list[int]] = {}
    for row_index, group_name in enumerate(groups):
        members.setdefault(group_name, []).append(row_index)

    def prepare(gold_values: Column, predictions: Column) -> Evaluator:
        check_lengths(gold_values, groups)
        check_lengths(gold_values, predictions)
        evaluators = [
            (
                row_indices,
                metric.prepare(
                    [gold_values[row_index] for row_index in row_indices],
                    [predictions[row_index] for row_index in row_indices],
                ),
            )
            for row_indices in members.values()
        ]

        def weighted(counts: Floats) -> Floats:
            values = np.stack([evaluator(counts[:, row_indices]) for row_indices, evaluator in evaluators])
            is_defined = ~np.isnan(values)
            return ratio(np.where(is_defined, values, 0.0).sum(axis=0), is_defined.sum(axis=0).astype(np.float64))

        return weighted

    return msgspec.structs.replace(metric, prepare=prepare)


def percentile_interval(
    metric: Metric,
    drawn: MetricResamples,
    row_count: int,
    confidence: float = CONFIDENCE,
    groups: Column | None = None,
) -> Estimate:
    """The value with the interval of its resampled values; undefined, with the reason, where the value is nan. groups:
    [row_count], what was drawn together."""
    group_count = 0 if groups is None else len(set(groups))
    undefined = Estimate(drawn.value, math.nan, math.nan, row_count, groups=group_count)
    if math.isnan(drawn.value):
        return msgspec.structs.replace(undefined, note=f"{metric.name} needs {metric.needs}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence {confidence}; allowed: between 0 and 1")
    defined_values = drawn.resampled[~np.isnan(drawn.resampled)]
    if not len(defined_values):
        return msgspec.structs.replace(undefined, note="no resample had a value")
    lower_bound, upper_bound = np.quantile(defined_values, [(1 - confidence) / 2, (1 + confidence) / 2])
    notes = []
    if len(defined_values) < len(drawn.resampled):
        notes.append(f"{len(drawn.resampled) - len(defined_values)} of {len(drawn.resampled)} resamples had no value")
    if lower_bound == upper_bound:
        notes.append("all resamples agree: the interval says nothing about rows not seen")
    return Estimate(drawn.value, float(lower_bound), float(upper_bound), row_count, "; ".join(notes), group_count)


def draw_weights(row_count: int, resamples: int, seed: int, groups: Column | None) -> Iterator[Floats]:
    """Blocks [b, row_count] of how often each row was drawn; `resamples` rows of them in all."""
    if resamples < 1:
        raise ValueError(f"resamples {resamples}; allowed: 1 or more")
    generator = np.random.default_rng(seed)
    block_size = max(1, min(resamples, _CELLS // max(row_count, 1)))
    group_codes = None if groups is None else _codes(groups, row_count)
    for first_resample in range(0, resamples, block_size):
        resample_count = min(block_size, resamples - first_resample)
        if group_codes is None:
            yield _counts(generator, resample_count, row_count)
        else:
            yield _counts(generator, resample_count, int(group_codes.max(initial=-1)) + 1)[:, group_codes]


def _counts(generator: np.random.Generator, size: int, n: int) -> Floats:
    """[size, n]: how often each of n things comes up in n draws."""
    drawn_items = generator.integers(0, n, size=(size, n)) + np.arange(size)[:, None] * n
    return np.bincount(drawn_items.ravel(), minlength=size * n).reshape(size, n).astype(np.float64)


def _codes(group_names: Column, row_count: int) -> NDArray[np.intp]:
    """Names [n] -> numbers from 0 [n]."""
    if len(group_names) != row_count:
        raise ValueError(f"{row_count} rows and {len(group_names)} group names; there must be as many of both")
    code_of_group: dict[object, int] = {}
    return np.array([code_of_group.setdefault(name, len(code_of_group)) for name in group_names], dtype=np.intp)
