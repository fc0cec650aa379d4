"""Curves behind the metrics of scores: ROC and precision over recall with bootstrap bands, histograms."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np
from numpy.typing import NDArray

from lorica.metrics.base import Column, Floats
from lorica.metrics.bootstrap import draw_weights
from lorica.metrics.score_metrics import sort_by_score

GRID = 101
BAND_RESAMPLES = 200


class Curve(msgspec.Struct, frozen=True):
    """y over x, both [n], with the pointwise 95% band low to high [n]; nan where undefined."""

    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


def roc_curve(
    gold_labels: Column, scores: Column, *, seed: int = 0, groups: Column | None = None, weights: Floats | None = None
) -> Curve | None:
    """True-positive over false-positive rate on a grid of `GRID`; None where a class is missing.

    gold_labels: [n] of 0 and 1. scores: [n], any scale. groups: [n], drawn whole in the band's resamples. weights: [n]
    of rows, from 0 on.
    """
    return _curve(gold_labels, scores, _true_positive_rates, seed, groups, weights)


def precision_curve(
    gold_labels: Column, scores: Column, *, seed: int = 0, groups: Column | None = None, weights: Floats | None = None
) -> Curve | None:
    """Precision over recall: at each recall of a grid the precision of the shortest list that reaches it."""
    return _curve(gold_labels, scores, _precisions, seed, groups, weights)


def score_histogram(scores: Column, bins: int, low: float, high: float) -> tuple[float, ...]:
    """The share of scores [n] in each of `bins` bins of equal width over low to high."""
    counts, _ = np.histogram(np.asarray(scores, dtype=np.float64), bins=bins, range=(low, high))
    return tuple((counts / max(counts.sum(), 1)).tolist())


class _Ranked(msgspec.Struct, frozen=True):
    """Rows in descending order of score: order [n], labels [n], ends: the last row of each group of equal scores."""

    order: NDArray[np.intp]
    labels: Floats
    ends: NDArray[np.intp]

    def counts(self, weights: Floats) -> tuple[Floats, Floats]:
        """True and false positives at each distinct threshold, for row weights [n]."""
        drawn = weights[self.order]
        true_positives = np.cumsum(drawn * self.labels)[self.ends]
        return true_positives, np.cumsum(drawn)[self.ends] - true_positives


def _curve(
    gold_labels: Column,
    scores: Column,
    measure: Callable[[tuple[Floats, Floats], Floats], Floats],
    seed: int,
    groups: Column | None,
    weights: Floats | None,
) -> Curve | None:
    """measure: true and false positives at each threshold, and the grid [GRID] -> values on the grid."""
    labels, starts, order = sort_by_score(gold_labels, scores, descending=True)
    if labels.min(initial=1) == labels.max(initial=0):
        return None
    ranked = _Ranked(order, labels, np.append(starts[1:], len(labels)) - 1)
    grid = np.linspace(0, 1, GRID)
    row_weights = np.ones(len(labels)) if weights is None else np.asarray(weights)
    values = measure(ranked.counts(row_weights), grid)
    band = np.stack(
        [
            measure(ranked.counts(drawn * row_weights), grid)
            for block in draw_weights(len(labels), BAND_RESAMPLES, seed, groups)
            for drawn in block
        ]
    )
    with np.errstate(all="ignore"):
        low, high = np.nanquantile(band, [0.025, 0.975], axis=0)
    return Curve(*(tuple(column.tolist()) for column in (grid, values, low, high)))


def _true_positive_rates(counts: tuple[Floats, Floats], grid: Floats) -> Floats:
    true_positives, false_positives = (np.concatenate(([0.0], column)) for column in counts)
    if not true_positives[-1] or not false_positives[-1]:
        return np.full(len(grid), np.nan)
    return np.asarray(np.interp(grid, false_positives / false_positives[-1], true_positives / true_positives[-1]))


def _precisions(counts: tuple[Floats, Floats], grid: Floats) -> Floats:
    true_positives, false_positives = counts
    if not true_positives[-1]:
        return np.full(len(grid), np.nan)
    totals = true_positives + false_positives
    precisions = np.divide(true_positives, totals, out=np.ones_like(totals), where=totals > 0)
    reached = np.searchsorted(true_positives / true_positives[-1], np.maximum(grid, 1e-12), side="left")
    return np.asarray(precisions[np.minimum(reached, len(precisions) - 1)])
