"""Several sets of answers to the same rows: which is better, by more than the choice of rows explains."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from lorica.metrics.base import Metric
from lorica.metrics.metric_table import find_metric
from lorica.metrics.normalise import LORICA
from lorica.metrics.paired_tests import SIGNIFICANCE, McNemar, PairedTest, holm, mcnemar, paired_bootstrap
from lorica.pipeline.judged_answers import (
    JudgedAnswer,
    bootstrap_clusters,
    correctness_metric,
    is_right,
    paired_columns,
)
from lorica.tasks.base import Task


@dataclass(frozen=True)
class PairComparison:
    """Two sets of answers, by their names.

    n: rows that both can be measured on. test: of the main metric, first minus second. p_corrected: its p-value,
    corrected for the number of pairs (Holm). mcnemar: of the rows that were answered right. better: the name of the one
    that is better by more than chance, "" where neither is.
    """

    first: str
    second: str
    n: int
    test: PairedTest
    mcnemar: McNemar
    p_corrected: float = math.nan
    better: str = ""


@dataclass(frozen=True)
class FileComparison:
    """metric: what was compared, the task's main metric. pairs: all pairs of sets. ranks: name -> 1 + the number of
    sets that are better by more than chance, so that sets which nothing tells apart may share a rank."""

    metric: str
    pairs: tuple[PairComparison, ...]
    ranks: dict[str, int]


def compare(
    task: Task,
    judged_sets: Mapping[str, Sequence[JudgedAnswer]],
    *,
    normalisation: str = LORICA.name,
    seed: int = 0,
) -> FileComparison:
    """Compare every two of `judged_sets` (name -> answers to the same rows in one order), pair by pair of answers."""
    main_metric = find_metric(task.metric_names[0], normalisation)
    correctness = correctness_metric(task, normalisation)
    pairs = [
        _compare_pair(main_metric, correctness, (first, judged_sets[first]), (second, judged_sets[second]), seed)
        for first, second in combinations(judged_sets, 2)
    ]
    corrected = holm([pair.test.p_value for pair in pairs])
    sign = 1 if main_metric.higher_is_better else -1
    judged_pairs = tuple(
        replace(pair, p_corrected=p_value, better=_better(pair, p_value, sign))
        for pair, p_value in zip(pairs, corrected, strict=True)
    )
    beaten = [pair.second if pair.better == pair.first else pair.first for pair in judged_pairs if pair.better]
    return FileComparison(main_metric.name, judged_pairs, {name: 1 + beaten.count(name) for name in judged_sets})


def _better(pair: PairComparison, p_value: float, sign: int) -> str:
    if math.isnan(p_value) or p_value >= SIGNIFICANCE:
        return ""
    return pair.first if sign * pair.test.difference.value > 0 else pair.second


def _compare_pair(
    metric: Metric,
    correctness: Metric,
    first: tuple[str, Sequence[JudgedAnswer]],
    second: tuple[str, Sequence[JudgedAnswer]],
    seed: int,
) -> PairComparison:
    (first_name, first_judged), (second_name, second_judged) = first, second
    first_columns, second_columns = paired_columns(metric, first_judged, second_judged)
    test = paired_bootstrap(
        metric,
        first_columns.gold,
        first_columns.predicted,
        second_columns.predicted,
        seed=seed,
        groups=bootstrap_clusters(first_columns.rows),
        weights=first_columns.weights,
    )
    right = [is_right(correctness, judged) for judged in (first_judged, second_judged)]
    return PairComparison(first_name, second_name, len(first_columns.rows), test, mcnemar(*right))
