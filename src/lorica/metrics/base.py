"""What a metric is: a check of its inputs, then a function from row weights to values.

The weights make the bootstrap fast: a resample is how often each row was drawn, and sorting, parsing and
comparing are done once for all resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Column = Sequence[Any] | NDArray[Any]

# counts [B, n]: how often each of n rows counts, in each of B resamples -> values [B]; nan where undefined.
Evaluator = Callable[[Floats], Floats]

# gold [n], prediction [n] -> the value of each row [n]. ValueError for what cannot be meant.
RowValues = Callable[[Column, Column], Floats]

# Row weights worked through together where each resample is computed by itself: 1 MB, which the second cache holds.
_SLICE_CELLS = 1 << 17


class Metric(msgspec.Struct, frozen=True):
    """One entry of the table.

    takes: what a prediction is: "score" (of class 1, on any scale), "probability" (a score in 0 to 1), "label", or
    "text" (against a tuple of accepted answers). prepare: checks and digests gold and prediction (ValueError for what
    cannot be meant); needs: what must hold for the value to exist, in words. normalisation: for texts, the name of what
    they are compared under. applies: whether it is defined on a row, by its gold; None: on every row. row_values: of a
    metric that is the mean of one value a row: these values, on which `prepare` rests.
    """

    name: str
    takes: Literal["score", "probability", "label", "text"]
    prepare: Callable[[Column, Column], Evaluator]
    higher_is_better: bool = True
    needs: str = "at least one row"
    normalisation: str = ""
    applies: Callable[[Any], bool] | None = None
    row_values: RowValues | None = None

    @property
    def takes_scores(self) -> bool:
        """Whether a prediction is a number for class 1, not an answer."""
        return self.takes in ("score", "probability")

    def __call__(self, gold_values: Column, predictions: Column) -> float:
        """The value over all rows; nan where it is undefined (`needs` says when). ValueError for bad input."""
        return float(self.prepare(gold_values, predictions)(np.ones((1, len(gold_values))))[0])


def check_lengths(gold_values: Column, predictions: Column) -> None:
    """Raises ValueError unless there are as many predictions as gold values."""
    if len(gold_values) != len(predictions):
        raise ValueError(
            f"{len(gold_values)} gold values and {len(predictions)} predictions; there must be as many of both"
        )


def ratio(numerator: Floats, denominator: Floats) -> Floats:
    """numerator / denominator, nan where the denominator is 0."""
    undefined = np.full(np.shape(denominator), np.nan)
    return np.asarray(np.divide(numerator, denominator, out=undefined, where=denominator != 0))


def row_slices(row_count: int, width: int) -> Iterator[slice]:
    """Slices of the rows of [row_count, width] that the second cache holds, in their order."""
    step = max(1, _SLICE_CELLS // max(width, 1))
    for first in range(0, row_count, step):
        yield slice(first, min(first + step, row_count))


def take_columns(counts: Floats, indices: NDArray[np.intp]) -> Floats:
    """counts[:, indices], laid out by columns as numpy lays that out: the last bit of a sum depends on it. This is
    faster."""
    return np.take(np.ascontiguousarray(counts.T), indices, axis=0).T


def mean_over_rows(row_values: RowValues) -> Callable[[Column, Column], Evaluator]:
    """What prepares a metric that is the mean of these values."""
    return lambda gold_values, predictions: mean_of(row_values(gold_values, predictions))


def mean_of(values: Floats) -> Evaluator:
    """The mean of one value per row; values [n]."""

    def mean(counts: Floats) -> Floats:
        return ratio(counts @ values, counts.sum(axis=1))

    return mean
