"""Trainings whose rows have one answer, or nearly, say so before they begin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lorica.data.read import rows_from_memory
from lorica.pipeline.label_balance import contradiction_notes, count_answers, label_notes
from lorica.pipeline.train import TrainJob, tell_if_none_is_held_out, train_val_split
from lorica.records import Row
from lorica.tasks import load_task
from lorica.tasks.base import Task


def _rows(name: str, records: list[dict[str, Any]]) -> tuple[Task, list[Row]]:
    task = load_task(name)
    return task, list(rows_from_memory(records, task.schemas))


def _posts(labels: list[int]) -> tuple[Task, list[Row]]:
    records = [{"body": f"post {i}", "rule": "No spam.", "rule_violation": label} for i, label in enumerate(labels)]
    return _rows("rules", records)


def _letters(answers: str) -> tuple[Task, list[Row]]:
    options = {letter: f"option {letter}" for letter in "ABCD"}
    records = [{"question": f"which {i}?", **options, "answer": answer} for i, answer in enumerate(answers)]
    return _rows("mcq", records)


def _texts(answers: list[str]) -> tuple[Task, list[Row]]:
    return _rows("saq", [{"question": f"what {i}?", "answer": answer} for i, answer in enumerate(answers)])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (_posts([1] * 22), "all 22 training rows have the answer 'Yes'"),
        (_posts([0] * 2), "all 2 training rows have the answer 'No'"),
        (_letters("BBBB"), "all 4 training rows have the answer 'B'"),
        (_texts(["Paris"] * 5), "all 5 training rows have the answer 'Paris'"),
        (_texts(["Paris", " paris", "PARIS"]), "all 3 training rows"),
        (_posts([1] * 27 + [0] * 3), "27 of 30 training rows have the answer 'Yes'"),
        (_letters("A" * 19 + "B"), "19 of 20 training rows have the answer 'A'"),
    ],
)
def test_one_answer_is_said_with_its_count(given: tuple[Task, list[Row]], said: str) -> None:
    task, rows = given
    (note,) = label_notes(task, count_answers(rows), count_answers([]))
    assert said in note


@pytest.mark.parametrize(
    "given", [_posts([1, 0]), _posts([1] * 8 + [0]), _letters("ABCD" * 5), _texts(["a", "b"]), _posts([1]), _posts([])]
)
def test_healthy_answers_are_passed_over(given: tuple[Task, list[Row]]) -> None:
    task, rows = given
    assert label_notes(task, count_answers(rows), count_answers(rows)) == []


def test_held_out_rows_of_one_answer_are_said() -> None:
    task, rows = _posts([1, 0, 1, 0, 1, 1])
    held = [row for row in rows if row.gold == 1]
    (note,) = label_notes(task, count_answers(rows), count_answers(held))
    assert note.startswith("all 4 held-out rows have the answer 'Yes'")
    # Where the training rows have one answer that is what there is to say.
    assert len(label_notes(task, count_answers(held), count_answers(held))) == 1


def test_rows_that_ask_the_same_and_have_another_label_are_said() -> None:
    post = {"body": "Buy now", "rule": "No spam."}
    records = [{**post, "rule_violation": 1}, {**post, "rule": "No insults.", "rule_violation": 0}]
    assert contradiction_notes(*_rows("rules", records)) == []
    (note,) = contradiction_notes(*_rows("rules", [*records, {**post, "rule_violation": 0}]))
    assert note.startswith(
        "1 row asks what an earlier row asks, with another answer, first 'row-3' (the earlier one is 'row-1')"
    )
    question = {"question": "Which?", "A": "red", "B": "blue"}
    answers = [{**question, "answer": "A"}, {**question, "answer": "B"}, {**question, "B": "green", "answer": "B"}]
    assert len(contradiction_notes(*_rows("mcq", answers))) == 1
    assert contradiction_notes(*_rows("mcq", answers[1:])) == []
    assert contradiction_notes(*_texts(["a", "b"])) == []
    same = [{"question": "Who?", "answer": "a"}, {"question": "Who?", "answer": "b"}]
    assert contradiction_notes(*_rows("saq", same)) == []


def test_rows_too_few_to_hold_any_out_are_said(tmp_path: Path) -> None:
    task, rows = _posts([0, 1] * 10)
    for count, val_ratio, said in ((19, 0.15, 1), (20, 0.15, 0), (19, 0.0, 0)):
        job = TrainJob("rules", rows[:count], "posts.csv", tmp_path)
        notes: list[str] = []
        tell_if_none_is_held_out(job, train_val_split(job, task, val_ratio=val_ratio, seed=1), val_ratio, notes.append)
        assert len(notes) == said
