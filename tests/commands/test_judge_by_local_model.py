"""`lorica judge` with a model of this machine: it is named, answers by probabilities, and loses nothing to a kill."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import lorica
from lorica.cli import main

ROWS = 40
FAKE = ("engine.name=fake", "--judge-model", "lorica_tiny")


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    """Answers of which every second is right, and the rows with gold."""
    gold = [{"id": str(row), "question": f"question {row}", "answer": f"word{row}"} for row in range(ROWS)]
    answers = [{"id": str(row), "answer": f"word{row if row % 2 else row + 1}"} for row in range(ROWS)]
    for name, records in (("answers.jsonl", answers), ("gold.jsonl", gold)):
        (tmp_path / name).write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
    return str(tmp_path / "answers.jsonl"), str(tmp_path / "gold.jsonl")


def _json(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert main(["judge", *words, "task=saq", "--json"]) == 0
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


def test_a_local_judge_answers_by_probabilities(files: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    result = _json(capsys, *files, *FAKE)
    assert result["judge"]["scoring"] == "probability"
    assert result["label_mass"]["mean"] == pytest.approx(0.9)
    assert result["mean_score"]["n"] == ROWS
    assert result["believable"]["asked_again"]["largest_change"] == 0
    assert _json(capsys, *files, *FAKE)["calls"] == 0


def test_a_prompt_that_does_not_fit_fails_uncut(files: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    answers = Path(files[0])
    lines = answers.read_text("utf-8").splitlines()
    lines[3] = json.dumps({"id": "3", "answer": "very " * 20_000})
    answers.write_text("\n".join(lines), "utf-8")
    result = _json(capsys, *files, *FAKE)
    assert (result["failed"], result["failures"]) == (1, {"prompt": 1})


def test_a_judge_must_be_named(files: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["judge", *files, "task=saq", "engine.name=fake"]) == 2
    assert "no judge is named" in (said := capsys.readouterr().err)
    assert "--judge-model MODEL" in said
    with pytest.raises(lorica.UsageError, match="no judge is named"):
        lorica.judge(*files, task="saq", settings={"engine.name": "fake"})
    for words in (["model=lorica_tiny"], ["model.path=embedded:lorica_tiny"], ["--judge-model", "lorica_tiny"]):
        assert main(["judge", *files, "task=saq", "engine.name=fake", "--sample", "2", *words]) == 0
        assert "the local model embedded:lorica_tiny (sha256:" in capsys.readouterr().out


def test_what_classifies_is_no_judge(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gold = [{"id": str(row), "question": "Which?", "options": ["a", "b"], "answer": "A"} for row in range(4)]
    for name, records in (("gold", gold), ("answers", [{"id": row["id"], "answer": "A"} for row in gold])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
    files = [str(tmp_path / "answers.jsonl"), str(tmp_path / "gold.jsonl")]
    assert main(["judge", *files, "task=mcq", "--judge-model", "tfidf"]) == 4
    assert "tfidf classifies, and a judge reads a question and chooses a letter" in capsys.readouterr().err


def test_a_preset_names_a_local_judge(files: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    result = _json(capsys, *files, *FAKE, "--sample", "4")
    assert result["mean"]["n"] == 4


# Kills itself once so many verdicts are in the journal.
KILLED_JUDGE = """
import os, signal, sys
from lorica.cli import main
from lorica.judging.verdict_journal import VerdictJournal

add, remaining = VerdictJournal.add, int(sys.argv[1])

def counted(journal, digest, record):
    global remaining
    add(journal, digest, record)
    remaining -= 1
    if not remaining:
        os.kill(os.getpid(), signal.SIGKILL)

VerdictJournal.add = counted
main(sys.argv[2:])
"""


def test_a_local_judge_that_is_killed_goes_on_where_it_was(
    files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*files, "--judge-model", "lorica_tiny", "--sample", "12", "--repeat", "0"]
    command = [sys.executable, "-c", KILLED_JUDGE, "10", "judge", *words, "task=saq"]
    assert subprocess.run(command, capture_output=True, check=False).returncode == -signal.SIGKILL
    resumed = _json(capsys, *words)
    assert (resumed["calls"], resumed["journaled"], resumed["judged"]) == (14, 10, 12)
    anew = _json(capsys, *words, "--journal", str(tmp_path / "anew"))
    assert (anew["calls"], anew["journaled"]) == (24, 0)
    assert (resumed["mean"], resumed["mean_score"]) == (anew["mean"], anew["mean_score"])
