"""Every array metric against scikit-learn, with and without row weights (the form the bootstrap uses)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as theirs

from lorica.metrics.base import Floats
from lorica.metrics.metric_table import METRICS

# Few distinct scores, so that ties are common.
SCORES = st.one_of(st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.floats(0, 1))
ROWS = st.lists(st.tuples(st.integers(0, 1), SCORES, st.integers(0, 3)), min_size=2, max_size=30)

ORACLES: dict[str, Callable[..., float]] = {
    "roc_auc": theirs.roc_auc_score,
    "average_precision": theirs.average_precision_score,
    "log_loss": lambda gold, p, sample_weight=None: theirs.log_loss(
        gold, p, sample_weight=sample_weight, labels=[0, 1]
    ),
    "brier": theirs.brier_score_loss,
}


@settings(max_examples=150, deadline=None)
@given(rows=ROWS)
@pytest.mark.parametrize("name", ORACLES)
def test_score_metrics(name: str, rows: list[tuple[int, float, int]]) -> None:
    gold, score, weight = (np.array(column) for column in zip(*rows, strict=True))
    if len(set(gold)) == 2:
        assert METRICS[name](gold, score) == pytest.approx(ORACLES[name](gold, score), abs=1e-12)
    if len(set(gold[weight > 0])) == 2:
        value = METRICS[name].prepare(gold, score)(weight[None, :].astype(float))[0]
        drawn = np.repeat(np.arange(len(gold)), weight)
        assert value == pytest.approx(ORACLES[name](gold[drawn], score[drawn]), abs=1e-12)


CLASSES = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=30)


@settings(max_examples=150, deadline=None)
@given(rows=CLASSES)
def test_label_metrics(rows: list[tuple[int, int, int]]) -> None:
    gold, label, weight = (np.array(column) for column in zip(*rows, strict=True))
    drawn = np.repeat(np.arange(len(gold)), weight)
    cases: list[tuple[str, Callable[[Any, Any], float], Any, Any]] = [
        ("accuracy", theirs.accuracy_score, gold, label),
        ("balanced_accuracy", recall_mean, gold, label),
        ("mcc", lambda g, p: theirs.matthews_corrcoef(g, p) if {*g} | {*p} == {0, 1} else 0.0, gold % 2, label % 2),
        ("f1", lambda g, p: theirs.f1_score(g, p, zero_division=math.nan), gold % 2, label % 2),
    ]
    for name, oracle, wanted, given_labels in cases:
        expected = oracle(wanted, given_labels)
        assert METRICS[name](wanted, given_labels) == pytest.approx(expected, nan_ok=True, abs=1e-12)
        if len(drawn):
            value = METRICS[name].prepare(wanted, given_labels)(weight[None, :].astype(float))[0]
            expected = oracle(wanted[drawn], given_labels[drawn])
            assert value == pytest.approx(expected, nan_ok=True, abs=1e-12)


def recall_mean(gold: Any, label: Any) -> float:
    """scikit-learn's balanced accuracy warns about labels that only the prediction has; its recalls do
    not."""
    return float(theirs.recall_score(gold, label, labels=np.unique(gold), average="macro", zero_division=0))


@settings(max_examples=100, deadline=None)
@given(rows=ROWS, weights=st.lists(st.lists(st.integers(0, 3), min_size=30, max_size=30), min_size=2, max_size=4))
@pytest.mark.parametrize("name", ["roc_auc", "average_precision", "brier", "log_loss"])
def test_many_resamples_at_once_equal_each_alone(
    name: str, rows: list[tuple[int, float, int]], weights: list[list[int]]
) -> None:
    gold, score = [row[0] for row in rows], [row[1] for row in rows]
    counts: Floats = np.array(weights, dtype=float)[:, : len(rows)]
    evaluator = METRICS[name].prepare(gold, score)
    alone = [evaluator(counts[[row]])[0] for row in range(len(counts))]
    np.testing.assert_allclose(evaluator(counts), alone, rtol=1e-12)


def test_one_class_is_undefined_not_an_error() -> None:
    assert math.isnan(METRICS["roc_auc"]([1, 1], [0.2, 0.3]))
    assert math.isnan(METRICS["roc_auc"]([], []))
    assert math.isnan(METRICS["average_precision"]([0, 0], [0.2, 0.3]))
    assert math.isnan(METRICS["f1"]([0, 0], [0, 0]))
    assert math.isnan(METRICS["accuracy"]([], []))


def test_infinite_probabilities_of_the_wrong_label_stay_finite() -> None:
    assert METRICS["log_loss"]([1, 0], [0.0, 1.0]) == pytest.approx(theirs.log_loss([1, 0], [0.0, 1.0]))


def test_an_unread_answer_is_wrong() -> None:
    assert METRICS["accuracy"]([0, 1, 1, 0], [0, 1, None, None]) == 0.5
    assert METRICS["accuracy"](["A", "B"], ["A", None]) == 0.5
    assert METRICS["balanced_accuracy"]([0, 0, 1], [0, None, 1]) == 0.75
    assert METRICS["f1"]([1, 1, 0], [1, None, 0]) == pytest.approx(2 / 3)


BAD: dict[str, tuple[Callable[[], object], str]] = {
    "lengths": (lambda: METRICS["roc_auc"]([0, 1], [0.5]), "2 gold values and 1 predictions"),
    "gold 2": (lambda: METRICS["roc_auc"]([0, 2], [0.5, 0.5]), "must be 0 or 1, got 2"),
    "gold text": (lambda: METRICS["brier"](["Yes", "No"], [0.5, 0.5]), "must be 0 or 1, got 'No', 'Yes'"),
    "nan": (lambda: METRICS["roc_auc"]([0, 1], [0.5, math.nan]), "1 of 2 scores are missing"),
    "percent": (lambda: METRICS["brier"]([0, 1], [0.5, 70]), "must lie in 0 to 1, got 0.5 to 70"),
    "log-probability": (lambda: METRICS["log_loss"]([0, 1], [-0.5, -0.1]), "must lie in 0 to 1"),
    "scores for labels": (lambda: METRICS["accuracy"]([0, 1], [0.3, 0.7]), "turn scores into labels"),
    "three labels": (lambda: METRICS["f1"]([0, 1], [0, 2]), "labels 0, 1 or None"),
    "label lengths": (lambda: METRICS["accuracy"]([0, 1], [0]), "2 gold values and 1 predictions"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_meant_is_refused(case: str) -> None:
    call, reason = BAD[case]
    with pytest.raises(ValueError, match=reason):
        call()


def test_the_table_names_each_metric_by_its_key() -> None:
    assert all(name == metric.name for name, metric in METRICS.items())
    assert METRICS["roc_auc"]([0, 1, 1], [0.1, 0.1, 0.9]) == 0.75
