"""A new engine is its module and a line in the table of engines: every command then works with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.passports import make_adapter

from lorica.cli import main
from lorica.engine_table import ENGINES, EngineEntry

ROWS = "body,rule\nBuy now,No spam\nHello there,No spam\n"


def test_an_engine_of_ones_own_answers_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(ENGINES, "toy", EngineEntry("tests.engines.toy:load_toy"))
    rows, answers = tmp_path / "rows.csv", tmp_path / "answers.jsonl"
    rows.write_text(ROWS, "utf-8")
    adapter = make_adapter(tmp_path / "adapter")
    command = ["infer", "task=rules", f"input={rows}", f"output={answers}", "engine.name=toy"]
    assert main([*command, f"adapters.paths.rules={adapter}"]) == 0
    scores = [json.loads(line)["score"] for line in answers.read_text("utf-8").splitlines()]
    manifest = json.loads((answers.with_name("answers.jsonl.run") / "run.json").read_text("utf-8"))["manifest"]
    assert manifest["engine.engine"] == "toy"
    assert main([*command, "inference.resume=false", f"output={tmp_path / 'base.jsonl'}"]) == 0
    alone = [json.loads(line)["score"] for line in (tmp_path / "base.jsonl").read_text("utf-8").splitlines()]
    assert scores == pytest.approx([1 - score for score in alone])
    assert len(scores) == 2
    capsys.readouterr()
    assert main([*command, "engine.merge=always"]) == 2
    assert "engine.name=toy" in capsys.readouterr().err


def test_without_its_line_it_is_not_known(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "engine.name=toy"]) == 2
    assert ", ".join(ENGINES) in capsys.readouterr().err
