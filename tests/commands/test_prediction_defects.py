"""Files of predictions with defects: each ends in one error that names file, line and row, or is read rightly."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from lorica.cli import main

GOLD = "id,body,rule,rule_violation\n1,a,r,1\n2,b,r,0\n3,c,r,1\n4,d,r,0\n"
HEAD, REST = "id,score\n", "2,0.2\n3,0.8\n4,0.1\n"
LAST = '{"id":2,"score":0.2}\n{"id":3,"score":0.8}\n{"id":4,"score":0.1}\n'


def csv(first: str, head: str = HEAD) -> tuple[str, bytes]:
    return "a.csv", f"{head}{first}\n{REST}".encode()


def jsonl(first: str) -> tuple[str, bytes]:
    return "a.jsonl", f"{first}\n{LAST}".encode()


GOOD = csv("1,0.9")[1]
DEFECTS: dict[str, tuple[tuple[str, bytes], tuple[str, ...]]] = {
    "NaN": (csv("1,nan"), ("a.csv:2 (row '1')", "not a finite number")),
    "infinite": (csv("1,inf"), ("a.csv:2 (row '1')", "not a finite number")),
    "missing row": (("a.csv", (HEAD + REST).encode()), ("a.csv (row '1')", "the row has no answer")),
    "doubled row": (("a.csv", GOOD + b"4,0.3\n"), ("a.csv:6 (row '4')", "already used on line 5")),
    "foreign row": (("a.csv", GOOD + b"9,0.3\n"), ("a.csv (row '9')", "1 of 5 answers belong to no row")),
    "UTF-16": (("a.csv", GOOD.decode().encode("utf-16")), ("a.csv:1", "UTF-16", "iconv")),
    "Latin-1": (("a.csv", "id,answer\n1,né\n".encode("latin-1")), ("a.csv:2", "0xE9", "not UTF-8")),
    "ragged, longer": (csv("1,0.9,x"), ("a.csv:2", "3 cells where the header has 2")),
    "ragged, shorter": (csv("1"), ("a.csv:2", "1 cells where the header has 2")),
    "a word": (csv("1,high"), ("a.csv:2 (row '1')", "'high', which is no number")),
    "percent": (csv("1,90%"), ("a.csv:2 (row '1')", "'90%', which is no number; write a percentage")),
    "decimal comma": (csv('1,"0,9"'), ("a.csv:2 (row '1')", "'0,9', which is no number", "with a point")),
    "semicolons": (("a.csv", b"id;score\n1;0,9\n"), ("a.csv:1", "separated by ';'")),
    "underscore": (csv("1,0_9"), ("a.csv:2 (row '1')", "'0_9', which is no number")),
    "hexadecimal": (csv("1,0x1"), ("a.csv:2 (row '1')", "'0x1', which is no number")),
    "text among numbers": (jsonl('{"id":1,"score":"0.9"}'), ("a.jsonl:1 (row '1')", "got `str` in column `score`")),
    "true as score": (jsonl('{"id":1,"score":true}'), ("a.jsonl:1 (row '1')", "got `bool`")),
    "list as score": (jsonl('{"id":1,"score":[0.9]}'), ("a.jsonl:1 (row '1')", "got `array`")),
    "NaN of JSON": (jsonl('{"id":1,"score":NaN}'), ("a.jsonl:1", "NaN is not JSON")),
    "beyond float": (jsonl('{"id":1,"score":1e999}'), ("a.jsonl:1 (row '1')", "not a finite number")),
    "key twice": (jsonl('{"id":1,"score":0.9,"score":0.1}'), ("a.jsonl:1", "'score' appears twice")),
    "cut line": (("a.jsonl", LAST.encode()[:-8]), ("a.jsonl:3", "not a JSON object")),
    "array as lines": (("a.jsonl", b'[{"id":1,"score":0.9}]'), ("a.jsonl:1", "JSON array", "suffix .json")),
    "lines as array": (("a.json", LAST.encode()), ("a.json:1", "must be one array", ".jsonl")),
    "map as array": (("a.json", b'{"1":0.9}'), ("a.json:1", "must be one array")),
    "cut gzip": (("a.csv.gz", gzip.compress(GOOD * 50)[:40]), ("a.csv.gz:1", "cut off")),
    "damaged gzip": (("a.csv.gz", b"\x1f\x8bgarbage"), ("a.csv.gz:1", "damaged")),
    "no gzip": (("a.csv.gz", GOOD), ("a.csv.gz:1", "not gzip")),
    "hidden gzip": (("a.csv", gzip.compress(GOOD)), ("a.csv:1", "gzip-compressed")),
    "empty file": (("a.csv", b""), ("a.csv:1", "the file is empty")),
    "header only": (("a.csv", HEAD.encode()), ("a.csv:1", "a header and no answers")),
    "no header": (("a.csv", b"1,0.9\n" + REST.encode()), ("a.csv:1", "'1' is no column")),
    "column twice": (csv("1,0.9", "id,score,score\n"), ("a.csv:1", "'score' more than once")),
    "column in capitals, too": (csv("1,0.9", "id,score,Score\n"), ("a.csv:1", "did you mean 'score'")),
    "foreign column": (csv("1,0.9", "id,prob\n"), ("a.csv:1", "'prob' is no column")),
    "no ids": (("a.csv", b"score\n0.9\n"), ("a.csv:1", "no column 'id'")),
    "blank id": (csv(",0.9"), ("a.csv:2", "the id is missing")),
    "null as id": (jsonl('{"id":null,"score":0.9}'), ("a.jsonl:1", "the id is missing")),
    "true as id": (jsonl('{"id":true,"score":0.9}'), ("a.jsonl:1", "ids are text or whole numbers")),
    "white space in ids": (csv("1 ,0.9"), ("a.csv (row '1 ')", "its row is '1'", "white space")),
    "zeros before ids": (csv("01,0.9"), ("a.csv (row '01')", "its row is '1'", "zeros in front")),
    "ids as floats": (csv("1.0,0.9"), ("a.csv (row '1.0')", "its row is '1'", ".0")),
    "binary": (("a.csv", bytes(range(256))), ("a.csv:1", "NUL byte")),
    "picture": (("a.csv", b"\x89PNG\r\n\x1a\n" + bytes(50)), ("a.csv:1", "binary")),
    "LFS pointer": (("a.csv", b"version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 1\n"), ("Git LFS",)),
    "web page": (("a.csv", b"<!DOCTYPE html><html></html>"), ("a.csv:1", "HTML page")),
    "damaged Parquet": (("a.parquet", b"PAR1garbagePAR1"), ("a.parquet:1", "damaged or cut off")),
    "unknown suffix": (("a.dat", GOOD), ("a.dat", "cannot tell the format")),
    "open quote": (csv('"1,0.9'), ("a.csv:2", "never closed")),
    "old Mac line ends": (("a.csv", GOOD.replace(b"\n", b"\r")), ("a.csv:1", "carriage return")),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_defect_is_named(defect: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (name, content), parts = DEFECTS[defect]
    gold = tmp_path / "gold.csv"
    gold.write_text(GOLD)
    (tmp_path / name).write_bytes(content)
    assert main(["eval", str(tmp_path / name), str(gold), "task=rules", "--json"]) == 3
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "Traceback" not in shown.err
    assert all(part in shown.err for part in parts), shown.err
    assert shown.err.count("lorica: ") == 1
    assert (tmp_path / name).read_bytes() == content


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", b"\xef\xbb\xbf" + GOOD),
        ("a.csv", GOOD.replace(b"\n", b"\r\n")),
        ("a.csv.gz", gzip.compress(GOOD)),
        ("a.jsonl", b'{"id":1.0,"score":0.9}\n' + LAST.encode()),
        ("a.csv", "id,score\n1,٠.٩\n".encode() + REST.encode()),
    ],
)
def test_what_has_one_meaning_is_read(
    name: str, content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gold = tmp_path / "gold.csv"
    gold.write_text(GOLD)
    (tmp_path / name).write_bytes(content)
    assert main(["eval", str(tmp_path / name), str(gold), "task=rules", "--json"]) == 0
    metrics = json.loads(capsys.readouterr().out)["metrics"]
    assert (metrics["accuracy"]["value"], metrics["accuracy"]["n"]) == (1.0, 4)


def test_a_row_without_a_score_is_counted_and_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "gold.csv").write_text(GOLD)
    (tmp_path / "a.csv").write_bytes(csv("1,")[1])
    assert main(["eval", str(tmp_path / "a.csv"), str(tmp_path / "gold.csv"), "task=rules", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["unscored"], result["no_answer"]["ids"]) == (1, ["1"])
    assert result["metrics"]["accuracy"]["value"] == 0.75
    assert result["metrics"]["roc_auc"]["n"] == 3
