"""docs/evaluate.md: from two trained adapters to a decision, each line as it stands there."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from lorica.cli import main
from lorica.data.write import read_answers

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "evaluate.md").read_text("utf-8")


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


def test_each_line_of_the_path_does_what_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    texts = {}
    for line in "".join(_blocks("sh")).splitlines():
        if line.startswith("lorica "):
            assert main(shlex.split(line)[1:]) == 0, f"{line}\n{capsys.readouterr().err}"
            texts[line.split()[1]] = capsys.readouterr().out
        else:
            subprocess.run(["bash", "-c", line], check=True)
    assert set(texts) == {"train", "infer", "eval", "score", "calibrate", "runs"}
    assert "better" in texts["eval"]
    assert "log_loss" in texts["calibrate"]
    assert "adapters.dir" in texts["runs"]
    assert "b.csv" in texts["score"]
    assert (tmp_path / "report.html").stat().st_size > 10_000
    answers = list(read_answers("answers.csv"))
    assert len(answers) == 80
    assert all(answer.calibration == "platt" and answer.raw_score is not None for answer in answers)
    for code in _blocks("python"):
        exec(compile(code, "docs/evaluate.md", "exec"), {})
    assert "b.csv" in capsys.readouterr().out


def test_the_path_has_six_commands_and_the_first_page_leads_to_it() -> None:
    numbered = re.findall(r"^\*\*([0-9 and]+)\. .*?^```sh\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    assert sum(len(block.splitlines()) for _, block in numbered) == 6
    assert "](evaluate.md)" in (ROOT / "docs" / "index.md").read_text("utf-8")
