"""Metrics of predicted labels. A prediction of None (an answer that could not be read) is wrong."""

from __future__ import annotations

import numpy as np

from lorica.metrics.base import Column, Evaluator, Floats, check_lengths, evaluate, mean_of, ratio
from lorica.metrics.score_metrics import binary


def accuracy(gold: Column, label: Column) -> float:
    """Share of rows whose label is the gold one. gold, label: [n] of any comparable values; None is wrong."""
    return evaluate(prepare_accuracy, gold, label)


def balanced_accuracy(gold: Column, label: Column) -> float:
    """Mean over the gold classes of the share of their rows that were labelled right.

    gold, label: [n] of any comparable values; None is wrong.
    """
    return evaluate(prepare_balanced_accuracy, gold, label)


def f1(gold: Column, label: Column) -> float:
    """Harmonic mean of precision and recall of class 1. nan when neither gold nor prediction has a 1.

    gold: [n] of 0 and 1. label: [n] of 0, 1 or None.
    """
    return evaluate(prepare_f1, gold, label)


def prepare_accuracy(gold: Column, label: Column) -> Evaluator:
    """See `accuracy`."""
    return mean_of(_is_correct(gold, label))


def prepare_balanced_accuracy(gold: Column, label: Column) -> Evaluator:
    """See `balanced_accuracy`."""
    is_correct = _is_correct(gold, label)
    names = {value: number for number, value in enumerate(dict.fromkeys(_values(gold)))}
    member = np.zeros((len(gold), len(names)))
    member[np.arange(len(gold)), [names[value] for value in _values(gold)]] = 1.0

    def weighted(counts: Floats) -> Floats:
        recalls = ratio(counts @ (member * is_correct[:, None]), counts @ member)
        # A class that was not drawn has no recall and does not count.
        drawn = ~np.isnan(recalls)
        return ratio(np.where(drawn, recalls, 0.0).sum(axis=1), drawn.sum(axis=1).astype(np.float64))

    return weighted


def prepare_f1(gold: Column, label: Column) -> Evaluator:
    """See `f1`."""
    labels = binary(gold)
    _is_correct(gold, label)
    guessed = np.array([value is not None and value == 1 for value in _values(label)], dtype=np.float64)
    if any(value not in (0, 1, None) for value in _values(label)):
        raise ValueError("f1 takes labels 0, 1 or None")

    def weighted(counts: Floats) -> Floats:
        true_positives = counts @ (labels * guessed)
        return ratio(2 * true_positives, counts @ labels + counts @ guessed)

    return weighted


def _is_correct(gold: Column, label: Column) -> Floats:
    """1.0 where the label is the gold one, else 0.0; [n]."""
    check_lengths(gold, label)
    for value in _values(label):
        if isinstance(value, float) and not value.is_integer():
            raise ValueError(f"got the score {value} where a label is needed; turn scores into labels first")
    pairs = zip(_values(gold), _values(label), strict=True)
    return np.array([predicted is not None and predicted == wanted for wanted, predicted in pairs], dtype=np.float64)


def _values(column: Column) -> list[object]:
    return column.tolist() if isinstance(column, np.ndarray) else list(column)
