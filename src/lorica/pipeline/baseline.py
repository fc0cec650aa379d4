"""The trivial system that stands beside every adapter: TF-IDF features and a linear model, or the nearest question."""

from __future__ import annotations

from collections.abc import Sequence

from lorica.records import Answer, Row
from lorica.tasks.base import Task
from lorica.tasks.mcq import McqCase
from lorica.tasks.rules import RulesCase
from lorica.training import tfidf

NAME = "tfidf"


def baseline_answers(task: Task, train: Sequence[Row], rows: Sequence[Row]) -> dict[str, Answer]:
    """Answers by row id of a baseline that is trained on `train` alone.

    `rules`: logistic regression on word and character n-grams of rule and post. `mcq`: the same on question and option.
    `saq`, `qa`: the answer of the most similar training question. Raises MissingExtraError without scikit-learn.
    """
    if task.name == "rules":
        return _rules(task, train, rows)
    if task.name == "mcq":
        return _choices(train, rows)
    found = tfidf.nearest_answers(
        [task.text(row) for row in train], [_accepted(row) for row in train], [task.text(row) for row in rows]
    )
    return {
        row.id: Answer(id=row.id, answer=answer, adapter=NAME, stage="text")
        for row, (answer, _) in zip(rows, found, strict=True)
    }


def _rules(task: Task, train: Sequence[Row], rows: Sequence[Row]) -> dict[str, Answer]:
    posts = [_post(task, row) for row in train]
    scores = tfidf.fit_score(posts, [_label(row) for row in train], [_post(task, row) for row in rows])
    return {
        row.id: Answer(
            id=row.id,
            answer="Yes" if score >= 0.5 else "No",
            score=float(score),
            adapter=NAME,
            stage="choice",
        )
        for row, score in zip(rows, scores, strict=True)
    }


def _choices(train: Sequence[Row], rows: Sequence[Row]) -> dict[str, Answer]:
    known, asked = [_case(row) for row in train], [_case(row) for row in rows]
    scores = tfidf.fit_choose(
        [case.question for case in known],
        [case.options for case in known],
        [_label(row) for row in train],
        [case.question for case in asked],
        [case.options for case in asked],
    )
    return {
        row.id: Answer(id=row.id, answer=_case(row).names[int(score.argmax())], adapter=NAME, stage="choice")
        for row, score in zip(rows, scores, strict=True)
    }


def _post(task: Task, row: Row) -> str:
    return f"{row.case.rule}\n{row.case.body}" if isinstance(row.case, RulesCase) else task.text(row)


def _case(row: Row) -> McqCase:
    assert isinstance(row.case, McqCase)
    return row.case


def _label(row: Row) -> int:
    assert isinstance(row.gold, int)
    return row.gold


def _accepted(row: Row) -> str:
    assert isinstance(row.gold, tuple)
    return row.gold[0]
