"""A new task is its file, a line in the table of tasks and a preset: every command then works with it."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.tasks.nli import LABELS

from lorica.cli import main
from lorica.config import presets
from lorica.tasks import TASKS

TRAINED = ("dog", "cat", "horse", "bird", "cow")
HELD = ("fish", "goat", "duck", "hen", "fox", "frog", "crab", "owl", "bee", "ant")
HYPOTHESES = ("The {} eats.", "The {} is old.", "The {} does not eat.")


@pytest.fixture
def nli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The task `nli`, from `tests/tasks/nli.py` and a preset."""
    folder = tmp_path / "presets"
    shutil.copytree(presets.FOLDER, folder)
    (folder / "task" / "nli.yaml").write_text('# Does it follow?\nname: nli\nmethod: choice\nstyle: ""\n', "utf-8")
    monkeypatch.setattr(presets, "FOLDER", folder)
    monkeypatch.setitem(TASKS, "nli", "tests.tasks.nli:NliTask")
    for cached in (presets.preset_names, presets._composed):
        cached.cache_clear()
    yield
    for cached in (presets.preset_names, presets._composed):
        cached.cache_clear()


def write_rows(path: Path, animals: tuple[str, ...]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("id", "premise", "hypothesis", "label"))
        for animal in animals:
            for label, hypothesis in zip(LABELS, HYPOTHESES, strict=True):
                writer.writerow((animal + label, f"The {animal} eats in the garden.", hypothesis.format(animal), label))
    return path


def test_a_task_of_ones_own_is_trained_asked_evaluated_and_checked(
    nli: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, held = write_rows(tmp_path / "pairs.csv", TRAINED), write_rows(tmp_path / "held.csv", HELD)
    run, answers = tmp_path / "run", tmp_path / "answers.jsonl"

    settings = ("training=tiny", "training.epochs=1", "lora.r=2", "training.val_ratio=0.2")
    assert main(["train", "task=nli", f"input={table}", f"run_dir={run}", *settings]) == 0
    adapter = run / "nli"
    assert json.loads((adapter / "lorica.json").read_text("utf-8"))["prompt"]["task"] == "nli"

    assert main(["infer", "task=nli", f"input={held}", f"output={answers}", f"adapters.paths.nli={adapter}"]) == 0
    given = [json.loads(line) for line in answers.read_text("utf-8").splitlines()]
    assert [answer["id"] for answer in given] == [animal + label for animal in HELD for label in LABELS]
    assert all(set(answer["scores"]) == set(LABELS) and answer["adapter"] == "nli" for answer in given)

    capsys.readouterr()
    assert main(["eval", str(answers), str(held), "task=nli", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["metrics"]["accuracy"]["n"] == len(given)

    checked = ["check", str(adapter), "--base", "embedded:lorica_tiny", "--task", "nli", "--rows", str(held), "--json"]
    assert main(checked) in (0, 1, 10)  # an epoch on few rows may deserve a warning
    behaviour = json.loads(capsys.readouterr().out)["adapters"][0]["behaviour"]["measured"]
    assert behaviour["task"] == "nli"
    assert behaviour["labelled"]["metric"] == "accuracy"
    assert behaviour["elsewhere"]["task"] == "rules"


def test_an_unknown_method_of_it_is_refused_by_what_it_has(nli: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "task=nli", "task.method=generate"]) == 2
    assert "task.method=generate (command line) is not a method of task.name=nli" in capsys.readouterr().err
