"""How far verdicts agree: with a reference (accuracy, Cohen's kappa), and with themselves when asked again."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lorica.metrics.base import Column, Evaluator, Floats, Metric, check_lengths, ratio
from lorica.metrics.bootstrap import Estimate, estimate
from lorica.metrics.metric_table import find_metric


@dataclass(frozen=True)
class Agreement:
    """Verdicts against a reference on the same n rows.

    kappa: Cohen's, agreement beyond chance. base_rate: share of rows that the reference gives `label`, the rubric's
    best one; judge_rate: the same of the judge. confusion: (reference label, verdict) -> rows.
    """

    reference: str
    n: int
    accuracy: Estimate
    kappa: Estimate
    label: str
    base_rate: float
    judge_rate: float
    confusion: dict[tuple[str, str], int]

    @property
    def is_beyond_chance(self) -> bool:
        """Whether the interval of kappa lies above 0."""
        return self.kappa.low > 0


@dataclass(frozen=True)
class Consistency:
    """How often a second question gave the same label. largest_change: of a label's probability between the two."""

    n: int
    same: int
    rate: Estimate
    largest_change: float


def _prepare_kappa(first_labels: Column, second_labels: Column) -> Evaluator:
    """Cohen's kappa: agreement of two sets of labels [n] beyond what their frequencies alone would give; nan where both
    are one label throughout."""
    check_lengths(first_labels, second_labels)
    index_of = {label: index for index, label in enumerate(dict.fromkeys((*first_labels, *second_labels)))}
    members = [
        _one_hot([index_of[label] for label in labels], len(index_of)) for labels in (first_labels, second_labels)
    ]
    agrees = (members[0] * members[1]).sum(axis=1)

    def weighted(counts: Floats) -> Floats:
        totals = counts.sum(axis=1)
        observed = ratio(counts @ agrees, totals)
        expected = ratio(((counts @ members[0]) * (counts @ members[1])).sum(axis=1), totals**2)
        return ratio(observed - expected, np.where(np.isclose(expected, 1.0), 0.0, 1.0 - expected))

    return weighted


def _one_hot(indices: Sequence[int], width: int) -> Floats:
    matrix = np.zeros((len(indices), width))
    matrix[np.arange(len(indices)), indices] = 1.0
    return matrix


_KAPPA = Metric("kappa", "label", _prepare_kappa, needs="two different labels")


def agreement(
    reference: str,
    reference_labels: Sequence[str],
    verdict_labels: Sequence[str],
    *,
    label: str,
    groups: Sequence[str] | None = None,
) -> Agreement:
    """Compare labels of the same rows, [n] each. reference: what they are compared with, in words. label: the one whose
    share is stated. groups: [n] names of what the bootstrap draws together."""
    row_count = len(verdict_labels)
    return Agreement(
        reference,
        row_count,
        _estimate(find_metric("accuracy"), reference_labels, verdict_labels, groups),
        _estimate(_KAPPA, reference_labels, verdict_labels, groups),
        label,
        _share(reference_labels, label),
        _share(verdict_labels, label),
        dict(Counter(zip(reference_labels, verdict_labels, strict=True))),
    )


def consistency(
    first_labels: Sequence[str],
    second_labels: Sequence[str],
    *,
    changes: Sequence[float],
    groups: Sequence[str] | None = None,
) -> Consistency:
    """Compare the labels of the same items asked twice, [n] each. changes: [n] of probability."""
    same = sum(first == second for first, second in zip(first_labels, second_labels, strict=True))
    rate = _estimate(find_metric("accuracy"), first_labels, second_labels, groups)
    return Consistency(len(first_labels), same, rate, max(changes, default=math.nan))


def _estimate(metric: Metric, first: Sequence[str], second: Sequence[str], groups: Sequence[str] | None) -> Estimate:
    if not first:
        return Estimate(math.nan, math.nan, math.nan, 0, "no row has both labels")
    return estimate(metric, first, second, groups=groups)


def _share(labels: Sequence[str], label: str) -> float:
    return labels.count(label) / len(labels) if labels else math.nan
