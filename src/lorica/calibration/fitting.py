"""Fitting a calibration on rows with gold, and judging it on rows that the fit has not seen (cross-fitting).

Needs scikit-learn (extra `baseline`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lorica.calibration.calibration_maps import (
    MAX_STEPS,
    CalibrationMap,
    IsotonicSteps,
    PlattScaling,
    Probabilities,
    TemperatureScaling,
    logits,
)
from lorica.errors import MissingExtraError, TrainingError

Labels = NDArray[np.int64]
FOLDS = 5
MIN_ROWS = 20
ISOTONIC_ROWS = 1_000
"""From so many rows on `auto` tries isotonic regression: on fewer it follows their noise."""

# Temperatures beyond these are no fit but the lack of one.
_TEMPERATURES = (0.05, 20.0)
_MORE_ROWS = "give more rows with gold"


@dataclass(frozen=True)
class CalibrationRows:
    """What a calibration is fitted on. probabilities: [n, k] as in `calibration_maps`. gold: [n], the right column.
    groups: [n] names of what folds keep together. binary: whether the columns are labels 0 and 1, not options."""

    probabilities: Probabilities
    gold: Labels
    groups: Sequence[str] | None
    binary: bool

    def subset(self, row_indices: NDArray[np.intp]) -> CalibrationRows:
        """The rows at these positions."""
        groups = None if self.groups is None else [self.groups[index] for index in row_indices]
        return CalibrationRows(self.probabilities[row_indices], self.gold[row_indices], groups, self.binary)


def allowed_methods(rows: CalibrationRows) -> tuple[str, ...]:
    """The methods that `auto` chooses from."""
    if not rows.binary:
        return ("temperature",)
    return ("platt", "temperature", *(("isotonic",) if len(rows.gold) >= ISOTONIC_ROWS else ()))


def fit_method(method: str, rows: CalibrationRows) -> CalibrationMap:
    """Fit `platt`, `isotonic` or `temperature`. Raises TrainingError where the rows allow no fit."""
    if method == "temperature":
        return fit_temperature(rows.probabilities, rows.gold)
    fit_scores = fit_platt if method == "platt" else fit_isotonic
    return fit_scores(rows.probabilities[:, 1], rows.gold)


def fit_platt(scores: Probabilities, labels: Labels) -> PlattScaling:
    """Fit Platt's scaling by maximum likelihood on his targets, (n1 + 1) / (n1 + 2) and 1 / (n0 + 2), which keep it
    finite where the scores part the classes. scores: [n] probabilities. labels: [n] of 0 and 1, both present."""
    LogisticRegression = load_sklearn("linear_model").LogisticRegression  # noqa: N806
    need_both_labels(labels, 1, fix=_MORE_ROWS)
    positives = int(labels.sum())
    targets = np.where(labels == 1, (positives + 1) / (positives + 2), 1 / (len(labels) - positives + 2))
    # A soft target is a row of each label, weighted by it.
    features = np.tile(logits(scores), 2)[:, None]
    row_labels = np.repeat([1, 0], len(labels))
    classifier = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-8, max_iter=1000)
    classifier.fit(features, row_labels, sample_weight=np.concatenate([targets, 1 - targets]))
    return PlattScaling(float(classifier.coef_[0, 0]), float(classifier.intercept_[0]))


def fit_isotonic(scores: Probabilities, labels: Labels) -> IsotonicSteps:
    """Fit the ascending function of least squared error. scores: [n] probabilities. labels: [n] of 0 and 1."""
    IsotonicRegression = load_sklearn("isotonic").IsotonicRegression  # noqa: N806
    regression = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip").fit(scores, labels)
    steps = tuple(map(float, regression.X_thresholds_)), tuple(map(float, regression.y_thresholds_))
    if len(steps[0]) > MAX_STEPS:
        raise TrainingError(
            f"isotonic regression of these rows has {len(steps[0]):,} points; allowed: {MAX_STEPS:,}",
            fix="take --method platt, or fewer rows",
        )
    return IsotonicSteps(*steps)


def fit_temperature(probabilities: Probabilities, gold: Labels) -> TemperatureScaling:
    """Fit the temperature of the highest likelihood. probabilities: [n, k]. gold: [n], the right column. Raises
    TrainingError where the likelihood has no maximum: it only rises with certainty, or only falls."""
    minimize_scalar = _load("scipy.optimize").minimize_scalar
    row_indices = np.arange(len(gold))

    def loss(log_temperature: float) -> float:
        calibrated = TemperatureScaling(float(np.exp(log_temperature))).apply(probabilities)
        return float(-np.mean(np.log(np.maximum(calibrated[row_indices, gold], np.finfo(np.float64).tiny))))

    lowest, highest = np.log(_TEMPERATURES)
    temperature = float(np.exp(minimize_scalar(loss, bounds=(lowest, highest), options={"xatol": 1e-10}).x))
    if temperature < 1.01 * _TEMPERATURES[0]:
        raise TrainingError("no temperature fits: the likeliest choice is right in every row", fix=_MORE_ROWS)
    if temperature > 0.99 * _TEMPERATURES[1]:
        raise TrainingError(
            "no temperature fits: the probabilities say less about these rows than chance",
            fix="see whether gold and answers belong together: `lorica eval ANSWERS GOLD`",
        )
    return TemperatureScaling(temperature)


def cross_fit(method: str, rows: CalibrationRows, *, seed: int = 0) -> Probabilities:
    """Calibrated probabilities [n, k] of which each row's come from a fit without it and its group. Raises
    TrainingError for too few rows, groups or rows of a label."""
    calibrated = np.empty_like(rows.probabilities)
    labels = rows.gold if rows.binary else np.zeros(len(rows.gold), dtype=np.int64)
    if rows.binary:
        need_both_labels(rows.gold, FOLDS, fix=_MORE_ROWS)
    for fitted, judged in split_folds(labels, rows.groups, seed, fix=_MORE_ROWS):
        calibrated[judged] = fit_method(method, rows.subset(fitted)).apply(rows.probabilities[judged])
    return calibrated


def split_folds(
    labels: Labels, groups: Sequence[str] | None, seed: int, *, fix: str
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """(rows to fit on, rows to judge) of `FOLDS` folds that have alike shares of the labels [n]; rows of a group stay
    together. Raises TrainingError, with `fix`, for fewer groups than folds."""
    selection = load_sklearn("model_selection")
    if groups is None:
        yield from selection.StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(labels, labels)
        return
    if len(set(groups)) < FOLDS:
        raise TrainingError(
            f"the rows belong to {len(set(groups))} groups, and {FOLDS} folds need at least one each", fix=fix
        )
    splitter = selection.StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
    yield from splitter.split(labels, labels, np.asarray(groups))


def need_both_labels(labels: Labels, minimum: int, *, fix: str) -> None:
    """Raises TrainingError, with `fix`, for fewer than `minimum` rows of label 0 or 1."""
    counts = [int((labels == label).sum()) for label in (0, 1)]
    if min(counts) < minimum:
        raise TrainingError(
            f"fitting needs at least {minimum} rows of label 0 and of label 1; there are {counts[0]} and {counts[1]}",
            fix=fix,
        )


def load_sklearn(module_name: str) -> Any:
    """A module of scikit-learn. Raises MissingExtraError."""
    return _load(f"sklearn.{module_name}")


def _load(module_name: str) -> Any:
    try:
        from importlib import import_module

        return import_module(module_name)
    except ImportError as error:
        raise MissingExtraError("scikit-learn", extra="baseline", needed_for="a fit on scores") from error
