"""Runs of shallow models that begin again: of other rows, and after rows that allowed no fit."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from lorica.cli import main


def _train(rows: Path, run_dir: Path, *words: str) -> list[str]:
    return ["train", "task=rules", f"input={rows}", f"run_dir={run_dir}", *words]


def _changed(rows: Path, target: Path, **values: str) -> Path:
    """A table with these values in every row, in which {rule} is the row's own, as `target`."""
    with rows.open(newline="", encoding="utf-8") as source:
        records = [
            {**record, **{name: value.format(**record) for name, value in values.items()}}
            for record in csv.DictReader(source)
        ]
    with target.open("w", newline="", encoding="utf-8") as target_file:
        writer = csv.DictWriter(target_file, list(records[0]))
        writer.writeheader()
        writer.writerows(records)
    return target


@pytest.mark.parametrize("folds", [(), ("folds=2",)])
def test_a_model_of_other_rows_with_the_same_ids_is_not_taken(
    folds: tuple[str, ...], few_posts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = _changed(few_posts, tmp_path / "rows.csv")
    train = _train(rows, tmp_path / "run", "model=tfidf", "training.val_ratio=0", *folds)
    assert main(train) == 0
    _changed(few_posts, rows, rule="{rule} At all.")
    capsys.readouterr()
    assert main([*train, "training.resume=true"]) == 6
    assert "belongs to a different run" in capsys.readouterr().err


def test_rows_that_allow_no_fit_leave_no_run(
    few_posts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, run_dir = _changed(few_posts, tmp_path / "rows.csv", rule_violation="1"), tmp_path / "run"
    assert main(_train(rows, run_dir, "model=tfidf", "training.val_ratio=0")) == 5
    error = capsys.readouterr().err
    assert "TF-IDF needs the labels 0 and 1" in error
    assert "go on" not in error
    assert main(_train(few_posts, run_dir, "model=tfidf", "training.val_ratio=0")) == 0
