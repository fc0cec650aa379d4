"""A run that was killed, at any moment, ends as if it had not been."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.training.tiny import KILLED, LORA, Recorder, rows, run_shared

from lorica.errors import ResumeError
from lorica.training import publish
from lorica.training.types import TrainResult

ROOT = Path(__file__).resolve().parents[2]
RESUMED = replace(KILLED, resume=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainResult]:
    """An uninterrupted run: 24 updates, evaluated after 4, 5, 8, 10, 12, 15, ..."""
    import torch

    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("whole") / "adapter"
    return folder, run_shared(folder, KILLED)


def _same(folder: Path, result: TrainResult, whole: tuple[Path, TrainResult]) -> None:
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        for place in ("", "last"):
            assert (folder / place / name).read_bytes() == (whole[0] / place / name).read_bytes(), (place, name)
    assert replace(result, seconds=0, folder=whole[0]) == replace(whole[1], seconds=0)
    assert _log(folder) == _log(whole[0])
    assert not list(folder.rglob("*.tmp"))


def _log(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text("utf-8").splitlines()]
    return [{key: line[key] for key in line if key not in ("time", "seconds", "tokens_per_second")} for line in lines]


def test_kill_9_at_random_moments_changes_nothing(tmp_path: Path, whole: tuple[Path, TrainResult]) -> None:
    chance = random.Random(20)
    command = [sys.executable, "-m", "tests.training.tiny", str(tmp_path / "adapter")]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}
    reached = []
    for first, last in ((3, 9), (10, 20)):
        victim = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
        assert victim.stdout is not None
        with victim.stdout:
            target = chance.randrange(first, last)
            for line in victim.stdout:
                if int(line) >= target:
                    break
            time.sleep(chance.random() * 0.02)
            victim.send_signal(signal.SIGKILL)
            assert victim.wait() == -signal.SIGKILL
        reached.append(target)
    listener = Recorder()
    result = run_shared(tmp_path / "adapter", RESUMED, listener=listener)
    assert 1 < listener.steps[0].step <= 24  # it did go on, not begin again
    _same(tmp_path / "adapter", result, whole)


class _Crash(BaseException):
    """The end of a process: no handler for errors may catch it."""


@pytest.mark.parametrize(
    ("call", "between"),
    [("rename", (2, 14)), ("replace", (2, 8)), ("fsync", (10, 70)), ("rmtree", (2, 12)), ("unlink", (1, 20))],
)
def test_a_crash_at_each_kind_of_write_changes_nothing(
    call: str,
    between: tuple[int, int],
    tmp_path: Path,
    whole: tuple[Path, TrainResult],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import shutil

    home: Any = shutil if call == "rmtree" else os
    real = getattr(home, call)
    countdown = [0]

    def fragile(*arguments: Any, **named: Any) -> Any:
        countdown[0] -= 1
        if countdown[0] == 0:
            raise _Crash
        return real(*arguments, **named)

    folder, crashes, result = tmp_path / "adapter", 0, None
    chance = random.Random(call)
    while result is None:
        # After a few crashes the run may end, whatever is left of it.
        countdown[0] = (chance.randrange(*between) if crashes else between[0]) if crashes < 6 else 0
        monkeypatch.setattr(home, call, fragile)
        try:
            result = run_shared(folder, RESUMED)
        except _Crash:
            crashes += 1
        finally:
            monkeypatch.setattr(home, call, real)
    _same(folder, result, whole)
    assert crashes > 0


def test_a_finished_run_is_not_overwritten_and_resume_returns_its_result(whole: tuple[Path, TrainResult]) -> None:
    before = (whole[0] / "adapter_model.safetensors").stat().st_mtime_ns
    with pytest.raises(ResumeError, match=r"holds a finished run\n.*resume=true takes its result"):
        run_shared(whole[0], KILLED)
    listener = Recorder()
    assert run_shared(whole[0], RESUMED, listener=listener) == whole[1]
    assert not listener.steps
    assert (whole[0] / "adapter_model.safetensors").stat().st_mtime_ns == before


def test_an_unfinished_run_is_not_overwritten(tmp_path: Path) -> None:
    _interrupted(tmp_path / "a", 5)
    with pytest.raises(ResumeError, match="holds a run that did not end"):
        run_shared(tmp_path / "a", KILLED)


def test_a_run_stopped_before_it_is_published_logs_its_end_once(
    tmp_path: Path, whole: tuple[Path, TrainResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(publish, "publish", stop)
        with pytest.raises(KeyboardInterrupt):
            run_shared(tmp_path / "a", KILLED)
    _same(tmp_path / "a", run_shared(tmp_path / "a", RESUMED), whole)


def test_someone_elses_adapter_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ResumeError, match="holds an adapter already"):
        run_shared(tmp_path, RESUMED)


def test_resume_without_a_run_begins_one(tmp_path: Path, whole: tuple[Path, TrainResult]) -> None:
    _same(tmp_path / "a", run_shared(tmp_path / "a", RESUMED), whole)


def test_other_inputs_are_named_each_with_both_values(tmp_path: Path) -> None:
    _interrupted(tmp_path / "a", 5)
    other = replace(RESUMED, learning_rate=0.25, seed=8, logging_steps=1, save_steps=50)
    config = LORA.__class__(r=2, lora_alpha=8, target_modules=["q_proj"], base_model_name_or_path="tiny/base")
    with pytest.raises(ResumeError) as caught:
        run_shared(tmp_path / "a", other, examples=rows(19), config=config)
    text = str(caught.value)
    assert "training.learning_rate: was '0.005', is now '0.25'" in text
    assert "training.seed: was '7', is now '8'" in text
    assert "lora.r: was '4', is now '2'" in text
    assert "  examples: was 'sha256:" in text
    # What changes only what is written down may differ.
    for key in ("logging_steps", "save_steps", "training.resume", "  validation", "batch_size"):
        assert key not in text


def test_a_run_may_be_resumed_with_other_intervals_of_saving(tmp_path: Path, whole: tuple[Path, TrainResult]) -> None:
    _interrupted(tmp_path / "a", 5)
    result = run_shared(tmp_path / "a", replace(RESUMED, save_steps=7, save_total_limit=1))
    assert replace(result, seconds=0, folder=whole[0]) == replace(whole[1], seconds=0)
    assert [path.name for path in (tmp_path / "a" / "checkpoints").iterdir()] == ["step-21"]


@pytest.mark.parametrize("name", ["state.json", "optimizer.safetensors", "adapter_model.safetensors"])
def test_a_broken_checkpoint_is_named(name: str, tmp_path: Path) -> None:
    _interrupted(tmp_path / "a", 5)
    path = tmp_path / "a" / "checkpoints" / "step-5" / name
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ResumeError, match=r"step-5: cannot be resumed from"):
        run_shared(tmp_path / "a", RESUMED)


def test_a_broken_record_is_named(tmp_path: Path) -> None:
    (tmp_path / "training.json").write_text("{")
    with pytest.raises(ResumeError, match=r"training\.json: unreadable"):
        run_shared(tmp_path, RESUMED)


_RESULT: dict[str, Any] = {**TrainResult(3, 3, 0.5, 0.5, 9, 1.0, Path()).__dict__, "folder": ""}
_EDITS: dict[str, dict[str, Any]] = {
    "no result": {"result": None},
    "a text as result": {"result": "good"},
    "a result without its steps": {"result": {"best_step": 3}},
    "a text as a count": {"result": {**_RESULT, "steps": "x"}},
    "another outcome": {"result": {**_RESULT, "outcome": "x"}},
    "another status": {"status": None},
    "a text as digests": {"published": "sha256:0"},
    "a number as input": {"manifest": {"name": 3}},
}


@pytest.mark.parametrize("edit", _EDITS)
def test_an_edited_record_is_named(edit: str, tmp_path: Path) -> None:
    record = {"format": 1, "status": "finished", "manifest": {}, "published": {}, "result": _RESULT, **_EDITS[edit]}
    (tmp_path / "training.json").write_text(json.dumps(record))
    with pytest.raises(ResumeError, match=r"training\.json: unreadable"):
        run_shared(tmp_path, RESUMED)


def test_a_record_that_no_reader_takes_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "training.json").write_text("[" * 100_000)
    (tmp_path / "b" / "training.json").mkdir(parents=True)
    for name in "ab":
        with pytest.raises(ResumeError, match=r"training\.json: unreadable"):
            run_shared(tmp_path / name, RESUMED)


@pytest.mark.parametrize("values", [{"step": "5"}, {"best_loss": "low"}, {"scaler": [1]}, {"stopped_early": 3}])
def test_an_edited_state_is_named(values: dict[str, Any], tmp_path: Path) -> None:
    _interrupted(tmp_path / "a", 5)
    path = tmp_path / "a" / "checkpoints" / "step-5" / "state.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    with pytest.raises(ResumeError, match=r"step-5: cannot be resumed from"):
        run_shared(tmp_path / "a", RESUMED)


def _interrupted(folder: Path, step: int) -> None:
    class Impatient(Recorder):
        def stepped(self, report: Any) -> None:
            if report.step == step:
                signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run_shared(folder, KILLED, listener=Impatient())
