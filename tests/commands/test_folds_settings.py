"""`lorica train folds=K` under settings that decide what is answered, or what is held out beside a fold."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from lorica.cli import main
from lorica.data.digest import file_digest
from lorica.data.write import read_answers
from tests.commands.conftest import QUICK


def _records(table: Path) -> list[dict[str, str]]:
    with table.open(newline="", encoding="utf-8") as source:
        return list(csv.DictReader(source))


def test_other_settings_answer_the_held_out_rows_again(
    few_posts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir, shorter = tmp_path / "run", "inference.max_input_tokens=60"
    quick = ["folds=2", "training.epochs=1", *QUICK[1:]]
    command = ["train", "task=rules", f"input={few_posts}", f"run_dir={run_dir}", *quick, "--json"]
    assert main(command) == 0
    tables, written = [json.loads(capsys.readouterr().out)["folds"]["table"]], []
    for words in ([], [shorter], [shorter]):
        assert main([*command, "training.resume=true", *words]) == 0
        tables.append(json.loads(capsys.readouterr().out)["folds"]["table"])
        written.append((run_dir / "out_of_fold.csv").stat().st_mtime_ns)
    assert any(answer.dropped_tokens for answer in read_answers(run_dir / "out_of_fold.csv"))
    assert tables[0] == tables[1] != tables[2] == tables[3]
    assert written[0] != written[1] == written[2], "nothing is answered again without a reason"


def test_answers_of_unknown_settings_are_given_again(
    few_posts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = tmp_path / "run"
    command = ["train", "task=rules", f"input={few_posts}", f"run_dir={run_dir}", "folds=2", "training.epochs=1"]
    command += [*QUICK[1:], "inference.max_input_tokens=60"]
    assert main(command) == 0
    expected = (run_dir / "out_of_fold.csv").read_bytes()
    (run_dir / "out_of_fold.csv").write_bytes(expected.replace(b",No,", b",Yes,"))
    state = json.loads((run_dir / "folds.json").read_text("utf-8"))
    del state["answering"]
    state["out_of_fold"] = file_digest(run_dir / "out_of_fold.csv")
    (run_dir / "folds.json").write_text(json.dumps(state), "utf-8")
    capsys.readouterr()
    assert main([*command, "training.resume=true"]) == 0
    assert "did not say by which settings" in capsys.readouterr().err
    assert (run_dir / "out_of_fold.csv").read_bytes() == expected
    assert json.loads((run_dir / "folds.json").read_text("utf-8"))["answering"]["inference.max_input_tokens"] == "60"


def test_a_validation_part_that_near_duplicates_leave_none_of_is_told_first(
    few_posts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Groups alone make folds; but the rows that choose a checkpoint are no near-duplicates of the others."""
    text = "the same words in every row of this table, and a number at its very end, which tells them apart: "
    records: list[dict[str, Any]] = [
        {**record, "body": f"{text}{number}", "user": f"u{number % 4}"}
        for number, record in enumerate(_records(few_posts))
    ]
    rows = tmp_path / "rows.csv"
    with rows.open("w", newline="", encoding="utf-8") as target:
        writer = csv.DictWriter(target, list(records[0]))
        writer.writeheader()
        writer.writerows(records)
    words = ["folds.near_duplicates=false", "folds.allow_leaks=true", "folds.group_column=user", "folds=2"]
    assert main(["train", "--audit", "task=rules", f"input={rows}", *words]) == 3
    assert "cannot be divided into a training and a validation part beside fold-1" in capsys.readouterr().err
    assert main(["train", "--audit", "task=rules", f"input={rows}", *words, "training.val_ratio=0"]) == 0
