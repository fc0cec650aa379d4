"""Several commands in one folder, and commands that are asked to end: from the outside."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from lorica import load_pipeline
from lorica.adapters.folder import open_adapter
from lorica.adapters.passport import read_passport
from lorica.adapters.passport_facts import adapter_facts
from lorica.cli import main
from lorica.commands import build, train_decoder
from lorica.commands import train as train_verb
from lorica.data.journal import Journal
from lorica.errors import AdapterError
from lorica.records import Answer, RowTiming
from lorica.training.listeners import SilentListener
from lorica.training.loop import lock_run
from lorica.training.types import StepReport
from tests.commands.conftest import QUICK

ROOT = Path(__file__).resolve().parents[2]


def _train(rows: Path, run_dir: Path, *more: str) -> list[str]:
    return ["train", "task=rules", f"input={rows}", f"run_dir={run_dir}", *QUICK, *more]


@pytest.fixture
def copy(trained: Path, tmp_path: Path) -> Path:
    """The run directory with the adapter `rules`, free to be changed."""
    return Path(shutil.copytree(trained, tmp_path / "runs"))


def test_two_trainings_at_once_leave_the_adapter_of_one(few_posts: Path, tmp_path: Path) -> None:
    """The second one learns the opposite; what it would have published must not stand under the first one's name."""
    lines = few_posts.read_text("utf-8").splitlines()
    flipped = [lines[0], *(line[:-1] + str(1 - int(line[-1])) for line in lines[1:])]
    (tmp_path / "flip.csv").write_text("\n".join(flipped) + "\n")
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    both = [
        subprocess.Popen(
            [sys.executable, "-m", "lorica", *_train(rows, tmp_path / "run")],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rows in (few_posts, tmp_path / "flip.csv")
    ]
    folder = tmp_path / "run" / "rules"
    verdicts = set()
    while any(process.poll() is None for process in both):
        time.sleep(0.5)
        if folder.exists():
            verdicts.add(main(["check", str(folder)]))
    assert 11 not in verdicts  # there is nothing, or a training, or all of an adapter
    said = [process.communicate()[1] for process in both]
    codes = [process.returncode for process in both]
    assert sorted(codes) == [0, 6]
    loser, winner = codes.index(6), codes.index(0)
    assert "rules: holds a" in said[loser] or f"training, process {both[winner].pid} on" in said[loser]
    passport = read_passport(folder)
    assert passport is not None
    assert passport.adapter == adapter_facts(open_adapter(folder))
    assert passport.data is not None
    source = json.loads((folder / "training.json").read_text())["manifest"]["digest.source"]
    assert Path(source).name == passport.data.source == (few_posts, tmp_path / "flip.csv")[winner].name


def test_all_folders_are_locked_before_anything_is_loaded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for subject in ("algebra", "history"):
        rows = [{"question": f"{subject} question {i}", "answer": f"answer {i}"} for i in range(4)]
        (tmp_path / f"{subject}.json").write_text(json.dumps(rows))
    run = tmp_path / "run"
    both = [f"data.{subject}={tmp_path / subject}.json" for subject in ("algebra", "history")]
    nowhere = ["model.path=/nowhere", f"run_dir={run}", *QUICK]
    with lock_run(run / "history"):
        assert main(["train", "task=qa", *both, *nowhere]) == 6
        assert "run/history: training, process" in capsys.readouterr().err
        # Another subject of the same run_dir has its own folder.
        assert main(["train", "task=qa", both[0], *nowhere]) == 4
        assert "nowhere" in capsys.readouterr().err
    assert not run.exists()


def test_readers_say_that_a_training_is_writing(
    trained: Path, few_posts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained / "rules" / "last", run / "rules" / "checkpoints" / "step-4")
    output = tmp_path / "out.csv"
    with lock_run(run / "rules"):
        for folder in (run, run / "rules"):
            assert main(["check", str(folder)]) == 12
            said = capsys.readouterr().out
            assert "L018" in said
            assert "an adapter is being trained: training, process" in said
        assert main(["check", str(run / "rules" / "checkpoints" / "step-4")]) in (0, 10)
        where = (f"adapters.dir={run}", f"adapters.paths.rules={run / 'rules'}")
        for way in where:
            assert main(["infer", "task=rules", f"input={few_posts}", f"output={output}", way]) == 4
            assert "rules is being trained now: training, process" in capsys.readouterr().err
        with pytest.raises(AdapterError, match="is being trained now"):
            load_pipeline("rules", adapters=run)
        assert main(["passport", str(run / "rules"), "--base", "embedded:lorica_tiny"]) == 4
        assert "is being written now: training, process" in capsys.readouterr().err
    shutil.copytree(trained / "rules", run / "rules", dirs_exist_ok=True)
    with lock_run(run / "rules"):
        assert main(["passport", str(run / "rules"), "--base", "embedded:lorica_tiny", "--force"]) == 6
        assert main(["check", str(run / "rules")]) == 0  # it is there, whole


def test_what_changes_while_it_is_read_gets_no_verdict(
    copy: Path, few_posts: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from lorica.vetting.passport_check import check_passport

    weights = copy / "rules" / "adapter_model.safetensors"
    content = weights.read_bytes()

    def exchange(real: Any) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            result = real(*arguments, **named)
            weights.unlink()
            weights.write_bytes(content)
            return result

        return call

    with monkeypatch.context() as patch:
        patch.setattr("lorica.vetting.levels.check_passport", exchange(check_passport))
        assert main(["check", str(copy / "rules")]) == 12
    assert "changed or removed while they were read" in capsys.readouterr().out
    with monkeypatch.context() as patch:
        patch.setattr(build, "open_adapters", exchange(build.open_adapters))
        command = ["infer", "task=rules", f"input={few_posts}", f"output={copy / 'o.csv'}", f"adapters.dir={copy}"]
        assert main(command) == 4
    assert "was written while it was read" in capsys.readouterr().err
    assert main(command) == 0


def test_a_record_of_another_run_is_named(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = copy / "rules" / "training.json"
    record = json.loads(path.read_text())
    digests = dict.fromkeys(record["published"], "sha256:" + "0" * 64)
    path.write_text(json.dumps({**record, "published": digests}))
    assert main(["check", str(copy / "rules")]) == 10
    assert "L178" in capsys.readouterr().out


def test_a_training_that_is_asked_to_end_keeps_its_updates(
    few_posts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Impatient(SilentListener):
        def stepped(self, report: StepReport) -> None:
            if report.step == 3:
                signal.raise_signal(signal.SIGTERM)

    def load(*arguments: Any, **named: Any) -> Any:
        signal.raise_signal(signal.SIGHUP)
        raise AssertionError("went on")

    command = _train(few_posts, tmp_path / "run", "training.save_steps=1000")
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)]
    with monkeypatch.context() as patch:
        patch.setattr(train_decoder, "load_decoder", load)
        assert main(command) == 129
    said = capsys.readouterr().err
    assert "lorica: stopped by SIGHUP. nothing was trained yet; give the same command again" in said
    assert not (tmp_path / "run").exists()
    with monkeypatch.context() as patch:
        patch.setattr(train_verb, "listener", lambda config: Impatient())
        assert main(command) == 143
    said = capsys.readouterr().err
    assert "the state after update 3 of 10 is kept; the same command with training.resume=true goes on" in said
    assert said.rstrip().endswith("training.resume=true")  # the whole command
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)] == handlers
    assert main([*command, "training.resume=true"]) == 0
    assert "going on after 3" in capsys.readouterr().err


def test_inference_says_what_is_kept(
    trained: Path, few_posts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commit = Journal.commit

    def stopping(self: Journal, answers: Sequence[Answer], timings: Sequence[RowTiming]) -> None:
        commit(self, answers, timings)
        signal.raise_signal(signal.SIGTERM)

    command = ["infer", "task=rules", f"input={few_posts}", f"output={tmp_path / 'o.csv'}", f"adapters.dir={trained}"]
    command.append("inference.window_rows=16")
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "commit", stopping)
        assert main(command) == 143
    said = capsys.readouterr().err
    assert "lorica: stopped by SIGTERM.\n  -> 16 rows and the batches since are kept" in said
    assert main([*command, "inference.resume=true"]) == 0
    assert "(16 from before)" in capsys.readouterr().out
    with monkeypatch.context() as patch:
        patch.setattr(build, "build_pipeline", lambda *_: signal.raise_signal(signal.SIGHUP))
        assert main(command) == 129
    assert "stopped by SIGHUP. no row was answered since the start" in capsys.readouterr().err


def test_a_second_signal_ends_at_once_and_an_ignored_one_is_none(tmp_path: Path) -> None:
    code = """
import signal, sys
from lorica import signals
with signals.raised():
    try:
        signal.raise_signal(signal.SIGTERM)
    except signals.Stopped as stop:
        assert signals.exit_code(stop) == 143
        print("first", flush=True)
    signal.raise_signal(signal.SIGHUP if sys.argv[1:] else signal.SIGTERM)
    print("still here", flush=True)
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (-signal.SIGTERM, "first\n")
    nohup = f"import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n{code}"
    done = subprocess.run(
        [sys.executable, "-c", nohup, "x"], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "first\nstill here\n")


def test_outside_the_main_thread_signals_are_left_alone() -> None:
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(main(["--version"])))
    thread.start()
    thread.join()
    assert codes == [0]


def test_a_journal_whose_folder_is_gone_is_named(
    trained: Path, few_posts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commit = Journal.commit

    def vanishing(self: Journal, answers: Sequence[Answer], timings: Sequence[RowTiming]) -> None:
        commit(self, answers, timings)
        shutil.rmtree(tmp_path / "o.csv.partial")

    monkeypatch.setattr(Journal, "commit", vanishing)
    command = ["infer", "task=rules", f"input={few_posts}", f"output={tmp_path / 'o.csv'}", f"adapters.dir={trained}"]
    assert main(command) == 3
    assert "the journal is gone: it was removed or moved" in capsys.readouterr().err


def test_advice_after_divergence_leads_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [("Capital of France?", "Paris"), ("Capital of Peru?", "Lima"), ("Capital of Chile?", "Santiago")]
    (tmp_path / "t.json").write_text(
        json.dumps([{"question": question, "answer": answer} for question, answer in rows])
    )
    command = ["train", "task=saq", "training=tiny", "training.epochs=3", f"input={tmp_path / 't.json'}"]
    command += [f"run_dir={tmp_path / 'run'}", "model.dtype=float32"]
    assert main([*command, "training.learning_rate=1"]) == 5
    out, err = capsys.readouterr()
    assert "the training diverged: loss 4.3340 (base model) -> " in err
    assert "do not use it" in err
    assert "do not use it" in out
    assert "raise" not in err
    assert main(["check", str(tmp_path / "run" / "saq")]) == 10
    assert "L172" in capsys.readouterr().out
    rate = re.search(r"Train again with (training\.learning_rate=[\d.e-]+), into another run_dir, or after", err)
    assert rate
    shutil.rmtree(tmp_path / "run" / "saq")
    assert main([*command, rate[1]]) == 0
    assert "diverged" not in capsys.readouterr().err


def test_rows_of_one_answer_are_said_and_never_trusted(
    few_posts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = few_posts.read_text("utf-8").splitlines()
    (tmp_path / "one.csv").write_text("\n".join([lines[0], *(line[:-1] + "1" for line in lines[1:23])]) + "\n")
    run = tmp_path / "run"
    assert main(["train", "task=rules", f"input={tmp_path / 'one.csv'}", f"run_dir={run}", *QUICK]) == 0
    said = capsys.readouterr().err.splitlines()
    notes = [number for number, line in enumerate(said) if "training rows have the answer 'Yes'" in line]
    begun = next(number for number, line in enumerate(said) if line == "rules: 6 updates")
    assert len(notes) == 1
    assert notes[0] < begun
    for name in ("training.json", "lorica.json"):  # by the record, then by the passport
        assert main(["check", str(run / "rules")]) == 10
        assert f"L180 [{name}]" in capsys.readouterr().out
        (run / "rules" / name).unlink()
