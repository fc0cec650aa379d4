"""Answers that are judged by the gold of other rows which bear the same ids."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import lorica
from lorica.cli import main
from lorica.data.write import read_answers
from lorica.errors import DataError
from lorica.records import Answer

ROWS = 12
GOLD = [i % 3 == 0 for i in range(ROWS)]


def write_posts(path: Path, bodies: list[str]) -> Path:
    lines = [f"{i},{body},no ads,{int(gold)}" for i, (body, gold) in enumerate(zip(bodies, GOLD, strict=True))]
    path.write_text("row_id,body,rule,rule_violation\n" + "\n".join(lines) + "\n")
    return path


@pytest.fixture
def answers(tmp_path: Path) -> Path:
    rows = write_posts(tmp_path / "rows.csv", [f"post {i}" for i in range(ROWS)])
    output = tmp_path / "answers.csv"
    assert main(["infer", "task=rules", "engine=fake", f"input={rows}", f"output={output}"]) == 0
    return output


def test_gold_of_other_rows_with_the_same_ids_is_refused(answers: Path, capsys: pytest.CaptureFixture[str]) -> None:
    others = write_posts(answers.with_name("others.csv"), [f"remark {i}" for i in range(ROWS)])
    assert main(["eval", str(answers), str(others), "task=rules"]) == DataError.exit_code
    error = capsys.readouterr().err
    assert f"12 of 12 rows of {others} have another text than the row of the same id that was answered" in error
    assert "row '0'" in error
    assert "name the file that was answered" in error
    with pytest.raises(DataError, match="12 of 12 rows"):
        lorica.evaluate(answers, others, task="rules")
    with pytest.raises(DataError, match="12 of 12 rows"):
        lorica.compare({"a": answers, "b": answers}, others, task="rules")
    assert main(["score", str(answers), str(others)]) == DataError.exit_code


def test_a_few_rewritten_rows_are_told(answers: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bodies = [f"post {i}" for i in range(ROWS - 2)] + ["another", "one more"]
    rewritten = write_posts(answers.with_name("rewritten.csv"), bodies)
    assert main(["eval", str(answers), str(rewritten), "task=rules"]) == 0
    assert f"2 of 12 rows of {rewritten} have another text" in capsys.readouterr().err


@pytest.mark.parametrize(
    "change", ["none", "spaces and case", "ids and gold alone", "answers edited", "run moved away"]
)
def test_the_same_rows_are_judged_without_a_word(
    change: str, answers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gold = tmp_path / "rows.csv"
    other_rows = [f"remark {i}" for i in range(ROWS)]
    if change == "spaces and case":
        write_posts(gold, [f"  POST   {i} " for i in range(ROWS)])
    elif change == "ids and gold alone":
        gold.write_text("row_id,rule_violation\n" + "".join(f"{i},{int(GOLD[i])}\n" for i in range(ROWS)))
    elif change == "answers edited":  # they are no longer those of the run
        write_posts(gold, other_rows)
        answers.write_text(answers.read_text() + "\n")
    elif change == "run moved away":
        write_posts(gold, other_rows)
        answers.with_name("answers.csv.run").rename(tmp_path / "elsewhere")
    assert main(["eval", str(answers), str(gold), "task=rules"]) == 0
    assert "another text" not in capsys.readouterr().err


def test_rows_of_another_shape_are_judged(answers: Path, tmp_path: Path) -> None:
    """What the text of a row is depends on its table: a chat has all that was said, a table the post alone."""
    record_path = tmp_path / "answers.csv.run" / "run.json"
    record = json.loads(record_path.read_text())
    assert record["summary"]["schemas"]
    record["summary"]["schemas"] = ["chats of another table"]
    record_path.write_text(json.dumps(record))
    others = write_posts(tmp_path / "others.csv", [f"remark {i}" for i in range(ROWS)])
    assert main(["eval", str(answers), str(others), "task=rules"]) == 0


def test_warm_up_rows_do_not_count_twice(answers: Path) -> None:
    rows = answers.with_name("rows.csv")
    words = ["task=rules", "engine=fake", f"input={rows}", f"output={answers}", "inference.warmup=true"]
    assert main(["infer", *words]) == 0
    others = write_posts(answers.with_name("others.csv"), [f"remark {i}" for i in range(ROWS)])
    with pytest.raises(DataError, match="12 of 12 rows"):
        lorica.evaluate(answers, others, task="rules")


def test_two_answers_of_one_row_are_refused_from_memory_too(answers: Path) -> None:
    rows = answers.with_name("rows.csv")
    given = list(read_answers(answers))
    doubled = [*given, Answer("3", score=0.5)]
    judges: list[Callable[[], object]] = [
        lambda: lorica.evaluate(doubled, rows, task="rules"),
        lambda: lorica.compare({"a": given, "b": doubled}, rows, task="rules"),
    ]
    for judge in judges:
        with pytest.raises(DataError, match=r"two answers have this id.*'3'|'3'.*two answers have this id"):
            judge()
    assert lorica.evaluate(given, rows, task="rules").n == ROWS
