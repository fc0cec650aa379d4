"""Names of columns: every spelling of a name that is known is refused by name, with advice that leads on."""

from __future__ import annotations

import csv
import io
import json
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorica.cli import main
from lorica.data.column_names import find_column, fold_name, looks_like_id
from lorica.data.read import read_rows
from lorica.data.read_log import ReadLog
from lorica.errors import DataError
from lorica.records import RowSchema
from lorica.tasks import load_task

# What people and programs do to a name; each leaves the name another text than it was.
SPELLINGS: dict[str, Callable[[str], str]] = {
    "capitals": str.swapcase,
    "one capital": lambda name: name[:-1] + name[-1:].swapcase() + " ",
    "space behind": lambda name: name + " ",
    "space before": lambda name: " " + name,
    "no-break space": lambda name: name + "\u00a0",
    "thin space": lambda name: "\u2009" + name,
    "ideographic space": lambda name: name + "\u3000",
    "tabulator": lambda name: name + "\t",
    "zero-width space": lambda name: "\u200b" + name,
    "zero-width joiner": lambda name: name[:1] + "\u200d" + name[1:],
    "soft hyphen": lambda name: name[:1] + "\u00ad" + name[1:],
    "direction mark": lambda name: name + "\u200e",
    "full width": lambda name: "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in name),
    "hyphens": lambda name: name.replace("_", "-") + "-",
    "camel case": lambda name: "".join(part[:1].upper() + part[1:] for part in name.split("_")) + "_",
    "a byte order mark inside": lambda name: name + "\ufeff",
}
TABLES = [  # task, header, which column, one row
    ("rules", ["row_id", "body", "rule", "rule_violation", "subject"], ["7", "buy", "No ads", "1", "shops"]),
    ("rules", ["body", "rule", "subreddit", "positive_example_1", "id"], ["buy", "No ads", "toys", "shop now", "7"]),
    ("qa", ["questionID", "question", "subject", "answer"], ["7", "Who?", "history", "me"]),
    ("saq", ["ID", "question", "annotations", "country"], ["7", "Who?", "[]", "UK"]),
    ("mcq", ["MCQID", "prompt", "choices", "answer_idx"], ["7", "Which?", '{"A": "x", "B": "y"}', "A"]),
    ("mcq", ["question", "options", "answer", "id", "passage"], ["Which?", '["x", "y"]', "A", "7", "text"]),
]
CASES = [(task, header, row, at) for task, header, row in TABLES for at in range(len(header))]


def _shapes(task: str) -> tuple[RowSchema, ...]:
    return load_task(task).schemas


def _csv(header: list[str], row: list[str]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text).writerows([header, row])
    return text.getvalue().encode()


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize(("task", "header", "row", "at"), CASES)
def test_a_name_in_another_spelling_is_refused_and_the_advice_leads_on(
    task: str, header: list[str], row: list[str], at: int, spelling: str, tmp_path: Path
) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(_csv(header, row))
    (right,) = read_rows(path, _shapes(task))
    name = SPELLINGS[spelling](header[at])
    assert name != header[at]
    path.write_bytes(_csv([*header[:at], name, *header[at + 1 :]], row))
    with pytest.raises(DataError) as caught:
        read_rows(path, _shapes(task))
    # The advice, word for word as a shell takes it.
    advice = str(caught.value).split("\n  -> ")[1]
    words = [word for word in shlex.split(advice.replace("; ", " ")) if word.startswith("task.columns.")]
    assert len(words) == 1, advice
    wanted, _, column = words[0].removeprefix("task.columns.").partition("=")
    (row_read,) = read_rows(path, _shapes(task), columns={wanted: column.rstrip(",")})
    assert row_read == right


@pytest.mark.parametrize(
    ("task", "header", "row", "wanted"),
    [
        ("mcq", "MCQID,question,options", 'm-9,Which?,"[""x"",""y""]"', "task.columns.id='MCQID'"),
        ("mcq", "row_id,question,options", 'm-9,Which?,"[""x"",""y""]"', "task.columns.id='row_id'"),
        ("rules", "ID,body,rule", "m-9,buy,No ads", "task.columns.id='ID'"),
        ("rules", "qid,body,rule", "m-9,buy,No ads", "task.columns.id='qid'"),
        ("qa", "row_id,question", "m-9,Who?", "task.columns.id='row_id'"),
        ("saq", "mcqId,question", "m-9,Who?", "task.columns.id='mcqId'"),
    ],
)
def test_the_id_of_a_sibling_table_is_no_number_of_a_row(
    task: str, header: str, row: str, wanted: str, tmp_path: Path
) -> None:
    path = tmp_path / "t.csv"
    path.write_text(f"{header}\n{row}\n")
    with pytest.raises(DataError, match="looks meant to be") as caught:
        read_rows(path, _shapes(task))
    assert wanted in str(caught.value)
    (found,) = read_rows(path, _shapes(task), columns={"id": header.split(",")[0]})
    assert found.id == "m-9"


def test_byte_order_marks_at_the_beginning_are_no_part_of_a_name(tmp_path: Path) -> None:
    table = b"questionID,subject,question\n17,history,Who?\n"
    for marks in (b"\xef\xbb\xbf", b"\xef\xbb\xbf\xef\xbb\xbf"):
        path = tmp_path / "t.csv"
        path.write_bytes(marks + table)
        assert [row.id for row in read_rows(path, _shapes("qa"))] == ["17"]
        path = tmp_path / "t.json"
        path.write_bytes(marks + b'[{"questionID": 17, "question": "Who?"}]')
        assert [row.id for row in read_rows(path, _shapes("qa"))] == ["17"]


@pytest.mark.parametrize("key", ["Rule_Violation", "rule violation", "ruleViolation\u200b"])
def test_a_later_record_with_another_spelling_is_refused_with_its_line(key: str, tmp_path: Path) -> None:
    good = {"row_id": 1, "body": "x", "rule": "r", "rule_violation": 1}
    bad = {"row_id": 2, "body": "y", "rule": "r", key: 0}
    path = tmp_path / "t.jsonl"
    path.write_text(json.dumps(good) + "\n" + json.dumps(bad) + "\n")
    with pytest.raises(DataError, match=r"t.jsonl:2: the key .* is not 'rule_violation', but looks meant") as caught:
        list(read_rows(path, _shapes("rules")))
    assert caught.value.line == 2
    log = ReadLog(skip=True)
    assert [row.id for row in read_rows(path, _shapes("rules"), log=log)] == ["1"]
    assert [bad.line for bad in log.skipped] == [2]


def test_a_later_record_with_an_id_of_a_sibling_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"body": "x", "rule": "r"}\n{"Row_ID": 7, "body": "y", "rule": "r"}\n')
    with pytest.raises(DataError, match="'Row_ID' is not 'id'"):
        list(read_rows(path, _shapes("rules")))


def test_parquet_columns_are_held_to_the_same(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "t.parquet"
    pq.write_table(pa.Table.from_pylist([{"questionId": 17.0, "question": "Who?"}]), path)
    with pytest.raises(DataError, match="'questionId' is not 'id'"):
        read_rows(path, _shapes("qa"))
    assert [row.id for row in read_rows(path, _shapes("qa"), columns={"questionID": "questionId"})] == ["17"]


def test_both_spellings_in_one_file_are_told_and_the_exact_one_is_read(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("id,ID,body,rule,Rule\na,b,x,r,s\n")
    log = ReadLog()
    (row,) = read_rows(path, _shapes("rules"), log=log)
    assert row.id == "a"
    assert log.unused() == {str(path): ["ID", "Rule"]}


@pytest.mark.parametrize(
    ("value", "row_id"),
    [("1", "1"), ("1.0", "1"), ("1e0", "1"), ('"1"', "1"), ('"007"', "007"), ('"1.0"', "1.0"), ("-3.0", "-3"),
     ("10000000000000000001", "10000000000000000001"), ("9007199254740991.0", "9007199254740991")],
)  # fmt: skip
def test_an_id_is_its_number_however_it_is_spelt(value: str, row_id: str, tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(f'{{"id": {value}, "body": "x", "rule": "r"}}\n')
    assert [row.id for row in read_rows(path, _shapes("rules"))] == [row_id]


@pytest.mark.parametrize("value", ["1.5", "true", "1e300", "10000000000000000001.0", "[1]", "{}"])
def test_what_is_no_whole_number_is_no_id(value: str, tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(f'{{"id": {value}, "body": "x", "rule": "r"}}\n')
    with pytest.raises(DataError, match="the id"):
        read_rows(path, _shapes("rules"))


def test_infer_names_what_it_does_not_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, output = tmp_path / "t.csv", tmp_path / "o.jsonl"
    path.write_text("post_id,body,rule,lang\n17,x,r,en\n")
    command = ["infer", "engine=fake", "task=rules", f"input={path}", f"output={output}"]
    assert main([*command, "--json"]) == 0
    told = capsys.readouterr()
    assert "not read: 'post_id', 'lang'; the rows are numbered row-1" in told.err
    assert "task.columns.id=post_id" in told.err
    assert told.err.count("not read") == 1
    unused = {str(path): ["post_id", "lang"]}
    assert json.loads(told.out)["reading"]["unused_columns"] == unused
    assert json.loads((tmp_path / "o.jsonl.run/run.json").read_text())["summary"]["reading"]["unused_columns"] == unused
    assert main([*command, "task.columns.id=post_id"]) == 0
    assert json.loads(output.read_text())["id"] == "17"


@settings(max_examples=200, deadline=None)
@given(name=st.text(max_size=12), spelling=st.sampled_from(sorted(SPELLINGS)))
def test_folding_holds_for_any_name(name: str, spelling: str) -> None:
    assert fold_name(fold_name(name)) == fold_name(name)
    assert find_column(name, [name, "other"]) == name


def test_capitals_of_turkish_programs_are_folded_too() -> None:
    assert fold_name("ROW_İD") == fold_name("row_ıd") == fold_name("row_id")


def test_names_that_may_be_ids() -> None:
    assert all(map(looks_like_id, ["uid", "index", "post_id", "commentId", "Example ID", "QID"]))
    assert not any(map(looks_like_id, ["body", "paid", "valid", "rule", "answer"]))


def test_columns_that_several_files_have_in_vain_are_told_once(tmp_path: Path) -> None:
    log = ReadLog()
    schemas = load_task("rules").schemas
    for name, column in (("a", "community"), ("b", "community"), ("c", "colour")):
        path = tmp_path / f"{name}.csv"
        path.write_text(f"row_id,body,rule,{column}\n1,post,rule,x\n", "utf-8")
        list(read_rows(path, schemas, log=log))
    both = f"{tmp_path / 'a.csv'}, {tmp_path / 'b.csv'}: not read: 'community'"
    assert log.new_notes() == [both, f"{tmp_path / 'c.csv'}: not read: 'colour'"]
    assert log.new_notes() == []
