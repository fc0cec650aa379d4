"""The tasks `saq` and `qa`: rows, prompts, readings."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from lorica.data.read import read_rows, rows_from_memory
from lorica.errors import DataError
from lorica.records import Row
from lorica.tasks import load_task
from lorica.tasks.base import Task
from lorica.tasks.questions import _UNANSWERED, NOT_ANSWERABLE, _answers

SHARED = Path(__file__).resolve().parents[2] / ".." / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data folder is not beside the repository")

SAQ: Task = load_task("saq")
QA: Task = load_task("qa")

ANNOTATED = {
    "ID": "Gr-08",
    "question": "Ποιο είναι το πιο δημοφιλές φρούτο;",
    "en_question": "What is the most popular fruit?",
    "annotations": "[{'answers': ['μήλο'], 'en_answers': ['apple'], 'count': 2},"
    " {'answers': ['σύκο', 'σύκα'], 'en_answers': ['fig'], 'count': 3}]",
    "idks": "{'idk': 1, 'no-answer': 0}",
    "country": "Greece",
}


def one(task: Task, record: dict[str, Any], **columns: str) -> Row:
    return rows_from_memory([record], task.schemas, columns=columns)[0]


def test_annotations_become_accepted_answers_the_most_frequent_first() -> None:
    row = one(SAQ, ANNOTATED)
    assert (row.id, row.gold) == ("Gr-08", ("σύκο", "σύκα", "fig", "μήλο", "apple"))
    assert SAQ.target(row) == "σύκο"
    assert SAQ.text(row).startswith("Ποιο")


def test_the_english_question_by_mapping() -> None:
    assert SAQ.text(one(SAQ, ANNOTATED, question="en_question")) == "What is the most popular fruit?"


@pytest.mark.parametrize(
    "annotations",
    ["nan", "NaN", "None", "null", math.nan, "[]", [], "[{'answers': [], 'en_answers': [], 'count': 0}]", None, ""],
)
def test_no_annotations_no_gold(annotations: object) -> None:
    assert one(SAQ, {**ANNOTATED, "annotations": annotations}).gold is None


def test_annotations_as_json_or_as_a_list() -> None:
    entry = {"answers": ["x"], "en_answers": ["y"], "count": 1}
    for cell in ('[{"answers": ["x"], "en_answers": ["y"], "count": 1, "note": null}]', [entry]):
        assert one(SAQ, {**ANNOTATED, "annotations": cell}).gold == ("x", "y")


@pytest.mark.parametrize(
    "annotations",
    [
        "[{'answers': ['x', nan], 'en_answers': nan, 'count': 1}, {'answers': ['y'], 'count': nan}]",
        '[{"answers": ["x", NaN], "en_answers": null, "count": 1}, {"answers": ["y"], "count": NaN}]',
        [{"answers": ["x", math.nan], "en_answers": math.nan, "count": 1}, {"answers": ["y"], "count": math.nan}],
    ],
)
def test_nan_among_annotations_is_a_missing_value(annotations: object) -> None:
    assert one(SAQ, {**ANNOTATED, "annotations": annotations}).gold == ("x", "y")


def test_json_annotations_keep_the_meaning_of_their_escapes() -> None:
    cell = '[{"answers": ["\\ud83c\\udf4e a\\/b"], "en_answers": [], "count": 1}]'
    assert one(SAQ, {**ANNOTATED, "annotations": cell}).gold == ("🍎 a/b",)


def test_a_strange_escape_in_a_literal_is_taken_as_it_stands() -> None:
    assert one(SAQ, {**ANNOTATED, "annotations": r"[{'answers': ['a\d'], 'count': 1}]"}).gold == (r"a\d",)


def test_nan_is_no_question_and_no_answer() -> None:
    assert one(QA, {"question": "Who?", "answer": math.nan, "subject": math.nan}) == one(QA, {"question": "Who?"})
    with pytest.raises(DataError, match="'question' is empty"):
        one(QA, {"question": math.nan})


@pytest.mark.parametrize(
    ("annotations", "message"),
    [
        ("[{'answers': [nan_], 'count': 1}]", "no Python literal"),
        ("[{'answers': [nan()], 'count': 1}]", "no Python literal"),
        ("__import__('os').system('true')", "not JSON"),
        ("[x for x in (1,)]", "not JSON"),
        ("{'answers': ['x']}", "list of objects"),
        ("'text'", "list or an object"),
        ("[{'answers': 'x'}]", "must be a list"),
        ("[{'answers': ['x'], 'count': 1, 'answers': ['y']}]", "the key 'answers' twice"),
        ('[{"answers": ["x"], "count": 1, "answers": ["y"]}]', "the key 'answers' twice"),
        ("[{'answers': ['x'], 'count': 'many'}]", "not a number"),
        ("(" * 5000, "nested more than 32"),
        ("[" + "'a'," * 100_000 + "]", "at most 262144"),
        ("-" * 100_000 + "1", "not JSON"),
        ("[1" + "+1" * 50_000 + "]", "not JSON"),
        ("[1, 2", "not JSON"),
        (7, "must be a list"),
    ],
)
def test_hostile_annotations_are_refused(annotations: object, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        one(SAQ, {**ANNOTATED, "annotations": annotations})
    assert len(str(caught.value)) < 1000


def test_subject_questions_and_training_pairs() -> None:
    for task in (SAQ, QA):
        row = one(task, {"questionID": 7, "subject": "history", "question": "Who was Nefertiti?"})
        assert (row.id, row.subject, row.gold) == ("7", "history", None)
        row = one(task, {"question": "Who was Nefertiti?", "answer": "A queen."})
        assert (row.id, row.gold, row.group) == ("row-1", ("A queen.",), "")
    assert one(SAQ, {"question": "Who?", "answer": ["a", "b", "a"]}).gold == ("a", "b")


def test_prompts_are_exactly_these() -> None:
    record = {"question": "Who was Nefertiti?", "subject": "history"}
    (message,) = SAQ.render(one(SAQ, record))
    assert message.content == "Answer in a few words.\nQuestion: Who was Nefertiti?"
    assert message.trim == ()
    system, user = QA.render(one(QA, record))
    assert system.content == "You answer questions about history. Reply in one sentence."
    assert user.content == "Who was Nefertiti?"
    system, _ = QA.render(one(QA, {"question": "Who?"}))
    assert system.content == "You answer questions. Reply in one sentence."


@pytest.mark.parametrize("task", [SAQ, QA])
def test_readings(task: Task) -> None:
    row = one(task, {"question": "Who was Nefertiti?"})
    assert task.choices(row) is None
    reading = task.parse_text(row, "<think>hm</think>Answer: a queen")
    assert (reading.answer, reading.stage, reading.valid) == ("a queen", "text", True)
    reading = task.parse_text(row, "Who was Nefertiti?")
    assert (reading.answer, reading.stage, reading.valid) == (None, "invalid", False)
    assert reading.problem == "an echo of the question"
    assert task.parse_logprobs(row, [-1.0], [1]).valid is False


@pytest.mark.parametrize("question", [["a", "b"], {"a": 1}, True])
def test_a_question_that_is_no_text_is_refused(question: object) -> None:
    with pytest.raises(DataError, match="must be text"):
        one(QA, {"question": question})


@needs_shared
def test_openstax_reads_as_it_is() -> None:
    rows = list(read_rows(SHARED / "openstax" / "saq.jsonl", SAQ.schemas))
    assert len(rows) == 3332
    assert {row.subject for row in rows} == {"chemistry", "algebra"}
    for row in rows:
        reading = SAQ.parse_text(row, SAQ.target(row))
        assert reading.valid, f"{row.id}: a real answer is refused as {reading.problem}"
        assert reading.answer is not None
        assert reading.answer.split() == SAQ.target(row).split(), "a real answer is changed by cleaning"


TRIVIA = {"value": "Paris", "aliases": ["City of Light", "Paris"], "normalized_aliases": ["paris"], "type": "Entity"}


@pytest.mark.parametrize(
    ("cell", "gold"),
    [
        ("['Oslo', 'Christiania']", ("Oslo", "Christiania")),
        ('["it\'s", "it is"]', ("it's", "it is")),
        ("['Oslo', nan]", ("Oslo",)),
        (TRIVIA, ("Paris", "City of Light")),
        (str(TRIVIA), ("Paris", "City of Light")),
        ("{'aliases': ['a', 'b'], 'value': 'b'}", ("b", "a")),
        ('{"value": 5, "unit": "km"}', ('{"value": 5, "unit": "km"}',)),
        ("[0, 1]", ("[0, 1]",)),
        ("[sic]", ("[sic]",)),
        ("['a'][0] + ['b']", ("['a'][0] + ['b']",)),
        ("['a'", ("['a'",)),
        ("[\"['a', 'b']\"]", ("['a', 'b']",)),
    ],
)
def test_accepted_answers_as_files_of_others_have_them(cell: object, gold: tuple[str, ...]) -> None:
    assert one(QA, {"question": "Which?", "answer": cell}).gold == gold


def test_a_list_that_was_written_as_text_is_told() -> None:
    assert "a list written as text" in one(QA, {"question": "Which?", "answers": "['a', 'b']"}).notes[0]
    assert not one(QA, {"question": "Which?", "answers": ["a", "b"]}).notes


def test_an_array_that_was_written_as_text_is_refused() -> None:
    with pytest.raises(DataError, match="side by side without a comma"):
        one(QA, {"question": "Which?", "answers": "['a' 'b']"})


@pytest.mark.parametrize("record", ["question", "instruction", "prompt"])
def test_an_answer_that_is_marked_behind_its_reasoning_is_accepted_as_well(record: str) -> None:
    whole = "She sold 48/2=24.\n#### 72"
    row = one(SAQ, {record: "How many?", "completion" if record == "prompt" else "answer": whole})
    assert (SAQ.target(row), row.gold) == (whole, (whole, "72"))
    assert "####" in row.notes[0]
    read = SAQ.answer_parser([])
    assert [read(row, answer) for answer in ("72", "It is 6*12.\n#### 72", "####", "# 72")] == [
        "72",
        "72",
        "####",
        "# 72",
    ]
    assert SAQ.answer_parser([])(one(SAQ, {"question": "x", "answer": "72"}), "a\n#### 72") == "a\n#### 72"


def test_no_answer_of_squad_2_is_unanswerable() -> None:
    assert _answers({"text": [], "answer_start": []}) == ((NOT_ANSWERABLE,), (_UNANSWERED,))
    assert _answers("{'text': [], 'answer_start': []}")[0] == (NOT_ANSWERABLE,)
    assert _answers([])[0] is None
