"""The calibration methods: Platt's scaling, isotonic regression and temperature, as functions of probabilities.

    probabilities  [n, k]  of each row's choices; nan where a row has fewer than k. Of two choices, column 1 is label 1

Applying one needs numpy alone. Platt's scaling and temperature rise strictly, so that ranks and ROC-AUC stay as they
are, as far as float64 tells probabilities apart; isotonic regression maps ranges of scores onto one value (ties).
"""

from __future__ import annotations

import math
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

Probabilities = NDArray[np.float64]

PROBABILITY_FLOOR = 1e-12
"""Probabilities nearer to 0 or 1 count as this near: of 0 there is no logarithm."""

MAX_STEPS = 20_000
"""The most points of an isotonic function in a file."""

Steps = Annotated[tuple[float, ...], Meta(min_length=1, max_length=MAX_STEPS)]


class PlattScaling(msgspec.Struct, frozen=True, tag_field="method", tag="platt"):
    """P(label 1) = sigmoid(slope * logit(score) + intercept). Source: Platt 1999, Probabilistic outputs for support
    vector machines."""

    slope: float
    intercept: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.slope) and math.isfinite(self.intercept)):
            raise ValueError("slope and intercept must be finite")

    def predict(self, scores: Probabilities) -> Probabilities:
        """Probabilities of label 1 [n] of scores [n]."""
        return sigmoid(self.slope * logits(scores) + self.intercept)

    def apply(self, probabilities: Probabilities) -> Probabilities:
        """Calibrated probabilities [n, 2] of probabilities [n, 2]."""
        return two_choices(self.predict(probabilities[:, 1]))


class IsotonicSteps(msgspec.Struct, frozen=True, tag_field="method", tag="isotonic"):
    """P(label 1): linear between the points (scores, probabilities), both ascending, and flat beyond them. Source:
    Zadrozny and Elkan 2002, Transforming classifier scores into accurate multiclass probability estimates."""

    scores: Steps
    probabilities: Steps

    def __post_init__(self) -> None:
        points = np.asarray(self.scores), np.asarray(self.probabilities)
        if len(points[0]) != len(points[1]):
            raise ValueError("scores and probabilities differ in number")
        if not all(np.all((values >= 0) & (values <= 1)) for values in points):
            raise ValueError("scores and probabilities must lie in 0 to 1")
        if np.any(np.diff(points[0]) <= 0) or np.any(np.diff(points[1]) < 0):
            raise ValueError("scores must ascend, and probabilities must not descend")

    def predict(self, scores: Probabilities) -> Probabilities:
        """Probabilities of label 1 [n] of scores [n]."""
        return np.interp(scores, self.scores, self.probabilities)

    def apply(self, probabilities: Probabilities) -> Probabilities:
        """Calibrated probabilities [n, 2] of probabilities [n, 2]."""
        return two_choices(self.predict(probabilities[:, 1]))


class TemperatureScaling(msgspec.Struct, frozen=True, tag_field="method", tag="temperature"):
    """softmax(log probabilities / temperature): above 1 less certain, below 1 more. Source: Guo et al. 2017,
    arXiv:1706.04599."""

    temperature: Annotated[float, Meta(gt=0)]

    def __post_init__(self) -> None:
        if not math.isfinite(self.temperature):
            raise ValueError("the temperature must be finite")

    def apply(self, probabilities: Probabilities) -> Probabilities:
        """Calibrated probabilities [n, k] of probabilities [n, k]; nan stays nan."""
        log_probabilities = np.log(np.clip(probabilities, PROBABILITY_FLOOR, 1 - PROBABILITY_FLOOR)) / self.temperature
        exponentials = np.exp(log_probabilities - np.nanmax(log_probabilities, axis=1, keepdims=True))
        return np.asarray(exponentials / np.nansum(exponentials, axis=1, keepdims=True))


CalibrationMap = PlattScaling | IsotonicSteps | TemperatureScaling

METHODS: dict[str, type[CalibrationMap]] = {
    "platt": PlattScaling,
    "isotonic": IsotonicSteps,
    "temperature": TemperatureScaling,
}


def method_name(calibration_map: CalibrationMap) -> str:
    """The name of its method."""
    return next(name for name, map_type in METHODS.items() if isinstance(calibration_map, map_type))


def logits(scores: Probabilities) -> Probabilities:
    """log(p / (1 - p)) of probabilities of any shape, within +-27.6 (see `PROBABILITY_FLOOR`)."""
    clipped = np.clip(scores, PROBABILITY_FLOOR, 1 - PROBABILITY_FLOOR)
    return np.asarray(np.log(clipped) - np.log1p(-clipped))


def sigmoid(log_odds: Probabilities) -> Probabilities:
    """1 / (1 + exp(-x)) without overflow."""
    return np.asarray(np.exp(-np.logaddexp(0.0, -log_odds)))


def two_choices(scores: Probabilities) -> Probabilities:
    """Probabilities [n, 2] of labels 0 and 1, of probabilities of label 1 [n]."""
    return np.stack([1 - scores, scores], axis=1)
