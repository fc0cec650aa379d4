"""Files of gold answers with defects: each ends in one error that names file, line and row; no file is changed."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from lorica.cli import main

HEAD, REST = "id,body,rule,rule_violation\n", "2,b,r,0\n3,c,r,1\n4,d,r,0\n"
GOOD = (HEAD + "1,a,r,1\n" + REST).encode()
ROWS = [{"id": str(n), "body": f"post {n}", "rule": "r", "rule_violation": n % 2} for n in range(1, 5)]
ANSWERS = "id,score\n1,0.9\n2,0.2\n3,0.8\n4,0.1\n"


def csv(first: str, head: str = HEAD) -> tuple[str, bytes]:
    return "gold.csv", f"{head}{first}\n{REST}".encode()


def jsonl(**first: object) -> tuple[str, bytes]:
    lines = [json.dumps({**ROWS[0], **first}), *map(json.dumps, ROWS[1:])]
    return "gold.jsonl", "\n".join(lines).encode()


RULES: dict[str, tuple[tuple[str, bytes], tuple[str, ...]]] = {
    "empty file": (("gold.csv", b""), ("gold.csv:1", "empty")),
    "header only": (("gold.csv", HEAD.encode()), ("gold.csv", "no rows")),
    "no gold column": (("gold.csv", b"id,body,rule\n1,a,r\n2,b,r\n3,c,r\n4,d,r\n"), ("gold.csv:2 (row '1')", "gold")),
    "blank label": (csv("1,a,r,"), ("gold.csv:2 (row '1')", "no gold")),
    "label that is none": (csv("1,a,r,maybe"), ("gold.csv:2 (row '1')", "maybe")),
    "label 2": (csv("1,a,r,2"), ("gold.csv:2 (row '1')", "'2'")),
    "label 0.5": (csv("1,a,r,0.5"), ("gold.csv:2 (row '1')", "0.5")),
    "label NaN": (csv("1,a,r,nan"), ("gold.csv:2 (row '1')", "nan")),
    "label -1": (csv("1,a,r,-1"), ("gold.csv:2 (row '1')", "-1")),
    "doubled id": (("gold.csv", GOOD + b"4,e,r,1\n"), ("gold.csv:6 (row '4')", "line 5")),
    "blank id": (csv(",a,r,1"), ("gold.csv:2", "id")),
    "ragged, longer": (csv("1,a,r,1,x"), ("gold.csv:2", "5 cells where the header has 4")),
    "ragged, shorter": (csv("1,a,r"), ("gold.csv:2", "3 cells where the header has 4")),
    "column twice": (csv("1,a,r,1", "id,body,rule,rule\n"), ("gold.csv:1", "'rule'")),
    "other columns": (("gold.csv", b"name,size\nx,1\n"), ("gold.csv:1", "name")),
    "semicolons": (("gold.csv", GOOD.replace(b",", b";")), ("gold.csv:1", "';'")),
    "UTF-16": (("gold.csv", GOOD.decode().encode("utf-16")), ("gold.csv:1", "UTF-16")),
    "Latin-1": (("gold.csv", GOOD.replace(b"1,a", b"1,caf\xe9")), ("gold.csv:2", "UTF-8")),
    "open quote": (csv('1,"a,r,1'), ("gold.csv:2", "quote")),
    "NUL": (("gold.csv", GOOD.replace(b"1,a", b"1,\0")), ("gold.csv:2", "NUL")),
    "cut gzip": (("gold.csv.gz", gzip.compress(GOOD * 50)[:40]), ("gold.csv.gz", "cut off")),
    "hidden gzip": (("gold.csv", gzip.compress(GOOD)), ("gold.csv:1", "gzip")),
    "LFS pointer": (("gold.csv", b"version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 1\n"), ("LFS",)),
    "web page": (("gold.csv", b"<!DOCTYPE html><html></html>"), ("gold.csv:1", "HTML")),
    "spreadsheet": (("gold.csv", b"PK\x03\x04" + bytes(60)), ("gold.csv", "zip")),
    "unknown suffix": (("gold.dat", GOOD), ("gold.dat", "format")),
    "damaged Parquet": (("gold.parquet", b"PAR1garbagePAR1"), ("gold.parquet", "damaged")),
    "cut line": (("gold.jsonl", jsonl()[1][:-8]), ("gold.jsonl:4", "JSON")),
    "array as lines": (("gold.jsonl", json.dumps(ROWS).encode()), ("gold.jsonl:1", "array")),
    "lines as array": (("gold.json", jsonl()[1]), ("gold.json:1", "array")),
    "label as list": (jsonl(rule_violation=[1, 0]), ("gold.jsonl:1 (row '1')", "[1, 0] is neither")),
    "label null": (jsonl(rule_violation=None), ("gold.jsonl:1 (row '1')", "no gold")),
    "key twice": (
        ("gold.jsonl", b'{"id":1,"body":"a","rule":"r","rule_violation":1,"rule_violation":0}\n'),
        ("gold.jsonl:1", "twice"),
    ),
    "fewer rows": (("gold.csv", (HEAD + REST).encode()), ("answers.csv (row '1')", "belong to no row")),
    "more rows": (("gold.csv", GOOD + b"5,e,r,1\n"), ("answers.csv (row '5')", "no answer")),
    "answers themselves": (("gold.csv", ANSWERS.encode()), ("gold.csv:1", "score")),
}

MCQ: dict[str, tuple[dict[str, object], tuple[str, ...]]] = {
    "no such option": ({"answer": "D"}, ("gold.jsonl:1 (row '1')", "D")),
    "number out of range": ({"answer": 7}, ("gold.jsonl:1 (row '1')", "7")),
    "an answer in words": ({"answer": "the first"}, ("gold.jsonl:1 (row '1')", "the first")),
    "two answers": ({"answer": ["A", "B"]}, ("gold.jsonl:1 (row '1')", "answer")),
    "one option": ({"options": ["3"]}, ("gold.jsonl:1 (row '1')", "option")),
    "no options": ({"options": []}, ("gold.jsonl:1 (row '1')", "option")),
    "options as text": ({"options": "3 or 4"}, ("gold.jsonl:1", "options")),
    "blank option": ({"options": ["3", " "]}, ("gold.jsonl:1 (row '1')", "option")),
    "blank question": ({"question": " "}, ("gold.jsonl:1 (row '1')", "question")),
    "no answer": ({"answer": None}, ("gold.jsonl:1 (row '1')", "gold")),
}


def _run(folder: Path, name: str, content: bytes, task: str, answers: str, capsys: pytest.CaptureFixture[str]) -> str:
    (folder / name).write_bytes(content)
    (folder / "answers.csv").write_text(answers)
    assert main(["eval", str(folder / "answers.csv"), str(folder / name), f"task={task}", "--json"]) == 3
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "Traceback" not in shown.err
    assert shown.err.count("lorica: ") == 1
    assert "\n  -> " in shown.err
    assert sorted(path.name for path in folder.iterdir()) == sorted(["answers.csv", name])
    assert (folder / name).read_bytes() == content
    return shown.err


@pytest.mark.parametrize("defect", RULES)
def test_a_defect_is_named(defect: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (name, content), parts = RULES[defect]
    message = _run(tmp_path, name, content, "rules", ANSWERS, capsys)
    assert all(part in message for part in parts), message


@pytest.mark.parametrize("defect", MCQ)
def test_a_defect_of_options_is_named(defect: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change, parts = MCQ[defect]
    row: dict[str, object] = {"id": "1", "question": "2 + 2?", "options": ["3", "4"], "answer": "B"}
    content = json.dumps(row | change).encode()
    message = _run(tmp_path, "gold.jsonl", content, "mcq", "id,answer\n1,B\n", capsys)
    assert all(part in message for part in parts), message
