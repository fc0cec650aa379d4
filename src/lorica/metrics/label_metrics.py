"""Metrics of predicted labels. A prediction of None (an answer that could not be read) is wrong."""

from __future__ import annotations

import numpy as np

from lorica.metrics.base import Column, Evaluator, Floats, check_lengths, ratio
from lorica.metrics.score_metrics import binary


def correct_rows(gold_labels: Column, predicted_labels: Column) -> Floats:
    """1.0 where the label is the gold one, else 0.0; [n].

    gold_labels, predicted_labels: [n] of any comparable values; None is wrong.
    """
    check_lengths(gold_labels, predicted_labels)
    predictions = _values(predicted_labels)
    for value in predictions:
        if isinstance(value, float) and not value.is_integer():
            raise ValueError(f"got the score {value} where a label is needed; turn scores into labels first")
    pairs = zip(_values(gold_labels), predictions, strict=True)
    return np.array([predicted is not None and predicted == wanted for wanted, predicted in pairs], dtype=np.float64)


def prepare_balanced_accuracy(gold_labels: Column, predicted_labels: Column) -> Evaluator:
    """Mean over the gold classes of the share of their rows that were labelled right.

    gold_labels, predicted_labels: [n] of any comparable values; None is wrong.
    """
    is_correct = correct_rows(gold_labels, predicted_labels)
    class_indices = {gold_class: index for index, gold_class in enumerate(dict.fromkeys(_values(gold_labels)))}
    is_member = np.zeros((len(gold_labels), len(class_indices)))
    is_member[np.arange(len(gold_labels)), [class_indices[gold_class] for gold_class in _values(gold_labels)]] = 1.0
    is_recalled = is_member * is_correct[:, None]

    def weighted(counts: Floats) -> Floats:
        recalls = ratio(counts @ is_recalled, counts @ is_member)
        # A class that was not drawn has no recall and does not count.
        is_drawn = ~np.isnan(recalls)
        return ratio(np.where(is_drawn, recalls, 0.0).sum(axis=1), is_drawn.sum(axis=1).astype(np.float64))

    return weighted


def prepare_f1(gold_labels: Column, predicted_labels: Column) -> Evaluator:
    """Harmonic mean of precision and recall of class 1. nan when neither gold nor prediction has a 1.

    gold_labels: [n] of 0 and 1. predicted_labels: [n] of 0, 1 or None.
    """
    is_positive = binary(gold_labels)
    correct_rows(gold_labels, predicted_labels)
    is_predicted = np.array([value is not None and value == 1 for value in _values(predicted_labels)], dtype=np.float64)
    _check_binary_predictions("f1", predicted_labels)
    hits = is_positive * is_predicted

    def weighted(counts: Floats) -> Floats:
        true_positives = counts @ hits
        return ratio(2 * true_positives, counts @ is_positive + counts @ is_predicted)

    return weighted


def prepare_mcc(gold_labels: Column, predicted_labels: Column) -> Evaluator:
    """Matthews' correlation coefficient of two classes; 0 where all gold or all predicted labels are one class.

    gold_labels: [n] of 0 and 1. predicted_labels: [n] of 0, 1 or None; None is wrong: the class that gold is not.
    """
    is_positive, is_correct = binary(gold_labels), correct_rows(gold_labels, predicted_labels)
    _check_binary_predictions("mcc", predicted_labels)
    is_predicted = np.where(is_correct == 1, is_positive, 1 - is_positive)

    hits, false_alarms = is_positive * is_predicted, (1 - is_positive) * is_predicted
    misses, rejections = is_positive * (1 - is_predicted), (1 - is_positive) * (1 - is_predicted)

    def weighted(counts: Floats) -> Floats:
        # Four sums of what is not negative: without rows of a class exactly 0, whatever the weights.
        tp, fp, fn, tn = (counts @ cell for cell in (hits, false_alarms, misses, rejections))
        spread = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
        coefficient = (tp * tn - fp * fn) / np.sqrt(np.where(spread == 0, 1.0, spread))
        return np.where(counts.sum(axis=1) == 0, np.nan, np.where(spread == 0, 0.0, coefficient))

    return weighted


def _check_binary_predictions(metric_name: str, predicted_labels: Column) -> None:
    if any(value not in (0, 1, None) for value in _values(predicted_labels)):
        raise ValueError(f"{metric_name} takes labels 0, 1 or None")


def _values(column: Column) -> list[object]:
    return column.tolist() if isinstance(column, np.ndarray) else list(column)
