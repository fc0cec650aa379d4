"""The guards of a round of pseudo-labels: a model that learns from its own answers may collapse without a word."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from lorica.config.adapt_section import AdaptConfig
from lorica.ensemble.members import Scores, degenerate_reasons
from lorica.metrics.bootstrap import paired_difference
from lorica.metrics.metric_table import find_metric

_FEWEST_OF_LABEL = 5  # rows of a label, of which the teacher is sure, that are looked at by themselves


class GuardReading(msgspec.Struct, frozen=True):
    """What one guard measured. value beside limit; passed; reason: why not, in a sentence, or why nothing was measured.
    value is None where nothing could be measured, which stops nothing."""

    guard: str
    value: float | None
    limit: float
    passed: bool
    reason: str = ""


def class_balance(name: str, share: float, prior: float, limits: AdaptConfig) -> GuardReading:
    """The share of label 1 against the prior."""
    shift = abs(share - prior)
    passed = shift <= limits.max_balance_shift
    reason = f"{share:.0%} are 1, and {prior:.0%} were expected"
    return GuardReading(name, shift, limits.max_balance_shift, passed, "" if passed else reason)


def score_distance(scores: Scores, before: Scores, limits: AdaptConfig) -> GuardReading:
    """How far the distribution of the scores [n] moved in a round: the Wasserstein distance of the two samples, which
    is the mean distance of their sorted values. Scores that are good for nothing fail, too."""
    distance = float(np.abs(np.sort(scores) - np.sort(before)).mean())
    reason = degenerate_reasons(scores)
    if not reason and distance > limits.max_distance:
        reason = f"the scores moved by {distance:.2f} in the mean"
    return GuardReading("score distance", distance, limits.max_distance, not reason, reason)


def teacher_agreement(scores: Scores, teacher: Scores, limits: AdaptConfig) -> GuardReading:
    """The share of rows answered as the frozen teacher does, among those that it is sure of: of all, or of those of one
    label where it is less. Where one label is rare, a model that gives it up still agrees on nearly all rows."""
    is_sure = (teacher < limits.low) | (teacher > limits.high)
    if not is_sure.any():
        return GuardReading("teacher", None, limits.min_agreement, True, "the teacher is sure of no row")
    agrees = (scores >= 0.5) == (teacher >= 0.5)
    sides = {"": is_sure, " to be 1": is_sure & (teacher >= 0.5), " to be 0": is_sure & (teacher < 0.5)}
    shares = {
        side: float(agrees[rows].mean()) for side, rows in sides.items() if not side or rows.sum() >= _FEWEST_OF_LABEL
    }
    side, agreement = min(shares.items(), key=lambda entry: entry[1])
    passed = agreement >= limits.min_agreement
    row_count = int(sides[side].sum())
    reason = f"{agreement:.0%} of the {row_count} rows that the teacher is sure of{side} are answered as it does"
    return GuardReading("teacher", agreement, limits.min_agreement, passed, "" if passed else reason)


def canary_rows(scores: Scores, teacher: Scores, labels: Sequence[int], limits: AdaptConfig) -> GuardReading:
    """How far the ROC-AUC on labelled rows [n] fell below the teacher's; a fall that chance explains stops nothing."""
    limit = limits.max_canary_drop
    if len(set(labels)) < 2:
        return GuardReading("canary rows", None, limit, True, "there are no canary rows of both labels")
    difference = paired_difference(find_metric("roc_auc"), labels, scores, teacher)
    passed = -difference.value <= limit or difference.high >= 0
    reason = f"ROC-AUC on {len(labels)} canary rows fell by {-difference.value:.3f} ({difference})"
    return GuardReading("canary rows", -difference.value, limit, passed, "" if passed else reason)


def pick_pseudo_labels(scores: Mapping[str, float], limits: AdaptConfig) -> dict[str, int]:
    """Row id -> label, of rows with a confident score."""
    return {row_id: int(score > 0.5) for row_id, score in scores.items() if score < limits.low or score > limits.high}
