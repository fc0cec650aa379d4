"""JSON files whose rows lie inside an object, and questions below the paragraphs of articles."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lorica.data.read import read_rows
from lorica.data.read_log import ReadLog
from lorica.errors import DataError
from lorica.records import Row
from lorica.tasks import load_task

SAQ = load_task("saq")
SHARED = Path(__file__).resolve().parents[2] / ".." / "shared" / "data" / "xquad"

ROW = {"id": "5", "question": "Who?"}
ARTICLE = {
    "title": "Rain",
    "paragraphs": [
        {
            "context": f"It rained in {city}.",
            "qas": [{"id": f"{city}-{n}", "question": f"Where {n}?", "answers": [{"text": city, "answer_start": 13}]}],
        }
        for n, city in enumerate(("Oslo", "Lima"))
    ],
}


def read(tmp_path: Path, value: Any, log: ReadLog | None = None) -> list[Row]:
    path = tmp_path / "rows.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value, indent=1))
    return list(read_rows(path, SAQ.schemas, log=log))


@pytest.mark.parametrize(
    "value", [{"data": [ROW]}, {"version": "1.1", "meta": {"tags": ["a"]}, "rows": [ROW], "n": 1}, [ROW]]
)
def test_the_one_list_of_rows_in_an_object_is_read(value: Any, tmp_path: Path) -> None:
    log = ReadLog()
    assert [row.id for row in read(tmp_path, value, log)] == ["5"]
    assert len(log.notes()) == isinstance(value, dict)


@pytest.mark.parametrize("wrap", [lambda articles: {"data": articles, "version": "1.1"}, list])
def test_questions_below_paragraphs_are_rows(wrap: Any, tmp_path: Path) -> None:
    rows = read(tmp_path, wrap([ARTICLE, {**ARTICLE, "paragraphs": []}]))
    assert [(row.id, row.gold) for row in rows] == [("Oslo-0", ("Oslo",)), ("Lima-1", ("Lima",))]
    assert "It rained in Lima." in SAQ.render(rows[1])[0].content


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"features": [{"a": 1}], "rows": [ROW]}, "several lists of objects"),
        ({"rows": [ROW], "features": [{"a": 1}]}, "several lists of objects"),
        ('{"data": [{"id": "5", "question": "Who?"}], "data": []}', "several lists of objects"),
        ({"train": [ROW], "test": [ROW]}, "must be one array"),
        ({"messages": [{"role": "user", "content": "Who?"}]}, "must be one array"),
        (json.dumps(ROW) + "\n" + json.dumps(ROW), "give it the suffix .jsonl"),
        ({"data": {"id": "5"}}, "must be one array"),
        ({}, "must be one array"),
        ('{"data": [{"id": "5", "question": "Who?"}]', "the end of the file where ',' or '}'"),
        ('{"data": [{"id": "5", "question": "Who?"}]} {}', "text after the end of the object"),
        ({"data": ["Who?"]}, "where an object"),
        ({"data": []}, "holds no rows"),
    ],
)
def test_other_objects_are_refused(value: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message.replace("{", "\\{").replace("}", "\\}")):
        read(tmp_path, value)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data folder is not beside the repository")
@pytest.mark.parametrize("language", ["en", "zh"])
def test_xquad_is_read_as_it_is(language: str) -> None:
    rows = list(read_rows(SHARED / f"xquad.{language}.json", SAQ.schemas))
    assert (len(rows), all(row.gold for row in rows)) == (632, True)
