"""The trivial baseline that every adapter is compared with: TF-IDF and a linear model, or the nearest question."""

from __future__ import annotations

from collections.abc import Sequence

from lorica.records import Answer, Row
from lorica.tasks.base import Task
from lorica.training import tfidf

NAME = "tfidf"


def baseline_answers(task: Task, train_rows: Sequence[Row], rows: Sequence[Row]) -> dict[str, Answer]:
    """Answers by row id of a baseline that is trained on `train_rows` alone.

    Tasks answered by a score: logistic regression on word and character n-grams. By an option: the same on text and
    option. In words: the answer of the most similar training row. Raises MissingExtraError without scikit-learn.
    """
    train_texts, test_texts = ([task.baseline_text(row) for row in some_rows] for some_rows in (train_rows, rows))
    if task.answer_type == "score":
        scores = tfidf.fit_classifier(train_texts, [_gold_index(row) for row in train_rows]).score(test_texts)
        return {
            row.id: _scored_answer(task, row, float(predicted_score))
            for row, predicted_score in zip(rows, scores, strict=True)
        }
    if task.answer_type == "option":
        train_options, options = (
            [tuple(task.options(row).values()) for row in rows_of_side] for rows_of_side in (train_rows, rows)
        )
        chooser = tfidf.fit_chooser(train_texts, train_options, [_gold_index(row) for row in train_rows])
        answers = [
            list(task.options(row))[int(option_scores.argmax())]
            for row, option_scores in zip(rows, chooser.choose(test_texts, options), strict=True)
        ]
        return {row.id: _text_answer(row, answer, "choice") for row, answer in zip(rows, answers, strict=True)}
    nearest = tfidf.nearest_answers(train_texts, [task.target(row) for row in train_rows], test_texts)
    return {row.id: _text_answer(row, answer, "text") for row, (answer, _) in zip(rows, nearest, strict=True)}


def _scored_answer(task: Task, row: Row, predicted_score: float) -> Answer:
    answer = list(task.options(row))[0 if predicted_score >= 0.5 else 1]
    return Answer(id=row.id, answer=answer, score=predicted_score, adapter=NAME, stage="choice")


def _text_answer(row: Row, answer: str, reading_stage: str) -> Answer:
    return Answer(id=row.id, answer=answer, adapter=NAME, stage=reading_stage)


def _gold_index(row: Row) -> int:
    assert isinstance(row.gold, int)
    return row.gold
