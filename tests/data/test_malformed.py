"""Malformed files: each one clear message, with the file, the line and what to do."""

from __future__ import annotations

import gzip
import sys
from pathlib import Path

import pytest

from lorica.data.read import read_rows
from lorica.errors import ConfigError, DataError, LoricaError, MissingExtraError
from lorica.records import RowSchema

HEADER = b"id,body,rule,label\n"
GOOD = b'{"id": "a", "body": "x", "rule": "r"}\n'
ZIPPED = gzip.compress(HEADER + b"a,x,r,1\n" * 5, mtime=0)

# name -> (file name, content, line in the message or None, row id or None, part of the message)
MALFORMED: dict[str, tuple[str, bytes, int | None, str | None, str]] = {
    "empty file": ("t.csv", b"", 1, None, "the file is empty"),
    "only a byte order mark": ("t.csv", b"\xef\xbb\xbf", 1, None, "the file is empty"),
    "only blank lines": ("t.csv", b"\n\n\n", 1, None, "the file is empty"),
    "header only": ("t.csv", HEADER, 1, None, "a header and no rows"),
    "no known shape": ("t.csv", b"id,bdy,rule\na,x,r\n", 1, None, "task.columns.body=bdy (did you mean it?)"),
    "two columns of one name": ("t.csv", b"id,body,rule,body\na,x,r,y\n", 1, None, "'body' more than once"),
    "a column without a name": ("t.csv", b",id,body,rule\n0,a,x,r\n", 1, None, "column 1 of the header has no name"),
    "spaces round a needed name": ("t.csv", b"id,body, rule\na,x,r\n", 1, None, "task.columns.rule=' rule'"),
    "spaces round an optional name": ("t.csv", b"id,body,rule, label\na,x,r,1\n", 1, None, "looks meant to be"),
    "case of an optional name": ("t.csv", b"id,body,rule,Label\na,x,r,1\n", 1, None, "task.columns.label='Label'"),
    "semicolons": ("t.csv", b"id;body;rule\na;x;r\n", 1, None, "separated by ';'"),
    "tabs in a csv": ("t.csv", b"id\tbody\trule\na\tx\tr\n", 1, None, "name it .tsv"),
    "commas in a tsv": ("t.tsv", b"id,body,rule\na,x,r\n", 1, None, "name it .csv"),
    "a cell too few": ("t.csv", HEADER + b"a,x,r,1\nb,x,r\n", 3, None, "3 cells where the header has 4"),
    "a cell too many": ("t.csv", HEADER + b"a,x, y,r,1\n", 2, None, "5 cells where the header has 4"),
    "unclosed quote": ("t.csv", HEADER + b'a,x,r,1\nb,"x,r,1\nc,x,r,1\n', 3, None, "never closed"),
    "text after a quote": ("t.csv", HEADER + b'a,"x" y,r,1\n', 2, None, "text after a closing quote"),
    "old Mac line ends": ("t.csv", b"id,body,rule\ra,x,r\r", 1, None, "carriage return"),
    "NUL in a cell": ("t.csv", HEADER + b"a,x\0,r,1\n", 2, None, "NUL byte at byte 22"),
    "Latin-1": ("t.csv", HEADER + b"a,x,r,1\nb,caf\xe9,r,1\n", 3, None, "byte 0xE9 at byte 32"),
    "cut inside a character": ("t.jsonl", GOOD + b'{"id": "\xc3', 2, None, "byte 0xC3 at byte 46"),
    "Latin-1 after a byte order mark": ("t.csv", b"\xef\xbb\xbf" + HEADER + b"\xe9", 2, None, "at byte 22"),
    "UTF-16": ("t.csv", "id,body,rule\n".encode("utf-16"), 1, None, "UTF-16 text"),
    "UTF-16 without a mark": ("t.csv", "id,body,rule\n".encode("utf-16-le"), 1, None, "iconv -f UTF-16LE"),
    "UTF-16 the other way": ("t.csv", "id,body,rule\n".encode("utf-16-be"), 1, None, "iconv -f UTF-16BE"),
    "UTF-32": ("t.csv", "id,body,rule\n".encode("utf-32"), 1, None, "UTF-32 text"),
    "an id twice": ("t.csv", HEADER + b"a,x,r,1\nb,x,r,1\na,y,r,0\n", 4, "a", "already used on line 2"),
    "an id missing": ("t.csv", HEADER + b",x,r,1\n", 2, None, "give every row an id"),
    "a row of empty cells": ("t.csv", HEADER + b"a,x,r,1\n,,,\n", 3, None, "the row is empty"),
    "a required cell empty": ("t.csv", HEADER + b"a, ,r,1\n", 2, "a", "'body' is empty"),
    "a value the task refuses": ("t.csv", HEADER + b"a,x,r,1\nb,x,r,maybe\n", 3, "b", "got 'maybe'"),
    "zip named csv": ("t.csv", b"PK\x03\x04rest", 1, None, "an .xlsx workbook is one"),
    "Parquet named csv": ("t.csv", b"PAR1\x15\x04rest", 1, None, "give it the suffix .parquet"),
    "gzip named csv": ("t.csv", ZIPPED, 1, None, "add the suffix .gz"),
    "csv named gz": ("t.csv.gz", HEADER, 1, None, "the content is not gzip"),
    "csv named Parquet": ("t.parquet", HEADER, 1, None, "the content is not Parquet"),
    "Parquet cut off": ("t.parquet", b"PAR1" + bytes(40), 1, None, "damaged or cut off"),
    "Git LFS pointer": ("t.jsonl", b"version https://git-lfs.github.com/spec/v1\noid", 1, None, "git lfs pull"),
    "LFS pointer for Parquet": ("t.parquet", b"version https://git-lfs.github.com/spec/v1\n", 1, None, "git lfs"),
    "an HTML page": ("t.csv", b"<!doctype html><p>Not found", 1, None, "an HTML page"),
    "gzip cut off": ("t.csv.gz", ZIPPED[:-9], 1, None, "cut off"),
    "gzip damaged": ("t.csv.gz", ZIPPED[:-8] + b"\1\1\1\1" + ZIPPED[-4:], 1, None, "damaged"),
    "unknown suffix": ("t.ods", b"PK\x03\x04", None, None, "the suffix '.ods'"),
    "no suffix": ("rows", GOOD, None, None, "no suffix"),
    "JSONL: blank file": ("t.jsonl", b"\n \n", 1, None, "no rows"),
    "JSONL: not JSON": ("t.jsonl", GOOD + b"{'id': 'b'}\n", 2, None, "at column 2"),
    "JSONL: cut line": ("t.jsonl", GOOD + b'{"id": "b", "bo', 2, None, "not a JSON object"),
    "JSONL: two objects on a line": ("t.jsonl", GOOD.strip() + GOOD, 1, None, "Extra data"),
    "JSONL: not an object": ("t.jsonl", GOOD + b"[1, 2]\n", 2, None, "a JSON array where an object"),
    "JSONL: is a JSON array": ("t.jsonl", b"[\n" + GOOD + b"]\n", 1, None, "give the file the suffix .json"),
    "JSONL: spread over lines": ("t.jsonl", b'{\n"id": "a"}', 1, None, "one whole object"),
    "JSONL: a key twice": ("t.jsonl", b'{"id": "a", "body": "x", "body": "y"}', 1, None, "'body' appears twice"),
    "JSONL: NaN": ("t.jsonl", b'{"id": "a", "body": NaN, "rule": "r"}', 1, None, "NaN is not JSON"),
    "JSONL: half a surrogate": ("t.jsonl", b'{"id": "a", "body": "\\ud800"}', 1, None, "half of a surrogate"),
    "JSONL: nested deeply": ("t.jsonl", b'{"id": ' + b"[" * 100_000, 1, None, "nested too deeply"),
    "JSONL: null": ("t.jsonl", b'{"id": "a", "body": null, "rule": "r"}', 1, "a", "'body' is empty"),
    "JSONL: a key missing later": ("t.jsonl", GOOD + b'{"id": "b", "Body": "", "rule": "r"}', 2, "b", "mean 'Body'"),
    "JSONL: a fractional id": ("t.jsonl", b'{"id": 1.5, "body": "x", "rule": "r"}', 1, None, "1.5 is a float"),
    "JSONL: a boolean id": ("t.jsonl", b'{"id": true, "body": "x", "rule": "r"}', 1, None, "True is a bool"),
    "JSONL: 7 and '7'": ("t.jsonl", GOOD.replace(b'"a"', b"7") + GOOD.replace(b"a", b"7"), 2, "7", "on line 1"),
    "JSON: an object": ("t.json", b'{"data": {}}', 1, None, "must be one array"),
    "JSON: a frame by columns": ("t.json", b'{"id": {"0": "a"}, "body": {"0": "x"}}', 1, None, "orient='records'"),
    "JSON: a frame, split": ("t.json", b'{"columns": ["id"], "data": [["a"]]}', 1, None, "orient='records'"),
    "JSONL: a frame by columns": (
        "t.jsonl",
        b'{"id": {"0": "a"}, "body": {"0": "x"}, "rule": {"0": "r"}}\n',
        1,
        None,
        "orient='records'",
    ),
    "JSON: no rows": ("t.json", b" [ ] ", 1, None, "no rows"),
    "JSON: blank": ("t.json", b"  \n", 1, None, "the file is empty"),
    "JSON: cut off": ("t.json", b"[" + GOOD + b",\n" + GOOD.replace(b"a", b"b"), 4, None, "the end of the file where"),
    "JSON: cut in an object": ("t.json", b"[" + GOOD + b",\n" + GOOD[:20], 3, None, "broken JSON"),
    "JSON: a comma too many": ("t.json", b"[" + GOOD + b",\n]", 3, None, "broken JSON"),
    "JSON: no comma": ("t.json", b"[" + GOOD + GOOD + b"]", 2, None, "'{' where ',' or ']'"),
    "JSON: two arrays": ("t.json", b"[" + GOOD + b"]\n[]", 3, None, "after the end of the array"),
    "JSON: not an object inside": ("t.json", b"[" + GOOD + b', "x"]', 2, None, "a JSON string where an object"),
    "JSON: Latin-1": ("t.json", b"[" + GOOD + b',\n{"id": "\xe9"}]', 3, None, "byte 0xE9 at byte 49"),
    "JSON: NUL": ("t.json", b"[" + GOOD + b'\n"\0"]', 3, None, "NUL byte at byte 41"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_file(name: str, tmp_path: Path, shapes: tuple[RowSchema, ...]) -> None:
    file, content, line, row_id, part = MALFORMED[name]
    path = tmp_path / file
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        list(read_rows(path, shapes))
    message = str(caught.value)
    assert part in message
    assert (caught.value.line, caught.value.row_id) == (line, row_id)
    assert message.startswith(str(path) + (f":{line}" if line else ""))
    assert message.count("\n  -> ") == 1  # one message, one remedy
    assert caught.value.exit_code == 3


def test_missing_file_suggests_its_neighbour(tmp_path: Path, shapes: tuple[RowSchema, ...]) -> None:
    (tmp_path / "train.csv").write_bytes(HEADER + b"a,x,r,1\n")
    with pytest.raises(DataError, match=r"no such file\n  -> did you mean 'train.csv'\?"):
        read_rows(tmp_path / "tain.csv", shapes)
    with pytest.raises(DataError, match="does not exist either"):
        read_rows(tmp_path / "no" / "train.csv", shapes)


def test_folder_in_place_of_a_file(tmp_path: Path, shapes: tuple[RowSchema, ...]) -> None:
    folder = tmp_path / "rows.csv"
    folder.mkdir()
    (folder / "part.jsonl").write_bytes(GOOD)
    with pytest.raises(DataError, match=r"a folder.*\n  -> name a file in it, such as 'part.jsonl'"):
        read_rows(folder, shapes)


def test_huge_cell_is_capped(tmp_path: Path, shapes: tuple[RowSchema, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lorica.data.csv_table.MAX_TEXT", 1000)
    path = tmp_path / "t.csv"
    path.write_bytes(HEADER + b'a,"' + b"x\n" * 600 + b'",r,1\n')
    with pytest.raises(DataError, match=r"t.csv:2: a cell of more than"):
        list(read_rows(path, shapes))
    monkeypatch.setattr("lorica.data.files.MAX_TEXT", 1000)
    path.write_bytes(HEADER + b"a," + b"x" * 2000)
    with pytest.raises(DataError, match=r"t.csv:2: a line longer than"):
        list(read_rows(path, shapes))


def test_blank_line_in_a_table_of_one_column(tmp_path: Path, shapes: tuple[RowSchema, ...]) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b"question\nx\n\ny\n")
    rows = read_rows(path, shapes, constants={"answer": "yes"})
    with pytest.raises(DataError, match=r"t.csv:3: a blank line in a table of one column"):
        list(rows)


def test_long_gzip_cut_off_is_noticed_after_its_good_rows(tmp_path: Path, shapes: tuple[RowSchema, ...]) -> None:
    lines = [HEADER] + [f"{i},{i * 7919 % 10007},r,1\n".encode() for i in range(50_000)]
    path = tmp_path / "t.csv.gz"
    path.write_bytes(gzip.compress(b"".join(lines))[:-2000])
    seen: list[str] = []
    with pytest.raises(DataError, match="the gzip stream is cut off") as caught:
        seen.extend(row.id for row in read_rows(path, shapes))
    assert caught.value.line is not None
    assert caught.value.line > 40_000
    assert len(seen) == caught.value.line - 2


@pytest.mark.parametrize(
    ("columns", "constants", "part"),
    [
        ({"bdy": "text"}, {}, "did you mean 'body'? names are: answer, body"),
        ({}, {"bdy": "text"}, "task.constants.bdy"),
        ({"rule": "rule"}, {"rule": "r"}, "both a column"),
        ({}, {"id": "r"}, "one id for every row"),
    ],
)
def test_mapping_that_cannot_be(
    columns: dict[str, str], constants: dict[str, str], part: str, tmp_path: Path, shapes: tuple[RowSchema, ...]
) -> None:
    path = tmp_path / "t.jsonl"
    path.write_bytes(GOOD)
    with pytest.raises(ConfigError) as caught:
        read_rows(path, shapes, columns=columns, constants=constants)
    assert part in str(caught.value)


def test_mapped_column_that_is_not_there(tmp_path: Path, shapes: tuple[RowSchema, ...]) -> None:
    path = tmp_path / "t.jsonl"
    path.write_bytes(GOOD)
    with pytest.raises(DataError, match=r"no column 'boddy'\n  -> did you mean 'body'\?"):
        read_rows(path, shapes, columns={"body": "boddy"})


def test_shapes_are_listed_with_what_each_lacks(tmp_path: Path, shapes: tuple[RowSchema, ...]) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b"id,text,answer\n1,x,y\n")
    with pytest.raises(DataError) as caught:
        read_rows(path, shapes)
    message = str(caught.value)
    assert "a post table: lacks 'body', 'rule'" in message
    assert "a pair table: lacks 'question'" in message
    assert "task.columns.question=" in message


def test_parquet_without_pyarrow(
    tmp_path: Path, shapes: tuple[RowSchema, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "t.parquet"
    path.write_bytes(b"PAR1" + bytes(8) + b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"'lorica\[parquet\]'"):
        read_rows(path, shapes)


def test_records_in_memory_are_refused_alike(shapes: tuple[RowSchema, ...]) -> None:
    from lorica.data.read import rows_from_memory

    good = {"id": "a", "body": "x", "rule": "r"}
    for records, part in (
        ([good, {**good, "id": 2.5}], "<memory>:2: the id 2.5 is a float"),
        ([good, good], "<memory>:2 (row 'a'): the id was already used by record 1"),
        ([good, {"id": "b", "body": "x"}], "<memory>:2 (row 'b'): the key 'rule' is missing"),
        ([good, {**good, "id": "b", "label": "no"}], "<memory>:2 (row 'b'): label must be 0 or 1"),
        ([{"id": "a"}], "<memory>:1: the columns 'id' fit no table"),
        (["text"], "<memory>:1: a str where a dictionary"),
    ):
        with pytest.raises(LoricaError) as caught:
            rows_from_memory(records, shapes)
        assert part in str(caught.value)
