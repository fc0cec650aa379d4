"""`lorica tune` on the embedded base model, killed in a trial and gone on with."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lorica.adapters.registry import is_adapter
from lorica.cli import main
from lorica.commands.arguments import resolve
from lorica.commands.tune_plan import plan_study
from lorica.tuning.optuna_study import suggest
from lorica.tuning.trial_store import TrialStore

ROOT = Path(__file__).resolve().parents[2]
TRIALS = 3


def test_a_killed_study_goes_on(
    posts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = posts.read_text("utf-8").splitlines()
    Path("posts.csv").write_text("\n".join([lines[0], *lines[1::6]]) + "\n", encoding="utf-8")
    words = ["task=rules", "training=tiny", "input=posts.csv", "run_dir=study", "minutes=5", f"trials={TRIALS}"]
    words += ["tune.space.training.epochs=[1,2]", "tune.vary=[training.epochs,training.learning_rate,task.style]"]
    words += ["training.epochs=1", "tune.prune=false"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "lorica", "tune", *words], env=environment, stderr=subprocess.DEVNULL
    )
    for _ in range(1200):
        if Path("study/trials/0001/rules/training.json").exists() or process.poll() is not None:
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = TrialStore(Path("study")).all
    assert [trial.state for trial in before] == ["finished"], "it was killed in its second trial"
    best = json.loads(Path("study/best.json").read_text())
    assert is_adapter(Path(best["adapter"]))

    assert main(["tune", *words]) == 6
    assert "training.resume=true" in capsys.readouterr().err
    assert main(["tune", *words, "training.resume=true", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    trials = TrialStore(Path("study")).all
    assert trials[0] == before[0]
    assert len(trials) == TRIALS
    plan = plan_study(resolve(words), words)
    for trial in trials[1:]:
        expected = suggest(plan.dimensions, trials[: trial.number], seed=plan.seed, maximize=True)
        assert trial.settings == expected, "what an unbroken study would have tried"
    assert result["best"] is not None
    assert is_adapter(Path(result["adapter"]))
    assert shlex.split(result["command"])[:2] == ["lorica", "train"]
    assert "Parallel coordinates" in Path("study/report.html").read_text("utf-8")
