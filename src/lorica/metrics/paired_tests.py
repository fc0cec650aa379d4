"""Two sets of answers to the same rows: does their difference exceed the choice of rows?

The tests are paired, for both answered the same rows: an unpaired test takes the difficulty of the rows for noise and
misses most differences (Dror et al. 2018, aclanthology.org/P18-1128).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import numpy as np

from lorica.metrics.base import Column, Floats, Metric
from lorica.metrics.bootstrap import RESAMPLES, Estimate, MetricResamples, percentile_interval

SIGNIFICANCE = 0.05
# Standard errors that a difference must have to be shown at 5% in 80% of all samples: 1.960 + 0.842.
_DETECTABLE_ERRORS = 2.802


class PairedTest(msgspec.Struct, frozen=True):
    """difference: first minus second, with its interval. p_value: two-sided, of the paired bootstrap. detectable: the
    smallest difference that so many rows show at 5% four times in five; nan where resamples do not vary."""

    difference: Estimate
    p_value: float
    detectable: float


class McNemar(msgspec.Struct, frozen=True):
    """Rows that only the first, and only the second, answered right, and the exact two-sided p-value."""

    only_first: int
    only_second: int
    p_value: float


def paired_test(metric: Metric, drawn: MetricResamples, row_count: int, groups: Column | None) -> PairedTest:
    """The paired bootstrap test of a difference of two predictions on the same drawn rows (`MetricResamples.minus`).
    groups: [row_count], what was drawn together."""
    difference = percentile_interval(metric, drawn, row_count, groups=groups)
    defined = drawn.resampled[~np.isnan(drawn.resampled)]
    if math.isnan(drawn.value) or not len(defined):
        return PairedTest(difference, math.nan, math.nan)
    standard_error = float(defined.std())
    return PairedTest(difference, bootstrap_p_value(defined), _DETECTABLE_ERRORS * standard_error or math.nan)


def bootstrap_p_value(resampled_differences: Floats) -> float:
    """Two-sided p-value of a difference from its values on drawn rows, none of them nan: twice the smaller share on the
    other side of 0, counting the sample itself among them (Davison and Hinkley 1997, section 4.4); its least value is
    therefore 2 / (resamples + 1).
    """
    count = len(resampled_differences)
    tails = (int((resampled_differences <= 0).sum()), int((resampled_differences >= 0).sum()))
    return min(1.0, 2 * (1 + min(tails)) / (1 + count))


def resamples_for(pair_count: int) -> int:
    """Enough resamples for the least p-value of `bootstrap_p_value`, corrected for so many pairs, to be half of
    `SIGNIFICANCE`: with fewer no pair of many could ever be told apart."""
    return max(RESAMPLES, math.ceil(4 * pair_count / SIGNIFICANCE))


def mcnemar(first_is_right: Sequence[bool], second_is_right: Sequence[bool]) -> McNemar:
    """McNemar's exact test of two columns of right and wrong [n]; p is 1 where they are right in the same rows."""
    pairs = list(zip(first_is_right, second_is_right, strict=True))
    only_first, only_second = pairs.count((True, False)), pairs.count((False, True))
    discordant = only_first + only_second
    tail = sum(_binomial(discordant, hits) for hits in range(min(only_first, only_second) + 1))
    return McNemar(only_first, only_second, min(1.0, 2 * tail))


def _binomial(trials: int, hits: int) -> float:
    """P(hits of a fair coin in `trials`)."""
    combinations = math.lgamma(trials + 1) - math.lgamma(hits + 1) - math.lgamma(trials - hits + 1)
    return math.exp(combinations - trials * math.log(2))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number, in their order: below 0.05 all of them are wrong at once in at most 5% of
    all cases (Holm 1979). nan stays nan and counts for none."""
    ascending = sorted((p_value, index) for index, p_value in enumerate(p_values) if not math.isnan(p_value))
    corrected = [math.nan] * len(p_values)
    highest = 0.0
    for rank, (p_value, index) in enumerate(ascending):
        highest = max(highest, min(1.0, (len(ascending) - rank) * p_value))
        corrected[index] = highest
    return corrected
