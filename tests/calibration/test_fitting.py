"""Calibrations against scikit-learn's, on 1,000 random cases each, and what they leave as it was."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from lorica.calibration.calibration_maps import Probabilities, logits, two_choices
from lorica.calibration.figures import figures_of, fit_calibration
from lorica.calibration.fitting import (
    CalibrationRows,
    cross_fit,
    fit_isotonic,
    fit_platt,
    fit_temperature,
)
from lorica.errors import TrainingError
from lorica.metrics.metric_table import METRICS

CASES = 1_000


class _Scores(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A classifier whose decision is its one feature."""

    classes_ = np.array([0, 1])

    def fit(self, features: Any, labels: Any) -> _Scores:
        return self

    def decision_function(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        return features[:, 0]

    def predict(self, features: NDArray[np.float64]) -> NDArray[np.int64]:
        return (features[:, 0] > 0).astype(np.int64)

    def __sklearn_is_fitted__(self) -> bool:
        return True


def _case(seed: int) -> tuple[Probabilities, NDArray[np.int64]]:
    """Scores and labels: rows from 20 on, shifted and stretched, in every third case with ties."""
    random = np.random.default_rng(seed)
    row_count = int(random.integers(20, 120))
    labels = random.integers(0, 2, row_count)
    labels[:2] = (0, 1)
    noise = random.normal(size=row_count) * random.uniform(0.5, 3)
    scores = 1 / (1 + np.exp(-(labels * random.uniform(0.3, 3) + noise + random.uniform(-2, 2))))
    return (np.round(scores, 1) if seed % 3 == 0 else scores), labels


def test_platts_scaling_is_scikit_learns() -> None:
    worst = 0.0
    for seed in range(CASES):
        scores, labels = _case(seed)
        features = logits(scores)[:, None]
        oracle = CalibratedClassifierCV(FrozenEstimator(_Scores()), method="sigmoid", ensemble=False, cv=2)
        oracle.fit(features, labels)
        platt = fit_platt(scores, labels)
        theirs = oracle.calibrated_classifiers_[0].calibrators[0]
        # Of two optimisers the better one is right.
        losses = [
            _platts_loss(slope * features[:, 0] + intercept, labels)
            for slope, intercept in ((platt.slope, platt.intercept), (-theirs.a_, -theirs.b_))
        ]
        assert losses[0] <= losses[1] + 1e-9
        worst = max(worst, float(np.abs(platt.predict(scores) - oracle.predict_proba(features)[:, 1]).max()))
    assert worst < 1e-3


def _platts_loss(log_odds: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    positives, negatives = labels.sum(), (1 - labels).sum()
    targets = np.where(labels == 1, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    return float(np.mean(targets * np.logaddexp(0, -log_odds) + (1 - targets) * np.logaddexp(0, log_odds)))


def test_isotonic_regression_is_scikit_learns_on_scores_seen_and_unseen() -> None:
    for seed in range(CASES):
        scores, labels = _case(seed)
        oracle = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(scores, labels)
        others = np.random.default_rng(seed).uniform(size=50)
        steps = fit_isotonic(scores, labels)
        for values in (scores, others):
            assert steps.predict(values) == pytest.approx(oracle.predict(values), abs=1e-12)


def test_the_temperature_of_two_choices_is_a_logistic_regression_without_intercept() -> None:
    compared = 0
    for seed in range(CASES):
        scores, labels = _case(seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            oracle = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-10, solver="newton-cholesky")
            oracle.fit(logits(scores)[:, None], labels)
        slope = float(oracle.coef_[0, 0])
        if not 1 / 21 < slope < 21:
            with pytest.raises(TrainingError, match="no temperature fits"):
                fit_temperature(two_choices(scores), labels)
        if not 1 / 19 < slope < 19:
            continue
        compared += 1
        assert fit_temperature(two_choices(scores), labels).temperature == pytest.approx(1 / slope, rel=1e-4)
    assert compared > 0.7 * CASES


def test_the_temperature_over_choices_of_different_number_is_the_likeliest() -> None:
    random = np.random.default_rng(0)
    raw = np.exp(random.normal(size=(300, 5)) * 3)
    raw[::3, 3:] = np.nan
    probabilities = raw / np.nansum(raw, axis=1, keepdims=True)
    gold = np.array([random.choice(np.flatnonzero(~np.isnan(row))) for row in probabilities])
    gold[::2] = np.nanargmax(probabilities[::2], axis=1)
    fitted = fit_temperature(probabilities, gold)
    rows = CalibrationRows(probabilities, gold, None, binary=False)
    best = figures_of(fitted.apply(probabilities), rows).log_loss
    for factor in (0.99, 1.01):
        other = type(fitted)(fitted.temperature * factor)
        assert figures_of(other.apply(probabilities), rows).log_loss > best
    calibrated = fitted.apply(probabilities)
    assert np.nansum(calibrated, axis=1) == pytest.approx(1)
    assert np.array_equal(np.isnan(calibrated), np.isnan(probabilities))
    assert np.array_equal(np.nanargmax(calibrated, axis=1), np.nanargmax(probabilities, axis=1))


def test_platt_and_temperature_keep_ranks_and_isotonic_makes_ties() -> None:
    for seed in range(100):
        scores, labels = _case(seed)
        before = METRICS["roc_auc"](labels, scores)
        platt = fit_platt(scores, labels)
        if platt.slope > 0:
            assert METRICS["roc_auc"](labels, platt.predict(scores)) == before
        steps = fit_isotonic(scores, labels).predict(scores)
        assert np.all(np.diff(steps[np.argsort(scores, kind="stable")]) >= 0)
        assert len(np.unique(steps)) <= len(np.unique(scores))


@pytest.mark.parametrize("grouped", [False, True])
def test_figures_are_of_rows_that_the_fit_has_not_seen(grouped: bool) -> None:
    scores, labels = _case(1)
    groups = [f"g{index // 2}" for index in range(len(labels))] if grouped else None
    splitter = StratifiedGroupKFold if grouped else StratifiedKFold
    expected = np.empty(len(labels))
    for fitted, judged in splitter(5, shuffle=True, random_state=0).split(scores, labels, groups):
        expected[judged] = fit_platt(scores[fitted], labels[fitted]).predict(scores[judged])
        assert groups is None or not {groups[index] for index in fitted} & {groups[index] for index in judged}
    rows = CalibrationRows(two_choices(scores), labels, groups, binary=True)
    assert cross_fit("platt", rows)[:, 1] == pytest.approx(expected)
    fit = fit_calibration("platt", rows)
    assert (fit.after.log_loss, fit.after.brier, fit.after.ece) == pytest.approx(
        (METRICS["log_loss"](labels, expected), METRICS["brier"](labels, expected), METRICS["ece"](labels, expected))
    )
    assert fit.before.log_loss == pytest.approx(METRICS["log_loss"](labels, scores))
    assert fit.change.value == pytest.approx(fit.after.log_loss - fit.before.log_loss)
    assert fit.change.low < fit.change.value < fit.change.high


def _rows(scores: Probabilities, labels: NDArray[np.int64], groups: list[str] | None = None) -> CalibrationRows:
    return CalibrationRows(two_choices(scores), labels, groups, binary=True)


def test_auto_takes_what_helps_most_and_tries_isotonic_on_many_rows_alone() -> None:
    random = np.random.default_rng(5)
    truth = random.uniform(0.02, 0.98, 2_000)
    labels = (random.uniform(size=2_000) < truth).astype(np.int64)
    bent = truth**4  # no sigmoid of a line in logits
    fit = fit_calibration("auto", _rows(bent, labels))
    assert set(fit.candidates) == {"platt", "temperature", "isotonic"}
    assert fit.candidates[fit.method] == min(fit.candidates.values(), key=float)
    assert fit.change.high < 0
    few = fit_calibration("auto", _rows(bent[:300], labels[:300]))
    assert set(few.candidates) == {"platt", "temperature"}
    with pytest.raises(TrainingError, match=r"(?s)no method lowers the log-loss .* a --method with --save-anyway"):
        fit_calibration("auto", _rows(truth[:300], labels[:300]))


SCORES, LABELS = np.linspace(0.1, 0.9, 60), np.array([0, 1, 1] * 20)


@pytest.mark.parametrize(
    ("rows", "method", "message"),
    [
        (_rows(SCORES[:19], LABELS[:19]), "platt", "19 rows to fit on; at least 20"),
        (_rows(SCORES, np.ones(60, dtype=np.int64)), "platt", "at least 5 rows of label 0 .* there are 0 and 60"),
        (_rows(SCORES, np.array([0] * 4 + [1] * 56)), "auto", "at least 5 rows"),
        (_rows(np.full(60, 0.3), LABELS), "platt", "all 60 rows have the same scores"),
        (_rows(SCORES * 1e-15, LABELS), "auto", "all 60 rows have the same scores"),  # beyond what has a logarithm
        (_rows(SCORES, (SCORES < 0.5).astype(np.int64)), "platt", "the higher the score, the rarer label 1"),
        (_rows(SCORES, LABELS, ["a", "b", "c"] * 20), "platt", "belong to 3 groups, and 5 folds"),
        (_rows(SCORES, (SCORES > 0.5).astype(np.int64)), "temperature", "the likeliest choice is right in every row"),
        (_rows(SCORES, (SCORES < 0.5).astype(np.int64)), "temperature", "less about these rows than chance"),
    ],
)
def test_what_cannot_be_fitted_is_refused_with_the_reason(rows: CalibrationRows, method: str, message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        fit_calibration(method, rows)
