"""Logistic models on members' scores, fitted on rows with gold and judged on others (cross-fitting).

Needs scikit-learn (extra `baseline`).
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from lorica.calibration.calibration_maps import logits, sigmoid
from lorica.calibration.fitting import FOLDS, load_sklearn, need_both_labels, split_folds
from lorica.ensemble.members import Scores
from lorica.errors import TrainingError

_MORE_ROWS = "give more rows with gold, or blend by rank or mean, which fit nothing"


class LogisticModel(msgspec.Struct, frozen=True):
    """P(class 1) = sigmoid(intercept + coefficients . logit(scores)); `names`: the members, in the order of theirs."""

    names: tuple[str, ...]
    coefficients: tuple[float, ...]
    intercept: float

    def predict(self, member_scores: Sequence[Scores]) -> Scores:
        """Probabilities [n] of columns of scores [n], one for each of `names`."""
        return sigmoid(self.intercept + _feature_logits(member_scores) @ np.asarray(self.coefficients))


def fit_logistic(names: Sequence[str], member_scores: Sequence[Scores], gold_labels: Sequence[int]) -> LogisticModel:
    """Fit by maximum likelihood with a weak ridge (C = 1 on logits). Raises TrainingError where a class is missing."""
    LogisticRegression = load_sklearn("linear_model").LogisticRegression  # noqa: N806
    need_both_labels(np.asarray(gold_labels), 1, fix=_MORE_ROWS)
    classifier = LogisticRegression(C=1.0, max_iter=1000).fit(_feature_logits(member_scores), np.asarray(gold_labels))
    coefficients = tuple(map(float, classifier.coef_[0]))
    return LogisticModel(tuple(names), coefficients, float(classifier.intercept_[0]))


def cross_fitted(
    names: Sequence[str],
    member_scores: Sequence[Scores],
    gold_labels: Sequence[int],
    *,
    groups: Sequence[str] | None = None,
    seed: int = 0,
) -> Scores:
    """Scores [n] of which each comes from a model that has not seen its row, nor another of its group.

    gold_labels: [n] of 0 and 1. groups: [n]. Raises TrainingError with fewer than `FOLDS` rows of a class.
    """
    scores = np.empty(len(gold_labels))
    labels = np.asarray(gold_labels)
    need_both_labels(labels, FOLDS, fix=_MORE_ROWS)
    for fitted, judged in split_folds(labels, groups, seed, fix=_MORE_ROWS):
        model = fit_logistic(names, [column[fitted] for column in member_scores], labels[fitted].tolist())
        scores[judged] = model.predict([column[judged] for column in member_scores])
    return scores


def check_probabilities(scores: Scores) -> Scores:
    """Scores of any shape. Raises TrainingError where one is no probability."""
    if scores.min() < 0 or scores.max() > 1:
        raise TrainingError(
            f"fitting needs probabilities, and scores go from {scores.min():g} to {scores.max():g}",
            fix="--method rank takes scores of any scale",
        )
    return scores


def _feature_logits(member_scores: Sequence[Scores]) -> Scores:
    return logits(check_probabilities(np.stack(list(member_scores), axis=1)))
