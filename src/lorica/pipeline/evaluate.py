"""Answers against gold: every metric with its interval, its n, and the counts of rows that were no clean answer."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from lorica.errors import DataError
from lorica.metrics.base import Column, Metric
from lorica.metrics.bootstrap import Estimate, by_group, estimate, paired_difference
from lorica.metrics.health import MassHealth, ScoreHealth, mass_health, score_health
from lorica.metrics.metric_table import find_metric
from lorica.metrics.normalise import LORICA, is_answer
from lorica.records import Answer, Problem, Row
from lorica.tasks.base import Task

_NO_GOLD = Problem("the row has no gold answer", "evaluate on a file whose every row has the label column")

# A row of these stages, or with one of these flags, has no answer, whatever else its record says.
_FAILED_STAGES = frozenset({"invalid", "fallback"})
_FAILED_FLAGS = frozenset({"invalid", "error", "parse_fallback"})


@dataclass(frozen=True)
class Grouping:
    """The metrics within each group of rows that share a value of a column.

    groups: value -> metric -> estimate. rows: value -> how many. means: metric -> its mean over the groups in which it
    is defined, whatever their sizes; nan where it is in none.
    """

    groups: dict[str, dict[str, Estimate]]
    rows: dict[str, int]
    means: dict[str, float]


@dataclass(frozen=True)
class Evaluation:
    """metrics: name -> estimate, the task's main metric first. groups: group -> estimate of the main metric.

    unscored: rows that have no score and are left out of metrics on scores (they count as wrong everywhere else).
    stages, flags: rows by parse stage and by flag. no_answer: ids of rows without an answer, which is right nowhere.
    unreadable: id -> why, of answers that name no option and no label; they count as wrong. contradictory: ids of rows
    whose answer says otherwise than their score, by which they are judged. normalisations: metric -> what its texts
    were compared under, where it compares texts. by: column -> the metrics within its groups.
    choice_mass: how much of the model's probability the choices had, where answers say so. health: of the column of
    scores, where answers have them.
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


@dataclass(frozen=True)
class _Judged:
    """A row with its answer as the task reads it: 0/1, an index or a text; None when there is none, or `problem`.

    contradictory: whether a label that is taken from a score is not the one that the answer names.
    """

    row: Row
    answer: Answer
    value: int | str | None
    problem: str = ""
    contradictory: bool = False


def evaluate(
    task: Task,
    rows: Sequence[Row],
    answers: Mapping[str, Answer],
    *,
    by: Mapping[str, Mapping[str, str]] = MappingProxyType({}),
    normalisation: str = LORICA.name,
    seed: int = 0,
    gold_file: str = "gold",
    answer_file: str = "answers",
) -> Evaluation:
    """Measure answers (by row id) on rows with gold.

    by: column -> row id -> value, of columns to group by. normalisation: what texts are compared under, a name of
    `metrics.normalise.NORMALISATIONS`. Where rows belong to groups (variants of a question, a functionality), the
    bootstrap draws whole groups: rows of one group say much the same, and drawing them one by one would make intervals
    too narrow.

    Raises DataError when a row has no gold or no answer, naming the first and its file.
    """
    judged = _join_answers(task, rows, answers, gold_file, answer_file)
    used_metrics = [find_metric(metric_name, normalisation) for metric_name in task.metric_names]
    main_metric = used_metrics[0]
    groups = [judged_row.row.group or judged_row.row.subject for judged_row in judged]
    return Evaluation(
        n=len(judged),
        metrics={metric.name: _estimate_metric(metric, judged, seed) for metric in used_metrics},
        groups=_by_group(main_metric, judged, groups, seed) if any(groups) else {},
        unscored=sum(judged_row.answer.score is None for judged_row in judged) if main_metric.takes == "score" else 0,
        stages=dict(Counter(judged_row.answer.stage for judged_row in judged)),
        flags=dict(Counter(answer_flag for judged_row in judged for answer_flag in judged_row.answer.flags)),
        no_answer=tuple(
            judged_row.row.id for judged_row in judged if judged_row.value is None and not judged_row.problem
        ),
        unreadable={judged_row.row.id: judged_row.problem for judged_row in judged if judged_row.problem},
        contradictory=tuple(judged_row.row.id for judged_row in judged if judged_row.contradictory),
        normalisations={metric.name: metric.normalisation for metric in used_metrics if metric.normalisation},
        by={column: _group_metrics(used_metrics, judged, values, seed) for column, values in by.items()},
        choice_mass=mass_health([judged_row.answer.choice_mass for judged_row in judged]),
        health=_health(judged) if main_metric.takes == "score" else None,
    )


def _health(judged: Sequence[_Judged]) -> ScoreHealth | None:
    answers = [judged_row.answer for judged_row in judged]
    if all(answer.score is None for answer in answers):
        return None
    return score_health(
        [answer.score for answer in answers],
        gold=[judged_row.row.gold for judged_row in judged],
        fallback=[answer.stage == "fallback" for answer in answers],
        masses=[answer.choice_mass for answer in answers],
    )


def paired_metric_difference(
    task: Task, rows: Sequence[Row], a: Mapping[str, Answer], b: Mapping[str, Answer], *, seed: int = 0
) -> Estimate:
    """The main metric of `a` minus that of `b`, with a paired interval over the rows that both have scored."""
    main_metric = find_metric(task.metric_names[0])
    rows = [row for row in rows if main_metric.takes != "score" or None not in (a[row.id].score, b[row.id].score)]
    gold_values, first, scored = _metric_columns(main_metric, _join_answers(task, rows, a))
    _, second, _ = _metric_columns(main_metric, _join_answers(task, rows, b))
    return paired_difference(main_metric, gold_values, first, second, seed=seed, groups=_bootstrap_clusters(scored))


def _join_answers(
    task: Task,
    rows: Sequence[Row],
    answers: Mapping[str, Answer],
    gold_file: str = "gold",
    answer_file: str = "answers",
) -> list[_Judged]:
    for row in rows:
        if row.gold is None:
            problem = row.gold_problem or _NO_GOLD
            raise DataError(problem.message, path=gold_file, line=row.line or None, row_id=row.id, fix=problem.fix)
        if row.id not in answers:
            raise DataError(
                "the row has no answer",
                path=answer_file,
                row_id=row.id,
                fix="answer the same file that is evaluated; `lorica infer` writes every row",
            )
    parse_row_answer = task.answer_parser(
        [(row, answer_text) for row in rows if (answer_text := _answer_text(answers[row.id]))]
    )
    by_score = find_metric(task.metric_names[0]).takes == "score"
    return [_judge_row(parse_row_answer, row, answers[row.id], by_score=by_score) for row in rows]


def _judge_row(
    parse_row_answer: Callable[[Row, str], int | str], row: Row, answer: Answer, *, by_score: bool
) -> _Judged:
    answer_text, parsed_value, problem = _answer_text(answer), None, ""
    try:
        parsed_value = parse_row_answer(row, answer_text) if answer_text else None
    except ValueError as error:
        fix = getattr(error, "fix", "")
        problem = f"{error} -> {fix}" if fix else str(error)
    if by_score and answer.score is not None and not _has_no_answer(answer):
        scored_label = int(answer.score >= 0.5)
        return _Judged(
            row, answer, scored_label, contradictory=parsed_value is not None and parsed_value != scored_label
        )
    return _Judged(row, answer, parsed_value, problem)


def _answer_text(answer: Answer) -> str:
    """The text of an answer, "" where there is none."""
    return (
        answer.answer if answer.answer is not None and is_answer(answer.answer) and not _has_no_answer(answer) else ""
    )


def _has_no_answer(answer: Answer) -> bool:
    return answer.stage in _FAILED_STAGES or not _FAILED_FLAGS.isdisjoint(answer.flags)


def _estimate_metric(metric: Metric, judged: Sequence[_Judged], seed: int, *, within: bool = False) -> Estimate:
    """within: of the rows of one value of a column, which may be of one group; then its rows are drawn."""
    gold_values, predicted, scored = _metric_columns(metric, judged)
    if not scored:
        return Estimate(math.nan, math.nan, math.nan, 0, f"{metric.name} needs scores, and no row has one")
    clusters = _bootstrap_clusters(scored)
    if within and clusters is not None and len(set(clusters)) == 1:
        clusters = None
    return estimate(metric, gold_values, predicted, seed=seed, groups=clusters)


def _by_group(metric: Metric, judged: Sequence[_Judged], groups: Sequence[str], seed: int) -> dict[str, Estimate]:
    group_by_id = {judged_row.row.id: group_name for judged_row, group_name in zip(judged, groups, strict=True)}
    gold_values, predicted, scored = _metric_columns(metric, judged)
    return by_group(metric, gold_values, predicted, [group_by_id[row.id] for row in scored], seed=seed)


def _group_metrics(
    used_metrics: Sequence[Metric], judged: Sequence[_Judged], values: Mapping[str, str], seed: int
) -> Grouping:
    members: dict[str, list[_Judged]] = {}
    for judged_row in judged:
        members.setdefault(values[judged_row.row.id], []).append(judged_row)
    groups = {
        group_value: {
            metric.name: _estimate_metric(metric, members[group_value], seed, within=True) for metric in used_metrics
        }
        for group_value in sorted(members)
    }
    group_means = {}
    for metric in used_metrics:
        values_of = [estimates[metric.name].value for estimates in groups.values()]
        defined = [group_mean for group_mean in values_of if not math.isnan(group_mean)]
        group_means[metric.name] = sum(defined) / len(defined) if defined else math.nan
    return Grouping(groups, {group_value: len(members[group_value]) for group_value in groups}, group_means)


def _metric_columns(metric: Metric, judged: Sequence[_Judged]) -> tuple[Column, Column, list[Row]]:
    """gold [n] and prediction [n] as the metric takes them, and the n rows they are of."""
    if metric.takes == "score":
        judged = [judged_row for judged_row in judged if judged_row.answer.score is not None]
    predicted = [judged_row.answer.score if metric.takes == "score" else judged_row.value for judged_row in judged]
    return [judged_row.row.gold for judged_row in judged], predicted, [judged_row.row for judged_row in judged]


def _bootstrap_clusters(rows: Sequence[Row]) -> list[str] | None:
    """What is drawn together, [n]; None when every row stands for itself."""
    if not any(row.group for row in rows):
        return None
    return [f"group {row.group}" if row.group else f"row {row.id}" for row in rows]
