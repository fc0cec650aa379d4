"""Whatever ends a run is one message that says what is kept and how to go on; doing so ends as if nothing had been."""

from __future__ import annotations

import errno
import os
import re
import resource
import shlex
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lorica.cli import main
from lorica.commands import build
from lorica.training import checkpoints


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows of mine.csv"
    path.write_text("row_id,body,rule\n" + "".join(f"r{n},post {n},No ads\n" for n in range(60)))
    return path


def infer(rows: Path, output: str = "out.csv") -> list[str]:
    command = ["infer", "engine=fake", "task=rules", f"input={rows}", f"output={rows.parent / output}"]
    return [*command, "inference.window_rows=20"]


def disk_is_full() -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def told_to_go_on(said: str) -> list[str]:
    """The arguments of the command that a message names."""
    match = re.search(r"go on: lorica (.*)", said)
    assert match, said
    return shlex.split(match[1])


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """No file can grow beyond so many bytes, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_fills_while_rows_are_answered(rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(infer(rows, "whole.csv")) == 0
    capsys.readouterr()
    with files_up_to(60_000):
        assert main(infer(rows)) == 3
    said = capsys.readouterr().err
    assert "cannot be written (disk I/O error)\n  -> " in said
    assert re.search(r"\d+ rows and the batches since are kept in", said)
    assert main(told_to_go_on(said)) == 0
    assert (rows.parent / "out.csv").read_bytes() == (rows.parent / "whole.csv").read_bytes()


@pytest.mark.parametrize(
    "broken",
    [
        "lorica.pipeline.infer.write_answers",
        "lorica.commands.infer.write_timings",
        "lorica.runs.run_folder.RunFolder.finish",
    ],
)
@pytest.mark.parametrize(
    ("error", "told"),
    [
        (disk_is_full, "No space left on device\n  -> free some space"),
        (lambda: OSError(errno.EMFILE, os.strerror(errno.EMFILE)), "ulimit -n"),
        (MemoryError, "there is not enough memory (MemoryError)\n  -> end other programs"),
        (RecursionError, "a fault of Lorica's own, not of yours: RecursionError\n  -> "),
        (KeyboardInterrupt, "interrupted."),
    ],
)
def test_the_last_step_can_be_made_again(
    rows: Path,
    broken: str,
    error: Callable[[], BaseException],
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise error()

    with monkeypatch.context() as patch:
        patch.setattr(broken, fails)
        assert main(infer(rows)) == (130 if error is KeyboardInterrupt else 1)
    said = capsys.readouterr().err
    assert told in said
    assert "60 rows and the batches since are kept in" in said
    assert "Traceback" not in said
    assert main(told_to_go_on(said)) == 0
    assert "(60 from before)" in capsys.readouterr().out
    assert not list(rows.parent.glob("*.partial"))


def test_the_traceback_of_a_fault_is_kept(
    tmp_path: Path, rows: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise ValueError("a bug")

    monkeypatch.setattr("lorica.commands.build.build_pipeline", fails)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert main(infer(rows)) == 1
    file = re.search(r"the traceback in (\S+);", capsys.readouterr().err)
    assert file
    assert Path(file[1]).read_text().rstrip().endswith("ValueError: a bug")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    assert main(infer(rows)) == 1
    assert "ValueError: a bug" in capsys.readouterr().err
    monkeypatch.setenv("LORICA_DEBUG", "1")
    assert main(infer(rows)) == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_working_folder_that_is_removed_meanwhile(
    tmp_path: Path, rows: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gone, build_task = tmp_path / "gone", build.build_task

    def removed(config: Any) -> Any:
        shutil.rmtree(gone, ignore_errors=True)
        return build_task(config)

    monkeypatch.setattr("lorica.commands.build.build_task", removed)
    for arguments, code in ((infer(rows), 0), ([*infer(rows)[:3], "input=rows.csv", "output=out.csv"], 1)):
        gone.mkdir()
        shutil.copy(rows, gone / "rows.csv")
        monkeypatch.chdir(gone)
        assert main(arguments) in (code, 3 * code)
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 61, "with full paths nothing is missing"
    assert "fault of Lorica" not in capsys.readouterr().err


def test_a_fault_is_no_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise ValueError("a bug")

    monkeypatch.setattr("lorica.vetting.files.sources.find_sources", fails)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert main(["check", str(tmp_path)]) == 12
    assert main(["passport", str(tmp_path), "--check"]) == 12
    assert main(["passport", "--check"]) == 2


def test_training_says_what_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(f'{{"question": "what is {n}", "answer": "{n}"}}\n' for n in range(8)))
    command = ["train", "task=qa", "training=tiny", f"input={rows}", "training.save_steps=1", "training.epochs=2"]
    assert main([*command, f"run_dir={tmp_path / 'whole'}"]) == 0
    save, count = checkpoints.save_checkpoint, [0]

    def fills(*given: Any, **more: Any) -> Any:
        count[0] += 1
        if count[0] == 2:
            raise disk_is_full()
        return save(*given, **more)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "save_checkpoint", fills)
        assert main([*command, f"run_dir={tmp_path / 'run'}"]) == 1
    said = capsys.readouterr().err
    assert "No space left on device\n  -> free some space" in said
    assert f"kept: {tmp_path / 'run' / 'qa'}; go on: lorica train" in said
    assert main(told_to_go_on(said)) == 0
    for name in ("adapter_model.safetensors", "lorica.json"):
        assert (tmp_path / "run" / "qa" / name).read_bytes() == (tmp_path / "whole" / "qa" / name).read_bytes()
