"""Answers as their task reads them, beside the gold of their rows: what every measure of answers starts from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np

from lorica.errors import DataError
from lorica.metrics.base import Column, Floats, Metric
from lorica.metrics.metric_table import find_metric
from lorica.metrics.normalise import LORICA, is_answer
from lorica.records import Answer, Problem, Row
from lorica.tasks.base import Task

_NO_GOLD = Problem("the row has no gold answer", "evaluate on a file whose every row has the label column")

# A row of these stages, or with one of these flags, has no answer, whatever else its record says.
_FAILED_STAGES = frozenset({"invalid", "fallback"})
_FAILED_FLAGS = frozenset({"invalid", "error", "parse_fallback"})


@dataclass(frozen=True, slots=True)
class JudgedAnswer:
    """A row with its answer as the task reads it: 0/1, an index or a text; None when there is none, or `problem`.

    contradictory: whether a label that is taken from a score is not the one that the answer names. weight: how much the
    row counts in every metric.
    """

    row: Row
    answer: Answer
    value: int | str | None
    problem: str = ""
    contradictory: bool = False
    weight: float = 1.0


@dataclass(frozen=True)
class MetricColumns:
    """What a metric takes of the rows that it is defined on: gold [n], prediction [n], the n rows, and their weights
    [n], None where all count alike."""

    gold: Column
    predicted: Column
    rows: list[Row]
    weights: Floats | None = None


def judge_answers(
    task: Task,
    rows: Sequence[Row],
    answers: Mapping[str, Answer],
    gold_file: str = "gold",
    answer_file: str = "answers",
    weights: Mapping[str, float] = MappingProxyType({}),
) -> list[JudgedAnswer]:
    """Each row with its answer (by row id), in the order of the rows. weights: row id -> weight; 1 where there is none.

    Raises DataError when a row has no gold or no answer, naming the first and its file.
    """
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
    texts = [_answer_text(answers[row.id]) for row in rows]
    parse_row_answer = task.answer_parser([(row, text) for row, text in zip(rows, texts, strict=True) if text])
    by_score = find_metric(task.metric_names[0]).takes_scores
    judged = [
        _judge_row(parse_row_answer, row, answers[row.id], text, by_score=by_score)
        for row, text in zip(rows, texts, strict=True)
    ]
    if not weights:
        return judged
    return [replace(judged_row, weight=weights.get(judged_row.row.id, 1.0)) for judged_row in judged]


def _judge_row(
    parse_row_answer: Callable[[Row, str], int | str], row: Row, answer: Answer, answer_text: str, *, by_score: bool
) -> JudgedAnswer:
    parsed_value, problem = None, ""
    try:
        parsed_value = parse_row_answer(row, answer_text) if answer_text else None
    except ValueError as error:
        fix = getattr(error, "fix", "")
        problem = f"{error} -> {fix}" if fix else str(error)
    if by_score and answer.score is not None and not has_no_answer(answer):
        scored_label = int(answer.score >= 0.5)
        return JudgedAnswer(
            row, answer, scored_label, contradictory=parsed_value is not None and parsed_value != scored_label
        )
    return JudgedAnswer(row, answer, parsed_value, problem)


def _answer_text(answer: Answer) -> str:
    """The text of an answer, "" where there is none."""
    return answer.answer if answer.answer is not None and is_answer(answer.answer) and not has_no_answer(answer) else ""


def has_no_answer(answer: Answer) -> bool:
    """Whether the model gave none, whatever else the record says."""
    return answer.stage in _FAILED_STAGES or not _FAILED_FLAGS.isdisjoint(answer.flags)


def certainty(answer: Answer) -> float | None:
    """How far an answer is from being undecided, 0 to 1: from a score of 0.5, or between the two likeliest choices;
    None where it has no probabilities."""
    if answer.score is not None:
        return min(1.0, 2 * abs(answer.score - 0.5))
    if answer.scores and len(answer.scores) > 1:
        second, first = sorted(answer.scores.values())[-2:]
        return first - second
    return None


def row_kinds(judged: JudgedAnswer) -> list[str]:
    """The parse stage and the flags of a row, and whether its prompt was truncated, it was asked again, or it has no
    answer that can be read."""
    answer = judged.answer
    conditions = {
        "truncated": answer.dropped_tokens > 0,
        "retried": answer.retries > 0,
        "no answer": judged.value is None and not judged.problem,
        "unreadable": bool(judged.problem),
        "answer contradicts its score": judged.contradictory,
    }
    kinds = [answer.stage or "(no stage)", *answer.flags, *(name for name, applies in conditions.items() if applies)]
    return list(dict.fromkeys(kinds))


def row_weights(judged: Sequence[JudgedAnswer]) -> Floats | None:
    """The weights [n] of rows, None where all are 1."""
    weights = np.array([judged_row.weight for judged_row in judged], dtype=np.float64)
    return None if (weights == 1).all() else weights


def metric_columns(metric: Metric, judged: Sequence[JudgedAnswer]) -> MetricColumns:
    """gold and prediction as the metric takes them, of the rows that it is defined on."""
    if metric.takes_scores:
        judged = [judged_row for judged_row in judged if judged_row.answer.score is not None]
    if metric.applies is not None:
        judged = [judged_row for judged_row in judged if metric.applies(judged_row.row.gold)]
    predicted = [judged_row.answer.score if metric.takes_scores else judged_row.value for judged_row in judged]
    return MetricColumns(
        [judged_row.row.gold for judged_row in judged],
        predicted,
        [judged_row.row for judged_row in judged],
        row_weights(judged),
    )


def paired_columns(
    metric: Metric, first: Sequence[JudgedAnswer], second: Sequence[JudgedAnswer]
) -> tuple[MetricColumns, MetricColumns]:
    """The columns of two sets of answers to the same rows: those that both have scored, where the metric takes
    scores."""
    pairs = [
        pair
        for pair in zip(first, second, strict=True)
        if not metric.takes_scores or None not in (pair[0].answer.score, pair[1].answer.score)
    ]
    first_rows, second_rows = ([pair[side] for pair in pairs] for side in (0, 1))
    return metric_columns(metric, first_rows), metric_columns(metric, second_rows)


def correctness_metric(task: Task, normalisation: str = LORICA.name) -> Metric:
    """The metric that is 1 for a right answer and 0 for a wrong one."""
    return find_metric("exact_match", normalisation) if task.answer_type == "text" else find_metric("accuracy")


def is_right(metric: Metric, judged: Sequence[JudgedAnswer]) -> list[bool]:
    """Whether each row's answer alone measures 1 under accuracy or exact match."""
    assert metric.row_values is not None
    columns = metric_columns(metric, judged)
    return [value == 1 for value in metric.row_values(columns.gold, columns.predicted).tolist()]


def bootstrap_clusters(rows: Sequence[Row]) -> list[str] | None:
    """What is drawn together, [n]; None when every row stands for itself.

    Rows of one group (variants of a question, a functionality) say much the same; drawing them one by one would make
    intervals too narrow.
    """
    if not any(row.group for row in rows):
        return None
    return [f"group {row.group}" if row.group else f"row {row.id}" for row in rows]
