"""Rows with weights: every metric, interval, threshold and curve against scikit-learn with `sample_weight`."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score
from tools.metric_oracles import (
    ORACLES,
    largest_average_difference,
    largest_difference,
    largest_threshold_difference,
    mcnemar_difference,
)

from lorica.metrics.bootstrap import averaged_over, estimate, paired_difference
from lorica.metrics.metric_table import METRICS
from lorica.metrics.operating_points import operating_points, reliability_curve
from lorica.metrics.score_curves import precision_curve, roc_curve

AUC = METRICS["roc_auc"]


@pytest.mark.parametrize("name", ORACLES)
def test_metrics_of_weighted_rows_are_those_of_scikit_learn(name: str) -> None:
    assert largest_difference(name, 100, seed=11) < 1e-12


def test_column_averages_thresholds_and_mcnemar_have_oracles() -> None:
    assert largest_average_difference(100, seed=12) < 1e-12
    assert largest_threshold_difference(100, seed=13) < 1e-12
    assert mcnemar_difference(50) < 1e-11


def test_a_weight_of_two_is_the_row_twice() -> None:
    draw = np.random.default_rng(0)
    gold, scores, weights = draw.integers(0, 2, 60), draw.random(60), draw.integers(0, 4, 60).astype(np.float64)
    repeated = np.repeat(np.arange(60), weights.astype(int))
    curve, twice = roc_curve(gold, scores, weights=weights), roc_curve(gold[repeated], scores[repeated])
    assert curve is not None
    assert twice is not None
    assert curve.y == pytest.approx(twice.y)
    curve, twice = precision_curve(gold, scores, weights=weights), precision_curve(gold[repeated], scores[repeated])
    assert curve is not None
    assert twice is not None
    assert curve.y == pytest.approx(twice.y)
    for weighted_bin, bin_ in zip(
        reliability_curve(gold, scores, weights), reliability_curve(gold[repeated], scores[repeated]), strict=True
    ):
        assert (weighted_bin.mean_probability, weighted_bin.share) == pytest.approx((bin_.mean_probability, bin_.share))


def test_each_resample_weighs_the_rows_it_draws() -> None:
    draw = np.random.default_rng(1)
    gold, scores, other, weights = draw.integers(0, 2, 50), draw.random(50), draw.random(50), draw.random(50)
    drawn = np.random.default_rng(3).integers(0, 50, size=(200, 50))
    values = [
        [roc_auc_score(gold[rows], column[rows], sample_weight=weights[rows]) for rows in drawn]
        for column in (scores, other)
    ]
    interval = estimate(AUC, gold, scores, resamples=200, seed=3, weights=weights)
    assert [interval.low, interval.high] == pytest.approx(np.quantile(values[0], [0.025, 0.975]).tolist())
    difference = paired_difference(AUC, gold, scores, other, resamples=200, seed=3, weights=weights)
    spread = np.quantile(np.array(values[0]) - np.array(values[1]), [0.025, 0.975])
    assert [difference.low, difference.high] == pytest.approx(spread.tolist())


@pytest.mark.parametrize("weights", [[1.0, -1.0], [1.0, np.nan], [1.0, np.inf], [1.0]])
def test_what_is_no_weight_is_refused(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="weights"):
        estimate(AUC, [0, 1], [0.1, 0.2], weights=np.array(weights))


def test_the_mean_over_groups_has_an_interval_of_its_own() -> None:
    draw = np.random.default_rng(4)
    rules, gold, scores = np.arange(90) % 3, draw.integers(0, 2, 90), draw.random(90)
    metric = averaged_over(METRICS["average_precision"], rules)
    mean = estimate(metric, gold, scores, resamples=100)
    expected = [average_precision_score(gold[rules == rule], scores[rules == rule]) for rule in range(3)]
    assert mean.value == pytest.approx(np.mean(expected))
    assert mean.low < mean.value < mean.high
    assert mean.n == 90


def test_an_estimate_says_how_many_groups_it_draws() -> None:
    gold, scores, groups = [0, 1, 0, 1], [0.1, 0.9, 0.4, 0.3], ["a", "a", "b", "c"]
    assert estimate(AUC, gold, scores, resamples=20, groups=groups).groups == 3
    assert paired_difference(AUC, gold, scores, scores, resamples=20, groups=groups).groups == 3
    assert estimate(AUC, gold, scores, resamples=20).groups == 0


def test_a_threshold_may_reach_its_false_positive_rate_to_the_last_row() -> None:
    """0.29 * 100 is 28.999999999999996 in floating point."""
    gold = [1] + [0] * 100
    (point,) = operating_points(gold, [200.0, *map(float, range(100, 0, -1))], [0.29])
    assert (point.fpr, point.threshold) == (0.29, 72.0)


def test_so_it_may_where_rows_have_weights() -> None:
    """Ten times 0.1 is 0.9999999999999999, and the first three are 0.30000000000000004."""
    gold, scores, weights = [1] + [0] * 10, [200.0, *map(float, range(10, 0, -1))], np.full(11, 0.1)
    for max_fpr in (0.1, 0.3, 0.7, 1.0):
        (weighted,) = operating_points(gold, scores, [max_fpr], weights)
        assert weighted.threshold == operating_points(gold, scores, [max_fpr])[0].threshold
