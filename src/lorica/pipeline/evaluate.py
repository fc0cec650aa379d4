"""Answers against gold: every metric with its interval, its n, and the counts of rows that were no clean answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lorica.errors import DataError
from lorica.metrics.base import Column, Metric
from lorica.metrics.bootstrap import Estimate, by_group, estimate, paired_difference
from lorica.metrics.table import METRICS
from lorica.records import Answer, Problem, Row
from lorica.tasks.base import Task
from lorica.tasks.mcq import McqCase
from lorica.tasks.options import read_option

_NO_GOLD = Problem("the row has no gold answer", "evaluate on a file whose every row has the label column")


@dataclass(frozen=True)
class Evaluation:
    """metrics: name -> estimate, the task's main metric first. groups: group -> estimate of the main metric.

    unscored: rows that have no score and are left out of metrics on scores (they count as wrong everywhere else).
    stages, flags: rows by parse stage and by flag.
    """

    n: int
    metrics: dict[str, Estimate]
    groups: dict[str, Estimate]
    unscored: int
    stages: dict[str, int]
    flags: dict[str, int]


def evaluate(
    task: Task,
    rows: Sequence[Row],
    answers: Mapping[str, Answer],
    *,
    seed: int = 0,
    gold_file: str = "gold",
    answer_file: str = "answers",
) -> Evaluation:
    """Measure answers (by row id) on rows with gold.

    Where rows belong to groups (variants of a question, a functionality), the bootstrap draws whole groups: rows of one
    group say much the same, and drawing them one by one would make intervals too narrow.

    Raises DataError when a row has no gold or no answer, naming the first and its file.
    """
    pairs = _join(rows, answers, gold_file, answer_file)
    metrics = {}
    for name in task.metric_names:
        gold, predicted, scored = _columns(METRICS[name], pairs)
        metrics[name] = estimate(METRICS[name], gold, predicted, seed=seed, groups=_clusters(scored))
    main = METRICS[task.metric_names[0]]
    gold, predicted, scored = _columns(main, pairs)
    groups = [row.group or row.subject for row in scored]
    return Evaluation(
        n=len(pairs),
        metrics=metrics,
        groups=by_group(main, gold, predicted, groups, seed=seed) if any(groups) else {},
        unscored=sum(answer.score is None for _, answer in pairs) if main.takes == "score" else 0,
        stages=dict(Counter(answer.stage for _, answer in pairs)),
        flags=dict(Counter(flag for _, answer in pairs for flag in answer.flags)),
    )


def difference(
    task: Task, rows: Sequence[Row], a: Mapping[str, Answer], b: Mapping[str, Answer], *, seed: int = 0
) -> Estimate:
    """The main metric of `a` minus that of `b`, with a paired interval over the rows that both have scored."""
    main = METRICS[task.metric_names[0]]
    rows = [row for row in rows if main.takes != "score" or None not in (a[row.id].score, b[row.id].score)]
    gold, first, scored = _columns(main, _join(rows, a))
    _, second, _ = _columns(main, _join(rows, b))
    return paired_difference(main, gold, first, second, seed=seed, groups=_clusters(scored))


def _join(
    rows: Sequence[Row], answers: Mapping[str, Answer], gold_file: str = "gold", answer_file: str = "answers"
) -> list[tuple[Row, Answer]]:
    pairs = []
    for row in rows:
        if row.gold is None:
            problem = row.gold_problem or _NO_GOLD
            raise DataError(
                problem.message,
                path=gold_file,
                line=row.line or None,
                row_id=row.id,
                fix=problem.fix,
            )
        if row.id not in answers:
            raise DataError(
                "the row has no answer",
                path=answer_file,
                row_id=row.id,
                fix="answer the same file that is evaluated; `lorica infer` writes every row",
            )
        pairs.append((row, answers[row.id]))
    return pairs


def _columns(metric: Metric, pairs: Sequence[tuple[Row, Answer]]) -> tuple[Column, Column, list[Row]]:
    """gold [n] and prediction [n] as the metric takes them, and the n rows they are of."""
    if metric.takes == "score":
        pairs = [(row, answer) for row, answer in pairs if answer.score is not None]
        predicted: list[object] = [answer.score for _, answer in pairs]
    elif metric.takes == "label":
        predicted = [_label(row, answer) for row, answer in pairs]
    else:
        predicted = [answer.answer or "" for _, answer in pairs]
    return [row.gold for row, _ in pairs], predicted, [row for row, _ in pairs]


def _clusters(rows: Sequence[Row]) -> list[str] | None:
    """What is drawn together, [n]; None when every row stands for itself."""
    if not any(row.group for row in rows):
        return None
    return [f"group {row.group}" if row.group else f"row {row.id}" for row in rows]


def _label(row: Row, answer: Answer) -> int | None:
    """0 or 1 from a score, the index of the option that is named otherwise; None (always wrong) without either."""
    if answer.score is not None:
        return int(answer.score >= 0.5)
    if not isinstance(row.case, McqCase):
        return None
    try:
        return read_option(answer.answer, row.case.options, row.case.keys or ())
    except ValueError:
        return None
