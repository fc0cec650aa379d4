"""What a metric is: a check of its inputs, then a function from row weights to values.

The weights make the bootstrap fast: a resample is how often each row was drawn, and sorting, parsing and
comparing are done once for all resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Column = Sequence[Any] | NDArray[Any]

# counts [B, n]: how often each of n rows counts, in each of B resamples -> values [B]; nan where undefined.
Evaluator = Callable[[Floats], Floats]


class Metric(msgspec.Struct, frozen=True):
    """One entry of the table.

    takes: what a prediction is: "score" (of class 1, on any scale), "probability" (a score in 0 to 1), "label", or
    "text" (against a tuple of accepted answers). prepare: checks and digests gold and prediction (ValueError for what
    cannot be meant); needs: what must hold for the value to exist, in words. normalisation: for texts, the name of what
    they are compared under. applies: whether it is defined on a row, by its gold; None: on every row.
    """

    name: str
    takes: Literal["score", "probability", "label", "text"]
    prepare: Callable[[Column, Column], Evaluator]
    higher_is_better: bool = True
    needs: str = "at least one row"
    normalisation: str = ""
    applies: Callable[[Any], bool] | None = None

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


def mean_of(values: Floats) -> Evaluator:
    """The mean of one value per row; values [n]."""

    def mean(counts: Floats) -> Floats:
        return ratio(counts @ values, counts.sum(axis=1))

    return mean
