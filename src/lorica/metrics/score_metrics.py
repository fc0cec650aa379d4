"""Metrics of a score for class 1 against gold labels 0 and 1."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from lorica.metrics.base import Column, Evaluator, Floats, check_lengths, mean_of, ratio, row_slices

# A probability of exactly 0 or 1 is moved by this much, so that one row cannot make the mean infinite.
LOG_LOSS_EPSILON = float(np.finfo(np.float64).eps)
# Of equal width over 0 to 1, for the calibration error and the reliability curve.
RELIABILITY_BINS = 10

_SumColumns = Callable[[Floats], Floats]


def binary(gold_labels: Column) -> Floats:
    """Gold labels as floats [n]. ValueError for anything but 0 and 1."""
    labels = np.asarray(gold_labels)
    if labels.size and (labels.dtype.kind not in "biuf" or not np.isin(labels, (0, 1)).all()):
        unexpected = sorted({repr(gold_label) for gold_label in labels.tolist() if gold_label not in (0, 1)})[:3]
        raise ValueError(f"gold labels must be 0 or 1, got {', '.join(unexpected)}")
    return labels.astype(np.float64)


def outside_probability(scores: Column) -> float | None:
    """The first score [n] that is no probability, or None where all of them may be."""
    return next((float(score) for score in scores if not 0 <= score <= 1), None)


def prepare_roc_auc(gold_labels: Column, scores: Column) -> Evaluator:
    """Area under the ROC curve: P(score of a 1 > score of a 0), ties counted half. nan with a single class.

    gold_labels: [n] of 0 and 1. scores: [n], any scale. ValueError for other gold values and for nan scores.
    """
    labels, starts, score_order = sort_by_score(gold_labels, scores, descending=False)

    def of_rows(ranked_counts: Floats, total: _SumColumns) -> Floats:
        positives = _per_group(ranked_counts * labels, starts)
        negatives = _per_group(ranked_counts, starts) - positives
        negatives_below = np.cumsum(negatives, axis=1) - negatives
        won_pairs = total(positives * (negatives_below + 0.5 * negatives))
        return ratio(won_pairs, total(positives) * total(negatives))

    return _ranked(score_order, starts, of_rows)


def prepare_average_precision(gold_labels: Column, scores: Column) -> Evaluator:
    """Precision averaged over the steps of recall, tied scores taken together. nan without any 1.

    gold_labels: [n] of 0 and 1. scores: [n], any scale. ValueError for other gold values and for nan scores.
    """
    labels, starts, score_order = sort_by_score(gold_labels, scores, descending=True)

    def of_rows(ranked_counts: Floats, total: _SumColumns) -> Floats:
        positives = _per_group(ranked_counts * labels, starts)
        precision = ratio(np.cumsum(positives, axis=1), np.cumsum(_per_group(ranked_counts, starts), axis=1))
        # A group of rows that was not drawn at all adds no recall; its precision may be undefined.
        return ratio(np.where(positives > 0, positives * precision, 0.0).sum(axis=1), total(positives))

    return _ranked(score_order, starts, of_rows)


def prepare_log_loss(gold_labels: Column, probability: Column) -> Evaluator:
    """Mean negative natural logarithm of the probability given to the gold label; lower is better.

    gold_labels: [n] of 0 and 1. probability: [n] of class 1. ValueError outside 0 to 1.
    """
    labels, unclipped = labelled_probabilities(gold_labels, probability)
    probabilities = np.clip(unclipped, LOG_LOSS_EPSILON, 1 - LOG_LOSS_EPSILON)
    return mean_of(-np.log(np.where(labels == 1, probabilities, 1 - probabilities)))


def prepare_brier(gold_labels: Column, probability: Column) -> Evaluator:
    """Mean squared difference between probability and gold label; lower is better.

    gold_labels: [n] of 0 and 1. probability: [n] of class 1. ValueError outside 0 to 1.
    """
    labels, probabilities = labelled_probabilities(gold_labels, probability)
    return mean_of((probabilities - labels) ** 2)


def prepare_ece(gold_labels: Column, probability: Column) -> Evaluator:
    """Expected calibration error: the mean distance between probability and share of class 1 over `RELIABILITY_BINS`
    bins of equal width, each weighted by its rows; lower is better.

    gold_labels: [n] of 0 and 1. probability: [n] of class 1. ValueError outside 0 to 1. Source: Guo et al. 2017,
    arXiv:1706.04599, with the probability of class 1 in place of the confidence.
    """
    labels, probabilities = labelled_probabilities(gold_labels, probability)
    bins = reliability_bins(probabilities)
    is_member = np.zeros((len(labels), RELIABILITY_BINS))
    is_member[np.arange(len(labels)), bins] = 1.0
    excess = is_member * (probabilities - labels)[:, None]

    def weighted(counts: Floats) -> Floats:
        return ratio(np.abs(counts @ excess).sum(axis=1), counts.sum(axis=1))

    return weighted


def reliability_bins(probabilities: Floats) -> NDArray[np.intp]:
    """The bin of each probability [n]: 0 holds those below 1 / RELIABILITY_BINS, the last one also 1."""
    return np.asarray(np.minimum((probabilities * RELIABILITY_BINS).astype(np.intp), RELIABILITY_BINS - 1))


def sort_by_score(
    gold_labels: Column, scores: Column, *, descending: bool
) -> tuple[Floats, NDArray[np.intp], NDArray[np.intp]]:
    """(labels in score order [n], first position of each group of equal scores [g], the order itself [n]).

    gold_labels: [n] of 0 and 1. scores: [n]. ValueError for other gold values and for nan scores.
    """
    labels, numbers = binary(gold_labels), _numbers(scores)
    check_lengths(labels, numbers)
    score_order = np.argsort(-numbers if descending else numbers, kind="stable")
    ranked = numbers[score_order]
    starts = np.flatnonzero(np.concatenate(([True], ranked[1:] != ranked[:-1]))) if len(ranked) else score_order
    return labels[score_order], starts, score_order


def _ranked(
    score_order: NDArray[np.intp], starts: NDArray[np.intp], of_rows: Callable[[Floats, _SumColumns], Floats]
) -> Evaluator:
    """An evaluator that has `of_rows` compute some resamples at a time, so that what lies between its steps stays in
    the cache: from their weights in the order of the scores, and with the sum over columns to use.

    Sums have the last bit that numpy's would have over all resamples at once: these lie by columns once they are in
    the order of the scores, so that each value is added to the sum of those before. Of whole numbers any order gives
    the same.
    """
    by_columns = len(starts) == len(score_order)  # else adding up groups has laid them out by rows

    def weighted(counts: Floats) -> Floats:
        one_by_one = by_columns and len(counts) > 1
        counts = np.ascontiguousarray(counts)
        values = []
        for rows in row_slices(*counts.shape):
            ranked_counts = np.take(counts[rows], score_order, axis=1)
            is_whole = not one_by_one or bool((ranked_counts == np.rint(ranked_counts)).all())
            values.append(of_rows(ranked_counts, _sum_columns if is_whole else _sum_one_by_one))
        return np.concatenate(values)

    return weighted


def _sum_columns(values: Floats) -> Floats:
    """[B, n] -> [B]."""
    return np.asarray(values.sum(axis=1))


def _sum_one_by_one(values: Floats) -> Floats:
    """The same, each value added to the sum of those before."""
    return np.asarray(np.cumsum(values, axis=1)[:, -1])


def _per_group(values: Floats, starts: NDArray[np.intp]) -> Floats:
    """Sums over groups of columns: [B, n] -> [B, g]."""
    if len(starts) == values.shape[1]:
        return values
    return np.asarray(np.add.reduceat(values, starts, axis=1))


def _numbers(scores: Column) -> Floats:
    numbers = np.asarray(scores, dtype=np.float64)
    if np.isnan(numbers).any():
        raise ValueError(f"{int(np.isnan(numbers).sum())} of {len(numbers)} scores are missing (nan)")
    return numbers


def labelled_probabilities(gold_labels: Column, probability: Column) -> tuple[Floats, Floats]:
    """Gold labels of 0 and 1, and as many probabilities in 0 to 1, as floats [n]. ValueError for others."""
    labels, numbers = binary(gold_labels), _numbers(probability)
    if ((numbers < 0) | (numbers > 1)).any():
        raise ValueError(f"probabilities must lie in 0 to 1, got {numbers.min():g} to {numbers.max():g}")
    check_lengths(labels, numbers)
    return labels, numbers
