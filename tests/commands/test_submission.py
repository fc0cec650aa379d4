"""`lorica infer --submission`: the columns a competition takes, under its names."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from lorica.cli import main
from lorica.data.submission import SubmissionColumn, parse_columns, write_submission
from lorica.records import Answer, UsedPassage


@pytest.fixture
def posts(tmp_path: Path) -> Path:
    path = tmp_path / "posts.csv"
    path.write_text("row_id,body,rule\n2029,Buy now,No ads\n2030,Nice day,No ads\n", "utf-8")
    return path


def test_a_submission_stands_beside_the_output(posts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "answers.jsonl"
    columns = "row_id=id,rule_violation=score"
    command = ["infer", "engine=fake", "task=rules", f"input={posts}", f"output={output}", "--submission", columns]
    assert main([*command, "--json"]) == 0
    written = Path(json.loads(capsys.readouterr().out)["submission"])
    assert written == tmp_path / "answers.submission.csv"
    answers = [json.loads(line) for line in output.read_text("utf-8").splitlines()]
    with written.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [list(row) for row in rows] == [["row_id", "rule_violation"]] * 2
    assert [(row["row_id"], float(row["rule_violation"])) for row in rows] == [(a["id"], a["score"]) for a in answers]
    written.unlink()
    assert main([*command, "inference.resume=true"]) == 0  # complete already
    assert written.is_file()


def test_values_are_as_they_are_and_missing_ones_are_counted(tmp_path: Path) -> None:
    answers = [Answer(id="1", answer="=HYPERLINK(1)", scores={"A": 0.25}), Answer(id="2"), Answer(id="3", answer='"x"')]
    columns = (SubmissionColumn("id", "id"), SubmissionColumn("a", "answer"), SubmissionColumn("p", "scores.A"))
    assert write_submission(tmp_path / "s.csv", answers, columns) == {"answer": ["2"], "scores.A": ["2", "3"]}
    with (tmp_path / "s.csv").open(newline="", encoding="utf-8") as file:
        assert list(csv.reader(file)) == [
            ["id", "a", "p"],
            ["1", "=HYPERLINK(1)", "0.25"],
            ["2", "", ""],
            ["3", '"x"', ""],
        ]


def test_flags_and_passages_are_one_cell(tmp_path: Path) -> None:
    passage = UsedPassage("p 1", "notes.md", 0.5, "sha256:0")
    answers = [Answer(id="1", flags=("truncated", "retried"), passages=(passage,)), Answer(id="2")]
    columns = (SubmissionColumn("id", "id"), SubmissionColumn("f", "flags"), SubmissionColumn("p", "passages"))
    write_submission(tmp_path / "s.csv", answers, columns)
    with (tmp_path / "s.csv").open(newline="", encoding="utf-8") as file:
        first, second = list(csv.reader(file))[1:]
    assert (first[1], json.loads(first[2])[0]["id"]) == ("truncated retried", "p 1")
    assert second == ["2", "", ""]


@pytest.mark.parametrize("text", ["id,scor", "", "a=id,a=score", "=id", "id,,score", "p=scores."])
def test_columns_that_no_answer_has_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"no column|stands twice"):
        parse_columns(text)


def test_a_wrong_column_is_told_before_any_row_is_answered(posts: Path, tmp_path: Path) -> None:
    output = tmp_path / "answers.jsonl"
    words = ["infer", "engine=fake", "task=rules", f"input={posts}", f"output={output}", "--submission", "id,scre"]
    assert main(words) == 2
    assert not output.exists()


def test_a_place_that_takes_no_submission_is_refused_before_the_rows_are_answered(
    posts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lorica.commands.build.build_pipeline", lambda *_: pytest.fail("loaded"))
    (tmp_path / "answers.submission.csv").mkdir()
    output = tmp_path / "answers.csv"
    command = ["infer", "engine=fake", "task=rules", f"input={posts}", f"output={output}", "--submission", "id,score"]
    assert main(command) == 3
    assert "answers.submission.csv" in capsys.readouterr().err
