"""Where to put a threshold on scores: points of the ROC curve at a stated false-positive rate, and the reliability of
probabilities by bins."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import numpy as np

from lorica.metrics.base import Column, Floats
from lorica.metrics.score_metrics import RELIABILITY_BINS, labelled_probabilities, reliability_bins, sort_by_score

# Of a sum of weights: ten times 0.1 is a little less than 1.
_ROUNDING = 1e-12


class OperatingPoint(msgspec.Struct, frozen=True):
    """The lowest threshold whose false-positive rate is at most `max_fpr`: a score counts as class 1 from it on.

    fpr, tpr: the rates there. precision: the share of class 1 among the scores from the threshold on, nan where there
    are none; the threshold is +inf then.
    """

    max_fpr: float
    threshold: float
    fpr: float
    tpr: float
    precision: float


class ReliabilityBin(msgspec.Struct, frozen=True):
    """Rows whose probability lies in `low` to `high`: how many, their mean probability, their share of class 1 (both
    weighted, where rows have weights)."""

    low: float
    high: float
    n: int
    mean_probability: float
    share: float


def operating_points(
    gold_labels: Column, scores: Column, max_fprs: Sequence[float], weights: Floats | None = None
) -> tuple[OperatingPoint, ...]:
    """For each of `max_fprs` (0 to 1) the point of the ROC curve with the highest true-positive rate.

    gold_labels: [n] of 0 and 1. scores: [n], any scale. weights: [n] of rows, from 0 on. () where a class is missing.
    ValueError for bad input.
    """
    labels, starts, score_order = sort_by_score(gold_labels, scores, descending=True)
    if any(not 0 <= max_fpr <= 1 for max_fpr in max_fprs):
        raise ValueError(f"a false-positive rate of {max_fprs}; allowed: 0 to 1")
    ranked_weights = np.ones(len(labels)) if weights is None else np.asarray(weights)[score_order]
    positives = (ranked_weights * labels).sum()
    negatives = (ranked_weights * (1 - labels)).sum()
    if not positives or not negatives:
        return ()
    # The last row of each group of equal scores: a threshold cannot part them.
    ends = np.append(starts[1:], len(labels)) - 1
    true_positives = np.cumsum(ranked_weights * labels)[ends]
    false_positives = np.cumsum(ranked_weights * (1 - labels))[ends]
    rounding = 0.0 if weights is None else _ROUNDING
    points = []
    for max_fpr in max_fprs:
        allowed = int(np.searchsorted(false_positives / negatives, max_fpr + rounding, side="right")) - 1
        if allowed < 0:
            points.append(OperatingPoint(max_fpr, math.inf, 0.0, 0.0, math.nan))
            continue
        hits, alarms = float(true_positives[allowed]), float(false_positives[allowed])
        threshold = float(scores[score_order[ends[allowed]]])
        precision = hits / (hits + alarms) if hits + alarms else math.nan
        points.append(OperatingPoint(max_fpr, threshold, alarms / negatives, hits / positives, precision))
    return tuple(points)


def reliability_curve(
    gold_labels: Column, probability: Column, weights: Floats | None = None
) -> tuple[ReliabilityBin, ...]:
    """The bins of `ece` that hold rows, from low to high. gold_labels: [n] of 0 and 1. probability: [n], 0 to 1.
    weights: [n] of rows; rows without any are left out."""
    labels, probabilities = labelled_probabilities(gold_labels, probability)
    row_weights = np.ones(len(labels)) if weights is None else np.asarray(weights)
    bins = np.where(row_weights > 0, reliability_bins(probabilities), -1)
    return tuple(
        ReliabilityBin(
            index / RELIABILITY_BINS,
            (index + 1) / RELIABILITY_BINS,
            int((bins == index).sum()),
            float(np.average(probabilities[bins == index], weights=row_weights[bins == index])),
            float(np.average(labels[bins == index], weights=row_weights[bins == index])),
        )
        for index in np.unique(bins[bins >= 0]).tolist()
    )
