"""`examples/pipeline/run.py`, as a user runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lorica.config.environment import ENVIRONMENT

pytest.importorskip("torch")

DRIVER = Path(__file__).resolve().parents[2] / "examples" / "pipeline" / "run.py"


def drive(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    source = str(Path(__file__).resolve().parents[2] / "src")
    return subprocess.run(
        [sys.executable, str(DRIVER), *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_mini_batch_is_answered_echoed_and_written(tmp_path: Path) -> None:
    done = drive(tmp_path, MAX_NEW_TOKENS="3")
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert [answer["questionID"] for answer in answers] == ["1", "2", "3"]
    for answer in answers:
        assert f"{answer['questionID']}: {answer['question']}\n   -> {answer['answer']}\n" in done.stdout
        assert len(answer["answer"].split()) <= 3


def test_a_file_is_answered_where_it_is_said(tmp_path: Path) -> None:
    (tmp_path / "questions.jsonl").write_text('{"questionID": "q", "question": "Who?", "subject": "x"}\n\n')
    done = drive(tmp_path, "questions.jsonl", "out.jsonl", MAX_NEW_TOKENS="2")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "out.jsonl").read_text())["questionID"] == "q"
    assert not (tmp_path / "answers.jsonl").exists()


@pytest.mark.parametrize(
    ("content", "environment", "problem"),
    [
        ("{}\nno json\n", {}, "line 2: no JSON"),
        ('{"question": NaN}\n', {}, "line 1: no JSON in UTF-8: NaN"),
        ('{"question": "\\ud800"}\n', {}, "line 1: no JSON in UTF-8"),
        ("[1]\n", {}, "line 1: a JSON object is needed"),
        ("\n", {}, "holds no question"),
        ('{"questionID": "1", "question": "Who?"}\n', {"MODEL_NAME": "no/model"}, "'no/model' is not on this machine"),
        ('{"questionID": "1", "question": "Who?"}\n', {"TEMPERATURE": "hot"}, "environment variable TEMPERATURE"),
        (None, {}, "No such file"),
    ],
)
def test_what_cannot_be_answered(
    tmp_path: Path, content: str | None, environment: dict[str, str], problem: str
) -> None:
    if content is not None:
        (tmp_path / "questions.jsonl").write_text(content)
    done = drive(tmp_path, "questions.jsonl", **environment)
    assert done.returncode != 0
    assert problem in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "answers.jsonl").exists()


def test_files_of_other_programs_are_read(tmp_path: Path) -> None:
    question = '{"questionID": "q", "question": "Which\u2028line?"}'
    (tmp_path / "questions.jsonl").write_bytes(b"\xef\xbb\xbf" + question.encode() + b"\r\n")
    done = drive(tmp_path, "questions.jsonl", MAX_NEW_TOKENS="2", PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "answers.jsonl").read_text("utf-8"))["question"] == "Which\u2028line?"
    (tmp_path / "questions.jsonl").write_bytes(question.encode("utf-16"))
    refused = drive(tmp_path, "questions.jsonl")
    assert refused.returncode == 1
    assert "line 1: no JSON in UTF-8" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_its_help_names_the_environment(tmp_path: Path) -> None:
    usage = drive(tmp_path, "--help").stdout
    assert not [variable.name for variable in ENVIRONMENT if variable.name not in usage]
