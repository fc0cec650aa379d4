"""Confidence intervals by the percentile bootstrap: the metric on rows drawn again and again with replacement."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from lorica.metrics.base import Column, Evaluator, Floats, Metric, check_lengths, ratio, row_slices, take_columns

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


class MetricInputs(msgspec.Struct, frozen=True):
    """A metric with what it is measured on.

    gold, predictions: [n]. groups: [n] names; whole groups are drawn, for rows that are not independent (one user, one
    question). weights: [n] from 0 on, how much each row counts wherever it is drawn.
    """

    metric: Metric
    gold: Column
    predictions: Column
    groups: Column | None = None
    weights: Floats | None = None

    def evaluator(self) -> Evaluator:
        """The metric as a function of how often each row was drawn. ValueError for bad input."""
        prepared = self.metric.prepare(self.gold, self.predictions)
        return weighted_evaluator(prepared, self.weights, len(self.gold))


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

    gold_values, predictions, groups, weights: see `MetricInputs`. ValueError for bad input.
    """
    measured = MetricInputs(metric, gold_values, predictions, groups, weights)
    return estimate_all([measured], resamples=resamples, seed=seed, confidence=confidence)[0]


def estimate_all(
    measured: Sequence[MetricInputs], *, resamples: int = RESAMPLES, seed: int = 0, confidence: float = CONFIDENCE
) -> list[Estimate]:
    """Each as `estimate` has it, to the last bit; those that draw as many rows in the same groups share what is
    drawn."""
    members: dict[tuple[int, tuple[object, ...] | None], list[int]] = {}
    for index, item in enumerate(measured):
        drawn_names = None if item.groups is None else tuple(item.groups)
        members.setdefault((len(item.gold), drawn_names), []).append(index)
    estimates: dict[int, Estimate] = {}
    for (row_count, _), indices in members.items():
        groups = measured[indices[0]].groups
        evaluators = [measured[index].evaluator() for index in indices]
        drawn = _resample(evaluators, row_count, resamples=resamples, seed=seed, groups=groups)
        for index, metric_drawn in zip(indices, drawn, strict=True):
            estimates[index] = percentile_interval(measured[index].metric, metric_drawn, row_count, confidence, groups)
    return [estimates[index] for index in range(len(measured))]


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
    gold, groups and seed the same rows are drawn in another call, too. Nothing is drawn for a value that is nan."""
    evaluators = [
        MetricInputs(metric, gold_values, prediction, groups, weights).evaluator() for prediction in predictions
    ]
    return _resample(evaluators, len(gold_values), resamples=resamples, seed=seed, groups=groups)


def _resample(
    evaluators: Sequence[Evaluator], row_count: int, *, resamples: int, seed: int, groups: Column | None
) -> list[MetricResamples]:
    """Each evaluator on all rows, and on the same rows drawn again where its value on all rows is a number."""
    values = [float(evaluator(np.ones((1, row_count)))[0]) for evaluator in evaluators]
    resampled: list[list[Floats]] = [[] for _ in evaluators]
    defined = [index for index, value in enumerate(values) if not math.isnan(value)]
    for counts in draw_weights(row_count, resamples, seed, groups) if defined else ():
        for index in defined:
            resampled[index].append(evaluators[index](counts))
    return [
        MetricResamples(value, np.concatenate(blocks) if blocks else np.empty(0))
        for value, blocks in zip(values, resampled, strict=True)
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
                np.array(row_indices, dtype=np.intp),
                metric.prepare(
                    [gold_values[row_index] for row_index in row_indices],
                    [predictions[row_index] for row_index in row_indices],
                ),
            )
            for row_indices in members.values()
        ]

        def weighted(counts: Floats) -> Floats:
            values = np.stack([evaluator(take_columns(counts, row_indices)) for row_indices, evaluator in evaluators])
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
            group_counts = _counts(generator, resample_count, int(group_codes.max(initial=-1)) + 1)
            yield take_columns(group_counts, group_codes)


def _counts(generator: np.random.Generator, size: int, n: int) -> Floats:
    """[size, n]: how often each of n things comes up in n draws."""
    counts = np.empty((size, n))
    for rows in row_slices(size, n):
        drawn_items = generator.integers(0, n, size=(rows.stop - rows.start, n))
        drawn_items += np.arange(len(drawn_items))[:, None] * n
        drawn_counts = np.bincount(drawn_items.ravel(), minlength=drawn_items.size)
        counts[rows] = drawn_counts.reshape(drawn_items.shape)
    return counts


def _codes(group_names: Column, row_count: int) -> NDArray[np.intp]:
    """Names [n] -> numbers from 0 [n]."""
    if len(group_names) != row_count:
        raise ValueError(f"{row_count} rows and {len(group_names)} group names; there must be as many of both")
    code_of_group: dict[object, int] = {}
    return np.array([code_of_group.setdefault(name, len(code_of_group)) for name in group_names], dtype=np.intp)
