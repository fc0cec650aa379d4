"""`lorica tune`: a study that keeps its deadline, loses nothing to a kill, and ends with a comparison and a command."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lorica.cli import main
from lorica.commands import build
from lorica.commands.arguments import resolve
from lorica.commands.tune import StudyCall, resumes, run_study
from lorica.commands.tune_result import RESULT_NAME, trials_table
from lorica.commands.tune_space import study_dimensions
from lorica.commands.tune_study import BEST_NAME
from lorica.commands.tune_trial import TRIALS
from lorica.errors import DataError, LoricaError, ResumeError, TrainingError
from lorica.training.types import Listener
from lorica.tuning.dimensions import Settings
from lorica.tuning.trial_store import TRIALS_NAME, TrialStore
from tests.commands.tune_stub import ROWS, Stub, plan_of, quality_of, studied, write_rows


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Rows with gold, in a folder that is the working one."""
    monkeypatch.chdir(tmp_path)
    return write_rows(tmp_path)


def worse(settings: Settings) -> float:
    """Only the defaults are any good."""
    return 0.9 if not settings else 0.3


def test_it_finds_better_settings_and_says_so(rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stub = Stub()
    result = studied(stub, monkeypatch, "trials=16", "minutes=60")
    assert (len(result.trials), result.ended_by) == (16, "trials")
    assert result.trials[0].settings == {"training.learning_rate": 1e-4, "lora.r": 16}
    assert result.best is not None
    assert 3e-4 < result.best.settings["training.learning_rate"] <= 1e-3
    assert result.is_better
    assert result.comparison is not None
    assert result.comparison.n == result.compared_rows == 60
    assert "is better than the defaults: roc_auc +" in result.verdict
    assert {trial.state for trial in result.trials} >= {"finished", "pruned"}
    pruned = [trial for trial in result.trials if trial.state == "pruned"]
    assert all(quality_of(trial.settings) < quality_of(result.best.settings) for trial in pruned)
    words = shlex.split(result.command)
    assert words[:2] == ["lorica", "train"]
    config = resolve(words[2:]).config
    assert config.training.learning_rate == result.best.settings["training.learning_rate"]
    assert (config.input, config.run_dir) == ("rows.csv", "runs/rules-tuned")
    page = Path("study/report.html").read_text()
    for heading in ("The best and the defaults", "What mattered", "Parallel coordinates", "Over time", "All trials"):
        assert heading in page
    assert json.loads(Path("study", RESULT_NAME).read_text())["command"] == result.command
    record = json.loads(Path("study/run.json").read_text())
    assert (record["command"], record["status"], record["summary"]["trials"]) == ("tune", "finished", 16)


def test_what_is_varied_by_itself_suits_a_decoder() -> None:
    def keys(*words: str) -> list[str]:
        resolved = resolve(["task=rules", *words])
        return [dimension.key for dimension in study_dimensions(resolved, build.build_task(resolved.config))]

    training = ["training.learning_rate", "training.epochs", "training.batch_size"]
    lora = ["lora.r", "scale", "lora.dropout", "lora.target_modules"]
    assert keys() == ["task.style", *training, *lora]
    assert keys("training=tiny", "lora.alpha=8", "task.style=plain") == [*training, *lora[:1], *lora[2:]]
    assert keys("lora.r=8", "tune.vary=[lora.r]") == ["lora.r"], "named, it is varied around what is set"


def test_a_step_of_unknown_length_is_cut_and_the_time_left_kept_for_the_report(
    rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an update of a large model on a long row: nothing before it told how long it takes."""

    class Endless(Stub):
        def train(self, number: int, settings: Settings, listener: Listener) -> Path:
            if number == 2:
                while True:
                    time.sleep(0.01)
            return super().train(number, settings, listener)

    monkeypatch.setattr("lorica.commands.tune_study.REPORT_SECONDS", 0.5)
    plan = plan_of("minutes=0.05")
    result = run_study(plan, StudyCall((), resume_command="lorica tune ..."), make_runner=Endless().of)
    assert [trial.state for trial in result.trials] == ["finished", "finished", "cut"]
    assert result.ended_by == "minutes"


def test_it_says_at_the_start_how_long_it_may_take(
    rows: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    studied(Stub(), monkeypatch, "trials=2")
    first, *others = capsys.readouterr().err.splitlines()
    assert first == (
        "lorica: study in study: 10 minutes at most (minutes=...), 2 trials at most (trials=...). Ctrl-C ends it "
        "before, and loses nothing."
    )
    assert "204 rows to train on, 36 to choose trials by, 60 to compare the best with the defaults on" in others[0]
    assert "varied: training.learning_rate 1e-05..0.001, lora.r [8,16,32]" in others[1]
    studied(Stub(), monkeypatch, "trials=3", "training.resume=true")
    assert "2 trials of these are spent" in capsys.readouterr().err


def test_the_clock_runs_while_torch_is_imported() -> None:
    """That takes seconds, which count."""
    code = "import sys, lorica.commands.tune; sys.exit('torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0


def test_no_row_of_the_comparison_is_seen_by_a_trial(rows: Path) -> None:
    plan = plan_of()
    compared, search = ({row.id for row in part} for part in (plan.rows.compared, plan.rows.search))
    assert not compared & search
    assert {row.id for row in plan.rows.validation} < search
    assert len(compared | search) == ROWS


def test_two_studies_do_not_share_a_folder(rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Crowded(Stub):
        """Another study begins in the folder while the first one trains."""

        def train(self, number: int, settings: Settings, listener: Listener) -> Path:
            for words in ((), ("training.resume=true",)):
                with pytest.raises(ResumeError, match="study" if not words else "another process is working on study"):
                    run_study(plan_of(*words), StudyCall(words, words, "lorica tune ..."), make_runner=Stub().of)
            return super().train(number, settings, listener)

    result = studied(Crowded(), monkeypatch, "trials=3", "minutes=60")
    assert [trial.state for trial in TrialStore(Path("study")).all] == [trial.state for trial in result.trials]
    assert json.loads(Path("study/run.json").read_text())["calls"] == 1


def test_it_says_when_nothing_is_better(rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = studied(Stub(quality=worse), monkeypatch, "trials=5", "minutes=60")
    assert result.best is not None
    assert (result.best.number, result.is_better, result.comparison) == (0, False, None)
    assert "No settings did better than the defaults" in result.verdict
    assert "learning_rate" not in result.command


def test_it_says_when_a_find_does_not_last(rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = studied(Stub(quality=lambda settings: 0.3, luck=True), monkeypatch, "trials=8", "minutes=60")
    assert result.best is not None
    assert result.best.number > 0
    assert not result.is_better
    assert "Nothing tells" in result.verdict
    assert result.verdict.endswith("Stay with the defaults.")
    assert result.command == result.commands["defaults"]


@pytest.mark.parametrize(("minutes", "update"), [(0.1, 0.1), (0.5, 2.0), (0.7, 0.1), (2.0, 2.0)])
def test_the_deadline_is_kept_inside_trials(
    rows: Path, monkeypatch: pytest.MonkeyPatch, minutes: float, update: float
) -> None:
    stub = Stub(update=update)
    result = studied(stub, monkeypatch, f"minutes={minutes}")
    assert stub.now <= 60 * minutes
    assert result.ended_by == "minutes"
    if result.best is not None and result.best.number:
        assert result.comparison is not None, "its time was kept free"
    if len(result.trials) > 1:
        assert stub.now > 0.6 * 60 * minutes, "the time is used"


def test_a_trial_that_was_cut_is_listed_and_goes_on_with_more_minutes(
    rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub = Stub(update=3.0)
    first = studied(stub, monkeypatch, "minutes=0.4")
    assert [trial.state for trial in first.trials] == ["cut"]
    assert first.best is None
    assert "No trial finished in 0.4 minutes" in first.verdict
    assert first.command == "lorica tune minutes=0.8 training.resume=true", "the same minutes are used up"
    made = stub.disk["study", 0]
    stub.now += 10_000  # a pause
    with pytest.raises(ResumeError, match="holds a run of `lorica tune` already"):
        studied(stub, monkeypatch, "minutes=2")
    second = studied(stub, monkeypatch, "minutes=2", "training.resume=true")
    assert stub.trained[1] == (0, {}, made)
    assert second.trials[0].state == "finished"
    assert first.seconds < second.seconds <= 120


def test_defaults_that_nothing_was_held_against_are_no_find(rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = studied(Stub(), monkeypatch, "trials=1")
    assert "No other trial finished" in result.verdict
    (cells,) = trials_table(result, result.trials).rows
    assert cells[-1] == f"{result.trials[0].seconds:.1f}", "a second is long for a shallow model"
    assert result.command == "lorica tune trials=2 training.resume=true"


@pytest.mark.parametrize("killed_at", [(1, 4), (4, 1), (3, 9)])
def test_a_killed_study_goes_on_with_the_same_suggestions(
    rows: Path, monkeypatch: pytest.MonkeyPatch, killed_at: tuple[int, int]
) -> None:
    whole = studied(Stub(), monkeypatch, "trials=6", "minutes=60")
    expected = [(trial.settings, trial.state, trial.value, trial.curve) for trial in whole.trials]
    Path("study").rename("whole")
    stub = Stub(killed_at=killed_at)
    with pytest.raises(KeyboardInterrupt) as stop:
        studied(stub, monkeypatch, "trials=6", "minutes=60")
    assert re.fullmatch(r"kept in study: \d trials?; go on: lorica tune ...", stop.value.__notes__[0])
    assert len(TrialStore(Path("study")).all) == killed_at[0]
    stub.killed_at = None
    again = studied(stub, monkeypatch, "trials=6", "minutes=60", "training.resume=true")
    assert [(trial.settings, trial.state, trial.value, trial.curve) for trial in again.trials] == expected
    assert again.verdict == whole.verdict


def test_the_best_adapter_so_far_is_on_disk_and_named(rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stub = Stub(killed_at=(4, 2))
    with pytest.raises(KeyboardInterrupt):
        studied(stub, monkeypatch, "trials=6", "minutes=60")
    best = json.loads(Path("study", BEST_NAME).read_text())
    trials = TrialStore(Path("study")).finished
    assert best["trial"] == max(trials, key=lambda trial: trial.value or 0).number
    assert Path(best["adapter"], "quality.txt").exists()
    assert best["command"].startswith("lorica train ")
    folders = {path.name for path in Path("study", TRIALS).iterdir()}
    assert folders == {"0000", f"{best['trial']:04}", "0004"}, "the defaults, the best, and the one under way"


def test_a_trial_that_fails_is_named_and_the_defaults_end_the_study(
    rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverges(settings: Settings) -> LoricaError | None:
        return TrainingError("the loss is not finite") if settings.get("lora.r") == 32 else None

    result = studied(Stub(fails=diverges), monkeypatch, "trials=12", "minutes=60")
    failed = [trial for trial in result.trials if trial.state == "failed"]
    assert failed
    assert all(trial.settings["lora.r"] == 32 and trial.problem == "the loss is not finite" for trial in failed)
    with pytest.raises(TrainingError, match="nothing to learn"):
        studied(Stub(fails=lambda settings: TrainingError("nothing to learn")), monkeypatch, "run_dir=other")


def test_another_study_is_not_gone_on_with(rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    studied(Stub(), monkeypatch, "trials=1")
    with pytest.raises(ResumeError, match=r"space\.training\.learning_rate"):
        studied(Stub(), monkeypatch, "trials=2", "training.resume=true", "tune.space.training.learning_rate=1e-4..1e-2")
    again = studied(Stub(), monkeypatch, "trials=2", "training.resume=true", "folds.near_duplicates=false")
    assert len(again.trials) == 2, "what no trial reads may change"
    with pytest.raises(ResumeError, match="kind: was '\\(nothing\\)', is now 'attempts'"):
        resumes(plan_of("attempts=2", "trials=2", "training.resume=true"))
    Path("study/run.json").write_text("{")
    with pytest.raises(DataError, match="what it was given is not known any more: name another run_dir"):
        resumes(plan_of("trials=2", "training.resume=true"))
    Path("study/run.json").unlink()
    for words in ([], ["training.resume=true"]):
        with pytest.raises(DataError, match=r"(?s)a run of `lorica tune`, and no run\.json .* or name another run_dir"):
            studied(Stub(), monkeypatch, "trials=2", *words)


@pytest.mark.parametrize(
    ("words", "problem", "code"),
    [
        (["minutes=0"], "minutes", 2),
        (["--trials=3"], "it is a key: trials=...", 2),
        (["minutes_per_attempt=3"], "attempts is not", 2),
        (["attempts=2", "minutes=3"], "minutes_per_attempt= for each", 2),
        (["tune.space.lora.rr=[8,16]"], "did you mean lora.r", 2),
        (["tune.space.lora.rr=[8,16]"], "tune.space: unknown configuration key 'lora.rr'", 2),
        (["tune.space.lora.r=[8]"], "one value", 2),
        (["tune.vary=[lora.r,lora.rr]"], "lora.rr", 2),
        (["tune.vary=[training.weight_decay]"], "add tune.space.training.weight_decay=", 2),
        (["training.val_ratio=0"], "leaves no rows to choose trials by", 2),
        (["training.per_subject=true"], "one adapter", 2),
        (["folds=3"], "one for each fold", 2),
        (["engine=fake"], "cannot train", 2),
        (["tune.compare_ratio=0.01"], "too few", 3),
        (["input=few.csv"], "too few", 3),
        (["input=missing.csv"], "missing.csv", 3),
        (["input=unlabelled.csv"], "unlabelled.csv", 3),
    ],
)
def test_what_cannot_be_tuned(
    rows: Path, words: list[str], problem: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = rows.read_text().splitlines()
    Path("few.csv").write_text("\n".join(lines[:14]) + "\n")
    Path("unlabelled.csv").write_text("row_id,body,rule\n1,post,rule\n")
    command = ["tune", "task=rules", "input=rows.csv", "run_dir=study", *words]
    assert main(command) == code
    captured = capsys.readouterr()
    assert problem in captured.err
    assert "Traceback" not in captured.err
    assert not Path("study", TRIALS_NAME).exists()
