"""Thresholds against scikit-learn's ROC curve, the calibration error against its calibration curve."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from sklearn.metrics import precision_score, roc_curve

from lorica.metrics.metric_table import METRICS
from lorica.metrics.operating_points import operating_points, reliability_curve

SCORES = st.one_of(st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.floats(0, 1))
ROWS = st.lists(st.tuples(st.integers(0, 1), SCORES), min_size=2, max_size=40).filter(
    lambda rows: len({label for label, _ in rows}) == 2
)


@settings(max_examples=200, deadline=None)
@given(rows=ROWS, max_fpr=st.floats(0, 1))
def test_the_threshold_is_the_best_that_keeps_to_the_rate(rows: list[tuple[int, float]], max_fpr: float) -> None:
    gold, scores = (np.array(column) for column in zip(*rows, strict=True))
    (point,) = operating_points(gold, scores, [max_fpr])
    fpr, tpr, _ = roc_curve(gold, scores, drop_intermediate=False)
    assert point.fpr <= max_fpr
    assert point.tpr == pytest.approx(tpr[fpr <= max_fpr].max())
    predicted = (scores >= point.threshold).astype(int)
    assert (predicted * (1 - gold)).sum() / (1 - gold).sum() == pytest.approx(point.fpr)
    expected: Any = precision_score(gold, predicted, zero_division=math.nan)
    assert point.precision == pytest.approx(expected, nan_ok=True)


@settings(max_examples=200, deadline=None)
@given(rows=ROWS)
def test_reliability_and_its_error(rows: list[tuple[int, float]]) -> None:
    gold, scores = (np.array(column) for column in zip(*rows, strict=True))
    scores = np.floor(scores * 1000) / 1000 + 0.0005 * (scores < 1)  # off the bins' edges, where conventions differ
    shares, means = calibration_curve(gold, scores, n_bins=10)
    curve = reliability_curve(gold, scores)
    assert [reliability_bin.share for reliability_bin in curve] == pytest.approx(shares)
    assert [reliability_bin.mean_probability for reliability_bin in curve] == pytest.approx(means)
    error = sum(b.n * abs(b.share - b.mean_probability) for b in curve) / len(gold)
    assert METRICS["ece"](gold, scores) == pytest.approx(error)
    weights = np.random.default_rng(0).integers(0, 3, len(gold))
    if weights.sum():
        drawn = np.repeat(np.arange(len(gold)), weights)
        value = METRICS["ece"].prepare(gold, scores)(weights[None, :].astype(float))[0]
        assert value == pytest.approx(METRICS["ece"](gold[drawn], scores[drawn]))


def test_one_class_has_no_thresholds() -> None:
    assert operating_points([1, 1], [0.2, 0.4], [0.1]) == ()
    with pytest.raises(ValueError, match="allowed: 0 to 1"):
        operating_points([0, 1], [0.2, 0.4], [1.5])
