"""Answers against gold: every metric with its interval, its n, and the counts of rows that were no clean answer."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeVar

import msgspec
import numpy as np

from lorica.metrics.abstention import abstains
from lorica.metrics.base import Metric
from lorica.metrics.bootstrap import Estimate, MetricInputs, averaged_over, estimate_all, paired_difference
from lorica.metrics.health import MassHealth, ScoreHealth, mass_health, score_health
from lorica.metrics.metric_table import SCORE_METRICS, TEXT_METRICS, find_metric
from lorica.metrics.normalise import LORICA
from lorica.metrics.operating_points import OperatingPoint, ReliabilityBin, operating_points, reliability_curve
from lorica.metrics.score_metrics import outside_probability
from lorica.pipeline.judged_answers import (
    JudgedAnswer,
    bootstrap_clusters,
    judge_answers,
    metric_columns,
    paired_columns,
    row_weights,
)
from lorica.pipeline.judged_table import Indices, JudgedTable
from lorica.records import Answer, Row
from lorica.tasks.base import Task

_Key = TypeVar("_Key")


@dataclass(frozen=True)
class Grouping:
    """The metrics within each group of rows that share a value of a column.

    groups: value -> metric -> estimate. rows: value -> how many. means: metric -> its mean over the groups in which it
    is defined, whatever their sizes (column-averaged), undefined where it is in none.
    """

    groups: dict[str, dict[str, Estimate]]
    rows: dict[str, int]
    means: dict[str, Estimate]


@dataclass(frozen=True)
class Abstentions:
    """Answers that say they do not know: how many, the rows that gold calls not answerable, and how many of these were
    answered so."""

    answers: int
    unanswerable: int
    right: int


@dataclass(frozen=True)
class Evaluation:
    """metrics: name -> estimate, the task's main metric first. groups: group -> estimate of the main metric.

    unscored: rows that have no score and are left out of metrics on scores (they count as wrong everywhere else).
    stages, flags: rows by parse stage and by flag. no_answer: ids of rows without an answer, which is right nowhere.
    unreadable: id -> why, of answers that name no option and no label; they count as wrong. contradictory: ids of rows
    whose answer says otherwise than their score, by which they are judged. normalisations: metric -> what its texts
    were compared under, where it compares texts. by: column -> the metrics within its groups.
    choice_mass: how much of the model's probability the choices had, where answers say so. health: of the column of
    scores, where answers have them. bootstrap_groups: how many groups of rows intervals draw from, 0 where they draw
    rows. effective_n: what n is worth where rows have weights (Kish: the squared sum of the weights over the sum of
    their squares), else None. abstentions: where answers are texts.
    """

    n: int
    metrics: dict[str, Estimate]
    groups: dict[str, Estimate]
    unscored: int
    stages: dict[str, int]
    flags: dict[str, int]
    no_answer: tuple[str, ...] = ()
    unreadable: dict[str, str] = field(default_factory=dict)
    contradictory: tuple[str, ...] = ()
    normalisations: dict[str, str] = field(default_factory=dict)
    by: dict[str, Grouping] = field(default_factory=dict)
    choice_mass: MassHealth | None = None
    health: ScoreHealth | None = None
    truncated: int = 0
    retried: int = 0
    bootstrap_groups: int = 0
    operating_points: tuple[OperatingPoint, ...] = ()
    reliability: tuple[ReliabilityBin, ...] = ()
    effective_n: float | None = None
    abstentions: Abstentions | None = None


def evaluate(
    task: Task,
    rows: Sequence[Row],
    answers: Mapping[str, Answer],
    *,
    by: Mapping[str, Mapping[str, str]] = MappingProxyType({}),
    max_fprs: Sequence[float] | None = None,
    normalisation: str = LORICA.name,
    seed: int = 0,
    gold_file: str = "gold",
    answer_file: str = "answers",
) -> Evaluation:
    """Measure answers (by row id) on rows with gold.

    by: column -> row id -> value, of columns to group by. max_fprs: the false-positive rates of operating points; None
    measures the task's own metrics only, else scores get all of `SCORE_METRICS` and their reliability curve.
    normalisation: what texts are compared under, a name of `metrics.normalise.NORMALISATIONS`. The bootstrap draws
    whole groups where rows belong to some.

    Raises DataError when a row has no gold or no answer, naming the first and its file.
    """
    judged = judge_answers(task, rows, answers, gold_file, answer_file)
    return evaluate_judged(task, judged, by=by, max_fprs=max_fprs, normalisation=normalisation, seed=seed)


def evaluate_judged(
    task: Task,
    judged: Sequence[JudgedAnswer],
    *,
    by: Mapping[str, Mapping[str, str]] = MappingProxyType({}),
    max_fprs: Sequence[float] | None = None,
    normalisation: str = LORICA.name,
    seed: int = 0,
) -> Evaluation:
    """As `evaluate`, of answers that `judge_answers` has read."""
    used_metrics = [find_metric(metric_name, normalisation) for metric_name in task.metric_names]
    main_metric, metrics = used_metrics[0], list(used_metrics)
    by_score = main_metric.takes_scores
    if max_fprs is not None:
        further = SCORE_METRICS if by_score else TEXT_METRICS if main_metric.takes == "text" else ()
        metrics += [find_metric(name, normalisation) for name in further if name not in task.metric_names]
    table = JudgedTable(judged, metrics)
    groups = [judged_row.row.group or judged_row.row.subject for judged_row in judged]
    labels = {column: [values[judged_row.row.id] for judged_row in judged] for column, values in by.items()}
    return Evaluation(
        n=len(judged),
        metrics=_estimate_parts(table, metrics, {"": table.all_rows}, seed, within=False)[""],
        groups=_by_group(table, main_metric, groups, seed) if any(groups) else {},
        unscored=sum(judged_row.answer.score is None for judged_row in judged) if by_score else 0,
        stages=dict(Counter(judged_row.answer.stage for judged_row in judged)),
        flags=dict(Counter(answer_flag for judged_row in judged for answer_flag in judged_row.answer.flags)),
        no_answer=tuple(
            judged_row.row.id for judged_row in judged if judged_row.value is None and not judged_row.problem
        ),
        unreadable={judged_row.row.id: judged_row.problem for judged_row in judged if judged_row.problem},
        contradictory=tuple(judged_row.row.id for judged_row in judged if judged_row.contradictory),
        normalisations={metric.name: metric.normalisation for metric in metrics if metric.normalisation},
        by={column: _group_metrics(table, used_metrics, labels[column], seed) for column in by},
        choice_mass=mass_health([judged_row.answer.choice_mass for judged_row in judged]),
        health=_health(judged) if by_score else None,
        truncated=sum(judged_row.answer.dropped_tokens > 0 for judged_row in judged),
        retried=sum(judged_row.answer.retries > 0 for judged_row in judged),
        bootstrap_groups=len(set(bootstrap_clusters([judged_row.row for judged_row in judged]) or ())),
        operating_points=_operating_points(judged, max_fprs) if by_score and max_fprs else (),
        reliability=_reliability(judged) if by_score and max_fprs is not None else (),
        effective_n=_effective_n(judged),
        abstentions=_abstentions(judged) if main_metric.takes == "text" else None,
    )


def _abstentions(judged: Sequence[JudgedAnswer]) -> Abstentions:
    abstained = [isinstance(judged_row.value, str) and abstains(judged_row.value) for judged_row in judged]
    unanswerable = [
        isinstance(judged_row.row.gold, tuple) and any(map(abstains, judged_row.row.gold)) for judged_row in judged
    ]
    return Abstentions(sum(abstained), sum(unanswerable), sum(map(min, abstained, unanswerable)))


def _effective_n(judged: Sequence[JudgedAnswer]) -> float | None:
    weights = row_weights(judged)
    return None if weights is None else float(weights.sum() ** 2 / (weights**2).sum())


def _health(judged: Sequence[JudgedAnswer]) -> ScoreHealth | None:
    answers = [judged_row.answer for judged_row in judged]
    if all(answer.score is None for answer in answers):
        return None
    return score_health(
        [answer.score for answer in answers],
        gold=[judged_row.row.gold for judged_row in judged],
        fallback=[answer.stage == "fallback" for answer in answers],
        masses=[answer.choice_mass for answer in answers],
    )


def _operating_points(judged: Sequence[JudgedAnswer], max_fprs: Sequence[float]) -> tuple[OperatingPoint, ...]:
    columns = metric_columns(find_metric("roc_auc"), judged)
    return operating_points(columns.gold, columns.predicted, max_fprs, columns.weights)


def _reliability(judged: Sequence[JudgedAnswer]) -> tuple[ReliabilityBin, ...]:
    columns = metric_columns(find_metric("brier"), judged)
    if outside_probability(columns.predicted) is not None:
        return ()
    return reliability_curve(columns.gold, columns.predicted, columns.weights)


def paired_metric_difference(
    task: Task, rows: Sequence[Row], a: Mapping[str, Answer], b: Mapping[str, Answer], *, seed: int = 0
) -> Estimate:
    """The main metric of `a` minus that of `b`, with a paired interval over the rows that both have scored."""
    main_metric = find_metric(task.metric_names[0])
    first, second = paired_columns(main_metric, judge_answers(task, rows, a), judge_answers(task, rows, b))
    clusters = bootstrap_clusters(first.rows)
    return paired_difference(main_metric, first.gold, first.predicted, second.predicted, seed=seed, groups=clusters)


def estimate_metric(metric: Metric, judged: Sequence[JudgedAnswer], seed: int, *, within: bool = False) -> Estimate:
    """One metric of answers, with its interval. within: of the rows of one value of a column, which may be of one
    group; then its rows are drawn."""
    table = JudgedTable(judged, [metric])
    return _estimate_parts(table, [metric], {"": table.all_rows}, seed, within=within)[""][metric.name]


def _estimate_parts(
    table: JudgedTable, metrics: Sequence[Metric], parts: Mapping[str, Indices], seed: int, *, within: bool
) -> dict[str, dict[str, Estimate]]:
    """Part -> metric -> its estimate on the part's rows. within: see `estimate_metric`."""
    measured = {}
    for part, part_indices in parts.items():
        for metric in metrics:
            indices = table.measured_rows(metric, part_indices)
            clusters = table.clusters(indices)
            if within and clusters is not None and len(set(clusters)) == 1:
                clusters = None
            measured[part, metric.name] = table.measured(metric, indices, clusters)
    estimates = _estimate_measured(measured, seed)
    return {part: {metric.name: estimates[part, metric.name] for metric in metrics} for part in parts}


def _estimate_measured(measured: Mapping[_Key, MetricInputs], seed: int) -> dict[_Key, Estimate]:
    """Undefined, with the reason, where no row has what the metric takes."""
    notes = {key: _undefined_note(item) for key, item in measured.items()}
    defined_keys = [key for key in measured if not notes[key]]
    estimates = dict(zip(defined_keys, estimate_all([measured[key] for key in defined_keys], seed=seed), strict=True))
    return {
        key: Estimate(math.nan, math.nan, math.nan, len(item.gold), notes[key]) if notes[key] else estimates[key]
        for key, item in measured.items()
    }


def _undefined_note(measured: MetricInputs) -> str:
    metric = measured.metric
    if not len(measured.gold):
        return f"{metric.name} needs {'scores, and no row has one' if metric.takes_scores else metric.needs}"
    if metric.takes == "probability" and (outside := outside_probability(measured.predictions)) is not None:
        return f"{metric.name} needs probabilities, and a score is {outside:g}"
    return ""


def _by_group(table: JudgedTable, metric: Metric, groups: Sequence[str], seed: int) -> dict[str, Estimate]:
    estimates = _estimate_parts(table, [metric], _parts(groups), seed, within=True)
    return {name: part_estimates[metric.name] for name, part_estimates in estimates.items()}


def _parts(labels: Iterable[str]) -> dict[str, Indices]:
    """Label [n] -> the rows that have it, by the order of the labels."""
    members: dict[str, list[int]] = {}
    for index, label in enumerate(labels):
        members.setdefault(label, []).append(index)
    return {label: np.array(members[label], dtype=np.intp) for label in sorted(members)}


def _group_metrics(table: JudgedTable, used_metrics: Sequence[Metric], labels: Sequence[str], seed: int) -> Grouping:
    """labels: [n], the value of the column in each row."""
    parts = _parts(labels)
    groups = _estimate_parts(table, used_metrics, parts, seed, within=True)
    means = {metric.name: _mean_over_groups(table, metric, labels) for metric in used_metrics}
    return Grouping(groups, {label: len(parts[label]) for label in groups}, _estimate_measured(means, seed))


def _mean_over_groups(table: JudgedTable, metric: Metric, labels: Sequence[str]) -> MetricInputs:
    """The groups are taken as they are, and rows drawn: whole groups of the bootstrap only where none of those holds a
    whole group of the column, which drawing would lose or double."""
    indices = table.measured_rows(metric, table.all_rows)
    names = [labels[index] for index in indices.tolist()]
    clusters = table.clusters(indices)
    if clusters is not None:
        clusters_of: dict[str, set[str]] = {}
        for name, cluster in zip(names, clusters, strict=True):
            clusters_of.setdefault(name, set()).add(cluster)
        clusters = None if any(len(members) == 1 for members in clusters_of.values()) else clusters
    measured = table.measured(metric, indices, clusters)
    return msgspec.structs.replace(measured, metric=averaged_over(measured.metric, names))
