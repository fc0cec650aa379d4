"""What stands in a run's folder is one run's, whole, and its passport is true, whatever happened on the way."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from tests.passports import make_adapter
from tests.training.tiny import KILLED, LORA, Recorder, rows, run, tiny_decoder

from lorica.adapters.folder import open_adapter
from lorica.adapters.passport import PASSPORT_NAME, Passport, passport_bytes, read_passport, write_passport
from lorica.adapters.passport_facts import adapter_facts, file_sha256
from lorica.config.schema import TrainingConfig
from lorica.errors import AdapterError, DataError, ResumeError, TrainingError
from lorica.locks import LOCK_NAME
from lorica.models.base_folder import BaseFolder
from lorica.training import checkpoints, publish
from lorica.training.loop import lock_run, train
from lorica.training.lora_decoder import LoraDecoder
from lorica.training.types import StepReport, TrainResult

WEIGHTS, CONFIG, RECORD = "adapter_model.safetensors", "adapter_config.json", "training.json"
QUICK = replace(KILLED, epochs=2)
RESUMED = replace(QUICK, resume=True)


@cache
def _any_passport() -> Passport:
    import tempfile

    import torch
    from tests.passports import give_passport

    from lorica.engines.native.engine import NativeEngine
    from lorica.models.locate import locate_model
    from lorica.models.weights import load_decoder

    base = locate_model("embedded:lorica_tiny", environ={})
    engine = NativeEngine(load_decoder(BaseFolder(base), dtype=torch.float32, device="cpu"), batch_tokens=512)
    return give_passport(make_adapter(Path(tempfile.mkdtemp()) / "a"), engine)


def issue(folder: Path, result: TrainResult) -> Passport:
    """A passport whose facts are those of the files."""
    import msgspec

    return msgspec.structs.replace(_any_passport(), adapter=adapter_facts(open_adapter(folder)))


def issued(folder: Path, settings: TrainingConfig = RESUMED, **more: Any) -> TrainResult:
    """A run that publishes a passport, too."""
    given: dict[str, Any] = {"listener": Recorder(), "issue_passport": issue} | more
    trainable = LoraDecoder.create("tiny", tiny_decoder(), LORA, settings)
    return train(trainable, rows(20), rows(7, seed=1, prefix="held"), settings, folder, adapter_name="tiny", **given)


def whole(folder: Path) -> bool:
    """Whether there is an adapter; it must be true then."""
    if not (folder / CONFIG).exists():
        return False
    passport = read_passport(folder)
    assert passport is not None
    assert passport.adapter == adapter_facts(open_adapter(folder))
    record = json.loads((folder / RECORD).read_text())
    assert record["status"] == "finished"
    for name in (WEIGHTS, CONFIG):
        assert record["published"][name] == file_sha256(folder / name)
    return True


class _Crash(BaseException):
    """The end of a process: no handler for errors may catch it."""


def test_a_crash_at_any_moment_of_publishing_leaves_the_adapter_whole_or_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    issued(tmp_path / "whole")
    expected = {name: (tmp_path / "whole" / name).read_bytes() for name in (WEIGHTS, CONFIG, PASSPORT_NAME)}
    folder = tmp_path / "a"
    crashes, states = 0, set()
    for number in range(60):
        countdown = [number]

        def fragile(real: Any, countdown: list[int] = countdown) -> Any:
            def call(*arguments: Any, **named: Any) -> Any:
                countdown[0] -= 1
                if countdown[0] == -1:
                    raise _Crash
                return real(*arguments, **named)

            return call

        real_publish = publish.publish

        def publishing(*arguments: Any, fragile: Any = fragile, real: Any = real_publish) -> None:
            with pytest.MonkeyPatch.context() as patch:
                for home, name in ((os, "replace"), (os, "fsync"), (os, "unlink"), (shutil, "rmtree"), (os, "open")):
                    patch.setattr(home, name, fragile(getattr(home, name)))
                real(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(publish, "publish", publishing)
            # Of another adapter, as an older version may have left it.
            if number == 0:
                folder.mkdir()
                write_passport(folder, _any_passport())
            try:
                issued(folder)
                break
            except _Crash:
                crashes += 1
        states.add(whole(folder))
    assert crashes > 8
    assert states == {False, True}
    issued(folder)
    assert whole(folder)
    assert {name: (folder / name).read_bytes() for name in expected} == expected
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        [*expected, RECORD, "checkpoints", "last", "log.jsonl"]
    )
    assert not [path for path in (folder / "checkpoints").iterdir() if path.name.startswith("best")]


def test_two_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    with lock_run(tmp_path / "a"), pytest.raises(ResumeError, match=r"working on .*a: training, process \d+ on"):
        run(tmp_path / "a", QUICK)
    assert not (tmp_path / "a").exists()
    run(tmp_path / "a", QUICK)
    assert not (tmp_path / "a" / LOCK_NAME).exists()


def test_an_old_passport_never_stands_beside_new_weights(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    write_passport(tmp_path / "a", _any_passport())
    run(tmp_path / "a", QUICK)
    assert read_passport(tmp_path / "a") is None


def test_without_a_passport_the_adapter_is_saved_all_the_same_and_that_is_said(tmp_path: Path) -> None:
    def refuse(folder: Path, result: TrainResult) -> Passport:
        raise AdapterError("a figure is not finite", fix="look at it")

    with pytest.raises(AdapterError, match="is saved, without a passport: a figure is not finite"):
        issued(tmp_path / "a", issue_passport=refuse)
    assert read_passport(tmp_path / "a") is None
    issued(tmp_path / "a")
    assert whole(tmp_path / "a")


def test_what_is_published_is_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.replace

    def spoil(source: Any, target: Any) -> None:
        real(source, target)
        if Path(target) == tmp_path / "a" / WEIGHTS:
            content = bytearray(Path(target).read_bytes())
            content[-1] ^= 1
            Path(target).write_bytes(content)

    monkeypatch.setattr(os, "replace", spoil)
    with pytest.raises(TrainingError, match=f"{WEIGHTS} is not what was written"):
        issued(tmp_path / "a")


def test_a_passport_of_other_bytes_is_not_published(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="differs from what the passport was made of"):
        issued(tmp_path / "a", issue_passport=lambda folder, result: _any_passport())
    assert not (tmp_path / "a" / CONFIG).exists()


def test_a_finished_run_with_other_weights_is_not_taken_for_its_own(tmp_path: Path) -> None:
    issued(tmp_path / "a")
    listener = Recorder()
    path = tmp_path / "a" / CONFIG
    path.write_text(path.read_text().replace('"lora_alpha": 8', '"lora_alpha": 9'))
    issued(tmp_path / "a", listener=listener)
    assert "lora_alpha 8 -> 9" in listener.notes[0]
    shutil.copyfile(make_adapter(tmp_path / "other") / WEIGHTS, tmp_path / "a" / WEIGHTS)
    with pytest.raises(ResumeError, match="is not the file that its run published"):
        issued(tmp_path / "a")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_each_signal_keeps_the_update_and_resume_goes_on(number: signal.Signals, tmp_path: Path) -> None:
    whole_run = run(tmp_path / "whole", QUICK)

    class Impatient(Recorder):
        def stepped(self, report: StepReport) -> None:
            super().stepped(report)
            if report.step == 3:
                signal.raise_signal(number)

    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt, match="after update 3 of 8 is kept"):
        run(tmp_path / "a", replace(QUICK, save_steps=1000), listener=Impatient())
    assert signal.getsignal(number) is before
    listener = Recorder()
    result = run(tmp_path / "a", replace(RESUMED, save_steps=1000), listener=listener)
    assert listener.steps[0].step == 4
    assert replace(result, seconds=0, folder=whole_run.folder) == replace(whole_run, seconds=0)


def test_a_signal_in_the_last_update_or_while_the_passport_is_made_loses_nothing(tmp_path: Path) -> None:
    class Impatient(Recorder):
        def stepped(self, report: StepReport) -> None:
            if report.step == report.total:
                signal.raise_signal(signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt, match="after update 8 of 8 is kept"):
        issued(tmp_path / "a", replace(QUICK, save_steps=1000), listener=Impatient())

    def stopped(folder: Path, result: TrainResult) -> Passport:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        issued(tmp_path / "a", replace(RESUMED, save_steps=1000), issue_passport=stopped)
    listener = Recorder()
    issued(tmp_path / "a", replace(RESUMED, save_steps=1000), listener=listener)
    assert listener.steps == []  # every update was kept
    assert whole(tmp_path / "a")
    assert list((tmp_path / "a" / "checkpoints").iterdir()) == []


def test_the_best_adapters_do_not_pile_up(tmp_path: Path) -> None:
    class Counter(Recorder):
        most = 0

        def evaluated(self, step: int, loss: float, best: bool) -> None:
            super().evaluated(step, loss, best)
            self.most = max(self.most, len(list((tmp_path / "a" / "checkpoints").glob("best-*"))))

    listener = Counter()
    run(tmp_path / "a", replace(KILLED, eval_steps=1, save_steps=1000), listener=listener)
    assert sum(best for _, _, best in listener.evaluations) > 3
    assert listener.most == 1


def test_checkpoints_of_another_run_are_not_gone_on_with(tmp_path: Path) -> None:
    for name, settings in (("a", QUICK), ("b", replace(QUICK, learning_rate=1e-4))):
        run(tmp_path / name, settings)
    shutil.rmtree(tmp_path / "a" / "checkpoints")
    shutil.copytree(tmp_path / "b" / "checkpoints", tmp_path / "a" / "checkpoints")
    (tmp_path / "a" / CONFIG).unlink()
    with pytest.raises(ResumeError, match="step-8: cannot be resumed from: it is the checkpoint of another run"):
        run(tmp_path / "a", RESUMED)
    (tmp_path / "a" / RECORD).unlink()
    for settings in (QUICK, RESUMED):
        with pytest.raises(ResumeError, match=f"holds checkpoints of a run and no {RECORD}"):
            run(tmp_path / "a", settings)


def test_another_runs_best_adapter_is_not_published(tmp_path: Path) -> None:
    """As where two machines write into one folder that shows neither the other's lock."""

    class Exchange(Recorder):
        def evaluated(self, step: int, loss: float, best: bool) -> None:
            if step:
                for path in (tmp_path / "a" / "checkpoints").glob(f"best-*/{WEIGHTS}"):
                    shutil.copyfile(other / WEIGHTS, path)

    other = tmp_path / "b"
    run(other, replace(QUICK, seed=9))
    with pytest.raises(ResumeError, match="is not what this run wrote there"):
        run(tmp_path / "a", QUICK, listener=Exchange())


@pytest.mark.parametrize("replaced", [False, True])
def test_a_folder_that_is_removed_while_it_trains_is_noticed(replaced: bool, tmp_path: Path) -> None:
    class Vandal(Recorder):
        def stepped(self, report: StepReport) -> None:
            if report.step == 3:
                shutil.rmtree(tmp_path / "a")
                if replaced:
                    shutil.copytree(other, tmp_path / "a")

    other = tmp_path / "b"
    run(other, QUICK)
    with pytest.raises(TrainingError, match=r"nothing more can be saved there.*removed"):
        run(tmp_path / "a", KILLED, listener=Vandal())
    assert (tmp_path / "a").exists() == replaced
    if replaced:
        assert (tmp_path / "a" / WEIGHTS).read_bytes() == (other / WEIGHTS).read_bytes()


@contextmanager
def _small_disk(room: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("room", [1, 3000])
def test_a_full_disk_costs_the_updates_since_the_checkpoint(room: int, tmp_path: Path) -> None:
    whole_run = run(tmp_path / "whole", KILLED)

    class Fill(Recorder):
        def stepped(self, report: StepReport) -> None:
            if report.step == 5:
                resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with _small_disk(before[0]), pytest.raises(OSError, match="File too large") as caught:
        run(tmp_path / "a", KILLED, listener=Fill())
    assert str(caught.value.filename).startswith(str(tmp_path / "a"))
    assert checkpoints.newest_checkpoint(tmp_path / "a") == tmp_path / "a" / "checkpoints" / "step-4"
    result = run(tmp_path / "a", replace(KILLED, resume=True))
    assert replace(result, seconds=0, folder=whole_run.folder) == replace(whole_run, seconds=0)
    for name in (WEIGHTS, CONFIG):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not list((tmp_path / "a").rglob("*.tmp"))


def test_a_folder_that_cannot_be_written_is_refused_before_anything(tmp_path: Path) -> None:
    with _small_disk(0), pytest.raises(DataError, match=r"nothing can be written here \(File too large\)"):
        run(tmp_path / "a", QUICK)
    assert list(tmp_path.iterdir()) == []


def test_links_lead_where_they_lead(tmp_path: Path) -> None:
    (tmp_path / "disk" / "a").mkdir(parents=True)
    (tmp_path / "run").symlink_to(tmp_path / "disk")
    (tmp_path / "a").symlink_to(tmp_path / "disk" / "a")
    with lock_run(tmp_path / "a"), pytest.raises(ResumeError, match="another process"):
        run(tmp_path / "run" / "a", QUICK)
    issued(tmp_path / "a", QUICK)
    assert whole(tmp_path / "disk" / "a")
    assert (tmp_path / "a").is_symlink()
    assert [path.name for path in (tmp_path / "disk").iterdir()] == ["a"]


def test_one_run_does_not_sweep_away_what_another_is_writing(tmp_path: Path) -> None:
    def stopped(folder: Path, result: TrainResult) -> Passport:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        issued(tmp_path / "a", issue_passport=stopped)
    stage = tmp_path / ".a.b.01234567.tmp"  # of a sibling whose name begins alike
    stage.mkdir()
    issued(tmp_path / "a")
    assert stage.exists()


def test_passport_bytes_do_not_depend_on_the_way(tmp_path: Path) -> None:
    issued(tmp_path / "a")
    passport = read_passport(tmp_path / "a")
    assert passport is not None
    assert (tmp_path / "a" / PASSPORT_NAME).read_bytes() == passport_bytes(passport)
    assert checkpoints.newest_checkpoint(tmp_path / "a") is not None
