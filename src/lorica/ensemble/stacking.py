"""Logistic models on members' scores, fitted on rows with gold and judged on others (cross-fitting).

Needs scikit-learn (extra `baseline`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from lorica.ensemble.members import Scores
from lorica.errors import MissingExtraError, TrainingError

FOLDS = 5
# Scores of exactly 0 and 1 have no finite logit.
_CLIP = 1e-6


class LogisticModel(msgspec.Struct, frozen=True):
    """P(class 1) = sigmoid(intercept + coefficients . logit(scores)); `names`: the members, in the order of theirs.

    With one member this is Platt's scaling.
    """

    names: tuple[str, ...]
    coefficients: tuple[float, ...]
    intercept: float

    def predict(self, member_scores: Sequence[Scores]) -> Scores:
        """Probabilities [n] of columns of scores [n], one for each of `names`."""
        logits = self.intercept + _logits(member_scores) @ np.asarray(self.coefficients)
        return np.asarray(1 / (1 + np.exp(-logits)))


def fit_logistic(names: Sequence[str], member_scores: Sequence[Scores], gold_labels: Sequence[int]) -> LogisticModel:
    """Fit by maximum likelihood with a weak ridge (C = 1 on logits). Raises TrainingError where a class is missing."""
    LogisticRegression = _sklearn("linear_model").LogisticRegression  # noqa: N806
    _need_both(gold_labels, 1)
    classifier = LogisticRegression(C=1.0, max_iter=1000).fit(_logits(member_scores), np.asarray(gold_labels))
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
    for fitted, judged in _folds(labels, groups, seed):
        model = fit_logistic(names, [column[fitted] for column in member_scores], labels[fitted].tolist())
        scores[judged] = model.predict([column[judged] for column in member_scores])
    return scores


def _folds(
    labels: NDArray[np.int64], groups: Sequence[str] | None, seed: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    selection = _sklearn("model_selection")
    _need_both(labels.tolist(), FOLDS)
    if groups is None:
        yield from selection.StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(labels, labels)
        return
    if len(set(groups)) < FOLDS:
        raise TrainingError(
            f"the rows belong to {len(set(groups))} groups, and {FOLDS} folds need at least one each",
            fix="blend by rank or mean, which fit nothing",
        )
    splitter = selection.StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
    yield from splitter.split(labels, labels, np.asarray(groups))


def _need_both(gold_labels: Sequence[int], least: int) -> None:
    counts = [list(gold_labels).count(label) for label in (0, 1)]
    if min(counts) < least:
        raise TrainingError(
            f"fitting needs at least {least} rows of label 0 and of label 1; there are {counts[0]} and {counts[1]}",
            fix="give more rows with gold, or blend by rank or mean, which fit nothing",
        )


def _logits(member_scores: Sequence[Scores]) -> Scores:
    stacked = np.stack(list(member_scores), axis=1)
    if stacked.min() < 0 or stacked.max() > 1:
        raise TrainingError(
            f"fitting needs probabilities, and scores go from {stacked.min():g} to {stacked.max():g}",
            fix="--method rank takes scores of any scale",
        )
    clipped = np.clip(stacked, _CLIP, 1 - _CLIP)
    return np.asarray(np.log(clipped / (1 - clipped)))


def _sklearn(module_name: str) -> Any:
    try:
        from importlib import import_module

        return import_module(f"sklearn.{module_name}")
    except ImportError as error:
        raise MissingExtraError("scikit-learn", extra="baseline", needed_for="a fitted blend") from error
