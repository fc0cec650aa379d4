"""Several sets of answers to the same rows: which is better, by more than the choice of rows explains."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations

from lorica.metrics.base import Metric
from lorica.metrics.bootstrap import MetricResamples, metric_resamples
from lorica.metrics.metric_table import find_metric
from lorica.metrics.normalise import LORICA
from lorica.metrics.paired_tests import SIGNIFICANCE, McNemar, PairedTest, holm, mcnemar, paired_test, resamples_for
from lorica.pipeline.judged_answers import (
    JudgedAnswer,
    MetricColumns,
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
    metric_name: str = "",
) -> FileComparison:
    """Compare every two of `judged_sets` (name -> answers to the same rows in one order), pair by pair of answers.

    metric_name: by what; where it is "" the task's main metric, or where a set has no scores its first one that takes
    answers. The more pairs, the more resamples: see `resamples_for`."""
    metrics = [find_metric(name, normalisation) for name in ((metric_name and [metric_name]) or task.metric_names)]
    have_scores = all(any(row.answer.score is not None for row in judged) for judged in judged_sets.values())
    main_metric = next((metric for metric in metrics if have_scores or not metric.takes_scores), metrics[0])
    correctness = correctness_metric(task, normalisation)
    right = {name: is_right(correctness, judged) for name, judged in judged_sets.items()}
    name_pairs = list(combinations(judged_sets, 2))
    drawer = _Drawer(main_metric, resamples_for(len(name_pairs)), seed)
    pairs = []
    for first, second in name_pairs:
        row_count, test = drawer.test((first, judged_sets[first]), (second, judged_sets[second]))
        pairs.append(PairComparison(first, second, row_count, test, mcnemar(right[first], right[second])))
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


@dataclass
class _Drawer:
    """Draws the rows of each set of answers once, for all pairs that it is in."""

    metric: Metric
    resamples: int
    seed: int
    drawn: dict[tuple[str, tuple[str, ...]], MetricResamples] = field(default_factory=dict)

    def test(
        self, first: tuple[str, Sequence[JudgedAnswer]], second: tuple[str, Sequence[JudgedAnswer]]
    ) -> tuple[int, PairedTest]:
        """How many rows both can be measured on, and the test of their difference there."""
        (first_name, first_judged), (second_name, second_judged) = first, second
        first_columns, second_columns = paired_columns(self.metric, first_judged, second_judged)
        difference = self._draw(first_name, first_columns).minus(self._draw(second_name, second_columns))
        row_count = len(first_columns.rows)
        return row_count, paired_test(self.metric, difference, row_count, bootstrap_clusters(first_columns.rows))

    def _draw(self, name: str, columns: MetricColumns) -> MetricResamples:
        # By the rows, too: in another pair other rows may have no score.
        key = (name, tuple(row.id for row in columns.rows))
        if key not in self.drawn:
            (self.drawn[key],) = metric_resamples(
                self.metric,
                columns.gold,
                columns.predicted,
                resamples=self.resamples,
                seed=self.seed,
                groups=bootstrap_clusters(columns.rows),
                weights=columns.weights,
            )
        return self.drawn[key]
