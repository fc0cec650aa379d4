"""`data.bad_rows`: rows that cannot be used are left out, counted and listed, or stop the command."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from lorica.cli import main
from lorica.data.journal import Journal
from tests.commands.conftest import QUICK

SAQ = (
    "ID,question,annotations\n"
    "Q-1,What do people drink?,\"[{'answers': ['Tee'], 'en_answers': ['tea'], 'count': 4}]\"\n"
    "Q-2,Which fruit is eaten?,[]\n"
    "Q-3,Which game is played?,\"[{'answers': ['Go'], 'count': 2}]\"\n"
)
POSTS = (
    "row_id,body,rule,rule_violation\n"
    "1,buy now,No ads,1\n"
    "2,,No ads,0\n"  # no post
    "3,nice day,No ads,maybe\n"  # no label
    "4,nice, day,No ads,0\n"  # ragged
    ",a quiet walk,No ads,0\n"  # no id
    "6,fine,No ads,0\n"
)
BAD = {3: ("2", "'body' is empty"), 4: ("3", "'maybe'"), 5: (None, "5 cells"), 6: (None, "the id is missing")}


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _infer(path: Path, output: Path, *more: str) -> list[str]:
    return ["infer", "engine=fake", "task=rules", f"input={path}", f"output={output}", *more]


def test_an_error_names_the_setting_and_the_setting_leads_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, output = tmp_path / "rows.csv", tmp_path / "o.jsonl"
    path.write_text(POSTS)
    assert main(_infer(path, output)) == 3
    error = capsys.readouterr().err
    assert "rows.csv:3 (row '2')" in error
    assert "data.bad_rows=skip leaves such rows out" in error
    assert not output.exists()
    assert main([*_infer(path, output, "data.bad_rows=skip"), "--json"]) == 0
    told = capsys.readouterr()
    assert "rows left out (data.bad_rows=skip): 4, first" in told.err
    assert [row["id"] for row in _lines(output)] == ["1", "6"]
    skipped = _lines(tmp_path / "o.jsonl.skipped.jsonl")
    assert {row["line"]: row["id"] for row in skipped} == {line: row_id for line, (row_id, _) in BAD.items()}
    assert all(BAD[row["line"]][1] in row["reason"] and row["file"] == str(path) for row in skipped)
    reading = json.loads(told.out)["reading"]
    assert (reading["skipped_rows"], reading["skipped_file"]) == (4, str(tmp_path / "o.jsonl.skipped.jsonl"))
    record = json.loads((tmp_path / "o.jsonl.run/run.json").read_text())
    assert record["summary"]["reading"]["skipped_rows"] == 4
    assert record["config"]["data"]["bad_rows"] == "skip"
    assert record["manifest"]["data.bad_rows"] == "skip"


def test_a_list_of_rows_left_out_does_not_outlive_its_run(tmp_path: Path) -> None:
    path, output = tmp_path / "rows.csv", tmp_path / "o.jsonl"
    path.write_text(POSTS)
    assert main(_infer(path, output, "data.bad_rows=skip")) == 0
    path.write_text("".join(line for line in POSTS.splitlines(True) if line[0] in "r16"))
    assert main(_infer(path, output)) == 0
    assert not (tmp_path / "o.jsonl.skipped.jsonl").exists()


@pytest.mark.parametrize(
    ("name", "content", "ids"),
    [
        # A number is the record's place in the file, whatever is left out before it.
        ("rows.csv", "body,rule\nx,r\n,r\ny,r,z\nw,r\n", ["row-1", "row-4"]),
        (
            "rows.jsonl",
            '{"body": "x", "rule": "r"}\n{"body": "y"\n[]\n{"body": "w", "rule": "r"}\n',
            ["row-1", "row-4"],
        ),
        ("rows.jsonl", '{"id": \n{"id": 1, "body": "x", "rule": "r"}\n{"id": 2, "id": 3}\n', ["1"]),
        ("rows.json", '[3, {"id": 1, "body": "x", "rule": "r"}, "x", {"id": 2, "body": null}]', ["1"]),
        ("rows.tsv", "id\tbody\trule\n1\tx\tr\n2\ty\n", ["1"]),
    ],
)
def test_every_format_goes_on_behind_a_bad_row(name: str, content: str, ids: list[str], tmp_path: Path) -> None:
    path, output = tmp_path / name, tmp_path / "o.jsonl"
    path.write_text(content)
    assert main(_infer(path, output)) == 3
    assert main(_infer(path, output, "data.bad_rows=skip")) == 0
    assert [row["id"] for row in _lines(output)] == ids


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("rows.csv", POSTS.replace("\n6,", "\n1,"), "already used on line 2"),
        ("rows.csv", POSTS.replace("6,fine", '6,"fine'), "never closed"),
        ("rows.csv", "row_id,body,rule\n1,,r\n2, ,r\n", "every row was left out"),
        ("rows.jsonl", "{\n{\n", "not a JSON object"),
        ("rows.json", '[{"body": "x", "rule": "r"}, {"body": ', "broken JSON"),
    ],
)
def test_what_casts_doubt_on_other_rows_is_not_left_out(
    name: str, content: str, part: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, output = tmp_path / name, tmp_path / "o.jsonl"
    path.write_text(content)
    assert main(_infer(path, output, "data.bad_rows=skip")) == 3
    assert part in capsys.readouterr().err
    assert not output.exists()


def test_a_run_with_rows_left_out_goes_on_byte_for_byte(tmp_path: Path) -> None:
    path, whole, broken = tmp_path / "rows.csv", tmp_path / "whole.jsonl", tmp_path / "o" / "whole.jsonl"
    lines = [f"{i},{'' if i % 7 == 3 else f'text {i}'},No ads" for i in range(200)]
    path.write_text("\n".join(["row_id,body,rule", *lines]) + "\n")
    command = _infer(path, whole, "data.bad_rows=skip", "inference.window_rows=16", "inference.resume=true")
    assert main(command) == 0
    broken.parent.mkdir()
    command[4] = f"output={broken}"

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        real, commits = Journal.commit, iter(range(100))

        def commit(self: Journal, answers: Any) -> None:
            real(self, answers)
            if next(commits) == 3:
                raise KeyboardInterrupt

        patch.setattr(Journal, "commit", commit)
        main(command)
    assert not broken.exists()
    assert main(command) == 0
    assert broken.read_bytes() == whole.read_bytes()
    listed = [folder / "whole.jsonl.skipped.jsonl" for folder in (tmp_path, broken.parent)]
    assert listed[0].read_bytes() == listed[1].read_bytes()
    assert len(_lines(listed[0])) == sum(i % 7 == 3 for i in range(200))
    # Without the setting it is another run.
    assert main([*command, "data.bad_rows=error"]) == 3


def test_eval_counts_gold_rows_that_nobody_could_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gold, answers = tmp_path / "saq.csv", tmp_path / "a.jsonl"
    gold.write_text(SAQ)
    assert main(["infer", "engine=fake", "task=saq", f"input={gold}", f"output={answers}"]) == 0
    command = ["eval", str(answers), str(gold), "task=saq", "--json"]
    capsys.readouterr()
    assert main(command) == 3
    assert "data.bad_rows=skip" in capsys.readouterr().err
    assert main([*command, "data.bad_rows=skip"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["n"], result["reading"]["skipped_rows"]) == (2, 1)
    assert [row["id"] for row in _lines(tmp_path / "a.jsonl.gold-skipped.jsonl")] == ["Q-2"]


def test_training_leaves_rows_without_an_answer_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, run_dir = tmp_path / "saq.csv", tmp_path / "run"
    path.write_text(SAQ)
    command = ["train", "task=saq", f"input={path}", f"run_dir={run_dir}", *QUICK]
    assert main(command) == 3
    assert "saq.csv:3 (row 'Q-2')" in (told := capsys.readouterr().err)
    assert "data.bad_rows=skip" in told
    assert main([*command, "data.bad_rows=skip", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["saq"]["reading"]["skipped_rows"] == 1
    assert [row["line"] for row in _lines(run_dir / "saq.skipped.jsonl")] == [3]


@pytest.mark.parametrize(
    "word", ["data.bad_row=skip", "data.bad-rows=skip", "data.badrows=error", "data.Bad_Rows=skip"]
)
def test_a_misspelt_key_is_no_subject(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", word]) == 2
    assert "did you mean data.bad_rows?" in capsys.readouterr().err


def test_rows_left_out_of_a_file_whose_name_is_no_text_are_listed(tmp_path: Path) -> None:
    path, output = Path(os.fsdecode(bytes(tmp_path) + b"/r\xe8.csv")), tmp_path / "o.jsonl"
    path.write_text(POSTS)
    assert main(_infer(path, output, "data.bad_rows=skip")) == 0
    assert len(_lines(tmp_path / "o.jsonl.skipped.jsonl")) == len(BAD)


def test_rows_left_out_of_one_file_are_not_held_against_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.csv").write_text(SAQ)
    (tmp_path / "b.csv").write_text("ID,question,annotations\n")
    files = [f"data.{name}={tmp_path / name}.csv" for name in "ab"]
    assert main(["train", "task=saq", *files, f"run_dir={tmp_path / 'run'}", "data.bad_rows=skip"]) == 3
    assert "b.csv:1: the file has a header and no rows" in capsys.readouterr().err


def test_a_subject_cannot_be_called_like_a_key(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "data.bad_rows=bad_rows.csv"]) == 2
    assert "an entry 'bad_rows' of data needs another name" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("task", "row", "leads"),
    [
        ("rules", {"body": "Buy", "rule": "No ads", "verdict": "yes"}, "task.columns.rule_violation='verdict'"),
        ("mcq", {"question": "Which?", "options": ["a", "b"], "label": "B"}, "task.columns.answer='label'"),
        (
            "mcq",
            {"question": "Which?", "options": ["a", "b"], "answer": None, "label": "B"},
            "task.columns.answer='label'",
        ),
        ("saq", {"question": "Which?", "best one": "b"}, "task.columns.answer='best one'"),
        ("saq", {"instruction": "Name one.", "target": "b"}, "task.columns.output='target'"),
        ("saq", {"prompt": "Name one.", "target": "b"}, "task.columns.completion='target'"),
    ],
)
def test_a_column_that_may_hold_the_answers_is_named_and_leads_on(
    task: str, row: dict[str, Any], leads: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gold, answers = tmp_path / "gold.jsonl", tmp_path / "answers.jsonl"
    gold.write_text(json.dumps(row) + "\n")
    answers.write_text(json.dumps({"id": "row-1", "answer": "Yes" if task == "rules" else "b"}) + "\n")
    command = ["eval", str(answers), str(gold), f"task={task}"]
    assert main(command) == 3
    said = capsys.readouterr().err
    assert f"or say which column holds the answers: {leads} (not read: " in said
    assert main([*command, leads.replace("'", "")]) == 0


def test_one_row_without_an_answer_says_nothing_of_other_columns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gold, answers = tmp_path / "gold.jsonl", tmp_path / "answers.jsonl"
    rows = [{"id": str(i), "question": f"Which {i}?", "answer": "b" * (i < 2), "source": "x"} for i in range(3)]
    gold.write_text("".join(json.dumps(row) + "\n" for row in rows))
    answers.write_text("".join(json.dumps({"id": str(i), "answer": "b"}) + "\n" for i in range(3)))
    assert main(["eval", str(answers), str(gold), "task=saq"]) == 3
    assert "-> give the row an answer; data.bad_rows=skip" in capsys.readouterr().err


def test_one_mapping_serves_labelled_rows_and_rows_to_come(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows, output = tmp_path / "test.csv", tmp_path / "o.csv"
    mapping = ["task.columns.body=text", "task.columns.rule_violation=label", "task.constants.rule=No ads"]
    rows.write_text("id,text\n1,buy now\n2,nice day\n")
    assert main([*_infer(rows, output, *mapping)]) == 0
    assert "test.csv: no column 'label' (task.columns.rule_violation): read as rows" in capsys.readouterr().err
    assert [row.split(",")[0] for row in output.read_text().splitlines()] == ["id", "1", "2"]
    assert main(["eval", str(output), str(rows), "task=rules", *mapping]) == 3
    assert "task.columns.rule_violation=label: the file has no column 'label'" in capsys.readouterr().err
    rows.write_text("id,text,lable\n1,buy now,1\n")
    assert main([*_infer(rows, tmp_path / "p.csv", *mapping)]) == 3
    assert "did you mean 'lable'" in capsys.readouterr().err
