"""`load_pipeline` with records as people hold them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lorica import load_pipeline
from lorica.errors import DataError

FAKE: dict[str, object] = {"engine": "fake"}


@pytest.fixture(scope="module")
def mcq() -> Any:
    return load_pipeline("mcq", settings=FAKE)


def test_values_of_numpy_are_read(mcq: Any) -> None:
    options = np.array(["a", "b"], dtype=object)
    (plain,) = mcq([{"id": 7, "question": "Which?", "options": ["a", "b"], "answer": 0}])
    (answer,) = mcq([{"id": np.int64(7), "question": np.str_("Which?"), "options": options, "answer": np.int64(0)}])
    assert answer == plain
    assert answer.id == "7"
    (answer,) = load_pipeline("qa", settings=FAKE)([{"questionID": 1.0, "question": "Who?"}])
    assert answer.id == "1"


def test_a_data_frame_is_answered_in_its_order(mcq: Any) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(
        {"id": ["b", "a"], "question": ["Which?", "Who?"], "options": [["x", "y"], ["v", "w"]]}, index=[9, 4]
    )
    assert [answer.id for answer in mcq(frame)] == ["b", "a"]
    assert mcq(frame) == mcq(frame.to_dict("records")) == mcq([frame.iloc[0], frame.iloc[1]])


def test_what_is_not_read_is_said_once(mcq: Any, capsys: pytest.CaptureFixture[str]) -> None:
    record = {"question": "Which?", "options": ["a", "a"], "colour": "red"}
    mcq([record])
    said = capsys.readouterr().err
    assert "not read: 'colour'" in said
    assert "row 'row-1': two options have the same text" in said
    mcq([record, record])
    assert capsys.readouterr().err == ""


def test_records_that_are_left_out_are_told_at_each_call(capsys: pytest.CaptureFixture[str]) -> None:
    skipping = load_pipeline("mcq", settings=FAKE | {"data.bad_rows": "skip"})
    good, bad = ({"question": "Which?", "options": options} for options in (["a", "b"], []))
    for records, left_out in (([bad, good, bad], 2), ([good], 0), ([good, bad], 1)):
        assert len(skipping(records)) == 1
        error = capsys.readouterr().err
        assert (f"rows left out (data.bad_rows=skip): {left_out}, first" in error) == bool(left_out)


def test_one_record_is_no_list_and_the_remedy_works(mcq: Any) -> None:
    record = {"question": "Which?", "options": ["a", "b"]}
    with pytest.raises(DataError, match=r"for one row write \[row\]"):
        mcq(record)
    assert len(mcq([record])) == 1


@pytest.mark.parametrize(
    ("task", "record", "named"),
    [
        ("rules", {"id": 1, "prompt": "Which?", "A": "x", "B": "y", "answer": "A"}, "task=mcq"),
        ("rules", {"instruction": "Name it.", "input": "", "output": "x"}, "task=saq or task=qa"),
        ("mcq", {"messages": [{"role": "user", "content": "Who?"}]}, "task=rules or task=saq or task=qa"),
        ("saq", {"body": "x", "rule": "y"}, "task=rules"),
    ],
)
def test_the_table_of_another_task_is_named_by_it_and_that_task_reads_it(
    task: str, record: dict[str, Any], named: str
) -> None:
    with pytest.raises(DataError, match=f"-> it is a table of {named}; otherwise"):
        load_pipeline(task, settings=FAKE)([record])
    for other in named.split(" or "):
        assert len(load_pipeline(other.removeprefix("task="), settings=FAKE)([record])) == 1


def test_advice_on_columns_asks_for_no_id(mcq: Any) -> None:
    with pytest.raises(DataError) as caught:
        mcq([{"prompt": "Which?", "possibilities": ["x", "y"]}])
    assert "MCQID=" not in caught.value.fix
    pipeline = load_pipeline("mcq", settings=FAKE | {"task.columns": {"options": "possibilities"}})
    assert len(pipeline([{"prompt": "Which?", "possibilities": ["x", "y"]}])) == 1


def test_a_file_of_chats(tmp_path: Path) -> None:
    file = tmp_path / "chats.jsonl"
    turns = [{"role": "user", "content": "Norway?"}, {"role": "assistant", "content": "Oslo"}]
    file.write_text(json.dumps({"messages": turns}) + "\n")
    pipeline = load_pipeline("qa", settings=FAKE)
    with file.open() as lines:
        answers = pipeline(map(json.loads, lines))
    assert len(answers) == 1
    assert pipeline(file) == pipeline(str(file)) == answers
    with pytest.raises(DataError, match=r"chats.json: .*no such file\n  -> did you mean 'chats.jsonl'"):
        pipeline(tmp_path / "chats.json")


def test_a_workbook_is_answered_with_its_own_columns_of_options(mcq: Any, tmp_path: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    for cells in (("id", "prompt", "A", "B", "C", "answer"), (1, "Gas?", "neon", "iron", "salt", "A")):
        book.active.append(cells)
    book.active.append((2, "Metal?", "iron", "neon", None, "A"))
    book.save(tmp_path / "rows.xlsx")
    first, second = mcq(tmp_path / "rows.xlsx")
    assert (first.id, set(first.scores)) == ("1", {"A", "B", "C"})
    assert (second.id, set(second.scores)) == ("2", {"A", "B"})
