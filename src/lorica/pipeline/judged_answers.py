"""Answers as their task reads them, beside the gold of their rows: what every measure of answers starts from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from lorica.errors import DataError
from lorica.metrics.base import Column, Metric
from lorica.metrics.metric_table import find_metric
from lorica.metrics.normalise import LORICA, is_answer
from lorica.records import Answer, Problem, Row
from lorica.tasks.base import Task

_NO_GOLD = Problem("the row has no gold answer", "evaluate on a file whose every row has the label column")

# A row of these stages, or with one of these flags, has no answer, whatever else its record says.
_FAILED_STAGES = frozenset({"invalid", "fallback"})
_FAILED_FLAGS = frozenset({"invalid", "error", "parse_fallback"})


@dataclass(frozen=True)
class JudgedAnswer:
    """A row with its answer as the task reads it: 0/1, an index or a text; None when there is none, or `problem`.

    contradictory: whether a label that is taken from a score is not the one that the answer names.
    """

    row: Row
    answer: Answer
    value: int | str | None
    problem: str = ""
    contradictory: bool = False


def judge_answers(
    task: Task,
    rows: Sequence[Row],
    answers: Mapping[str, Answer],
    gold_file: str = "gold",
    answer_file: str = "answers",
) -> list[JudgedAnswer]:
    """Each row with its answer (by row id), in the order of the rows.

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
    parse_row_answer = task.answer_parser(
        [(row, answer_text) for row in rows if (answer_text := _answer_text(answers[row.id]))]
    )
    by_score = find_metric(task.metric_names[0]).takes_scores
    return [_judge_row(parse_row_answer, row, answers[row.id], by_score=by_score) for row in rows]


def _judge_row(
    parse_row_answer: Callable[[Row, str], int | str], row: Row, answer: Answer, *, by_score: bool
) -> JudgedAnswer:
    answer_text, parsed_value, problem = _answer_text(answer), None, ""
    try:
        parsed_value = parse_row_answer(row, answer_text) if answer_text else None
    except ValueError as error:
        fix = getattr(error, "fix", "")
        problem = f"{error} -> {fix}" if fix else str(error)
    if by_score and answer.score is not None and not _has_no_answer(answer):
        scored_label = int(answer.score >= 0.5)
        return JudgedAnswer(
            row, answer, scored_label, contradictory=parsed_value is not None and parsed_value != scored_label
        )
    return JudgedAnswer(row, answer, parsed_value, problem)


def _answer_text(answer: Answer) -> str:
    """The text of an answer, "" where there is none."""
    return (
        answer.answer if answer.answer is not None and is_answer(answer.answer) and not _has_no_answer(answer) else ""
    )


def _has_no_answer(answer: Answer) -> bool:
    return answer.stage in _FAILED_STAGES or not _FAILED_FLAGS.isdisjoint(answer.flags)


def metric_columns(metric: Metric, judged: Sequence[JudgedAnswer]) -> tuple[Column, Column, list[Row]]:
    """gold [n] and prediction [n] as the metric takes them, and the n rows they are of."""
    if metric.takes_scores:
        judged = [judged_row for judged_row in judged if judged_row.answer.score is not None]
    predicted = [judged_row.answer.score if metric.takes_scores else judged_row.value for judged_row in judged]
    return [judged_row.row.gold for judged_row in judged], predicted, [judged_row.row for judged_row in judged]


def paired_columns(
    metric: Metric, first: Sequence[JudgedAnswer], second: Sequence[JudgedAnswer]
) -> tuple[Column, Column, Column, list[Row]]:
    """gold [n], both predictions [n] and the n rows of two sets of answers to the same rows: those that both have
    scored, where the metric takes scores."""
    pairs = [
        pair
        for pair in zip(first, second, strict=True)
        if not metric.takes_scores or None not in (pair[0].answer.score, pair[1].answer.score)
    ]
    gold_values, first_values, rows = metric_columns(metric, [judged_row for judged_row, _ in pairs])
    _, second_values, _ = metric_columns(metric, [judged_row for _, judged_row in pairs])
    return gold_values, first_values, second_values, rows


def correctness_metric(task: Task, normalisation: str = LORICA.name) -> Metric:
    """The metric that is 1 for a right answer and 0 for a wrong one."""
    return find_metric("exact_match", normalisation) if task.answer_type == "text" else find_metric("accuracy")


def is_right(metric: Metric, judged: Sequence[JudgedAnswer]) -> list[bool]:
    """Whether each row's answer alone measures 1 under accuracy or exact match."""
    gold_values, predicted, _ = metric_columns(metric, judged)
    return [metric([gold_value], [value]) == 1 for gold_value, value in zip(gold_values, predicted, strict=True)]


def bootstrap_clusters(rows: Sequence[Row]) -> list[str] | None:
    """What is drawn together, [n]; None when every row stands for itself.

    Rows of one group (variants of a question, a functionality) say much the same; drawing them one by one would make
    intervals too narrow.
    """
    if not any(row.group for row in rows):
        return None
    return [f"group {row.group}" if row.group else f"row {row.id}" for row in rows]
