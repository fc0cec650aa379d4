"""The journal: whatever moment it is cut off at, committed rows are there once, and nothing else is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lorica.data.journal import Journal
from lorica.errors import DataError, ResumeError
from lorica.records import Answer

MANIFEST = {"input": "sha256:1", "model": "tiny"}
SOURCE = Path(__file__).resolve().parents[2] / "src"


def _answers(start: int, stop: int) -> list[Answer]:
    return [Answer(id=f"row-{i}", answer='{"commit":\n' * (i % 3), score=i / 7) for i in range(start, stop)]


def _open(folder: Path, *, resume: bool = True, manifest: dict[str, str] = MANIFEST) -> Journal:
    return Journal.open(folder, manifest, resume=resume)


def test_commits_are_kept_and_gone_on_with(tmp_path: Path) -> None:
    with _open(tmp_path / "j", resume=False) as journal:
        assert journal.done == 0
        assert list(journal.answers()) == []
        journal.commit(_answers(0, 3))
        journal.commit([])
        journal.commit(_answers(3, 4))
        assert journal.done == 4
    with _open(tmp_path / "j") as journal:
        assert journal.done == 4
        journal.commit(_answers(4, 6))
        assert list(journal.answers()) == _answers(0, 6)


def test_a_tail_cut_at_any_byte_is_cut_back_to_the_last_commit(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    ends = [0]
    with _open(tmp_path) as journal:
        for start, stop in ((0, 2), (2, 3), (3, 6)):
            journal.commit(_answers(start, stop))
            ends.append(path.stat().st_size)
    whole = path.read_bytes()
    done_at = dict(zip(ends, (0, 2, 3, 6), strict=True))
    for size in range(len(whole) + 1):
        path.write_bytes(whole[:size])
        end = max(e for e in ends if e <= size)
        with _open(tmp_path) as journal:
            assert journal.done == done_at[end]
            assert path.read_bytes() == whole[:end]
            assert list(journal.answers()) == _answers(0, journal.done)
            if size % 7 == 0:  # and it can be gone on with
                journal.commit(_answers(journal.done, 6))
                assert list(journal.answers()) == _answers(0, 6)


def test_a_last_frame_that_does_not_fit_its_commit_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    with _open(tmp_path) as journal:
        journal.commit(_answers(0, 2))
        end = path.stat().st_size
        journal.commit(_answers(2, 4))
    content = bytearray(path.read_bytes())
    content[end + 9] ^= 1  # as after a power cut, when a later block reached the disk before an earlier one
    path.write_bytes(content)
    with _open(tmp_path) as journal:
        assert journal.done == 2


def test_damage_before_the_last_frame_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    with _open(tmp_path) as journal:
        journal.commit(_answers(0, 2))
        journal.commit(_answers(2, 4))
    content = bytearray(path.read_bytes())
    content[9] ^= 1
    path.write_bytes(content)
    with pytest.raises(ResumeError, match="is damaged before byte"):
        _open(tmp_path)
    assert path.read_bytes() == content


def test_an_earlier_run_is_not_overwritten(tmp_path: Path) -> None:
    _open(tmp_path, resume=False).close()
    with pytest.raises(ResumeError, match=r"did not finish\n  -> go on with it: inference.resume=true; or start anew"):
        _open(tmp_path, resume=False)


def test_another_run_is_not_gone_on_with(tmp_path: Path) -> None:
    _open(tmp_path).close()
    with pytest.raises(ResumeError) as caught:
        _open(tmp_path, manifest={"input": "sha256:2", "seed": "1"})
    message = str(caught.value)
    assert "input: was 'sha256:1', is now 'sha256:2'" in message
    assert "model: was 'tiny', is now '(nothing)'" in message
    assert "seed: was '(nothing)', is now '1'" in message


def test_two_processes_do_not_share_a_journal(tmp_path: Path) -> None:
    with _open(tmp_path), pytest.raises(ResumeError, match="another process is working on"):
        _open(tmp_path)
    _open(tmp_path).close()


def test_remove_leaves_nothing_of_it(tmp_path: Path) -> None:
    journal = _open(tmp_path / "j")
    journal.commit(_answers(0, 1))
    journal.remove()
    journal.close()  # may be called twice
    assert list(tmp_path.iterdir()) == []
    with _open(tmp_path, resume=False) as journal:
        (tmp_path / "other").write_bytes(b"")
        journal.remove()
    assert [p.name for p in tmp_path.iterdir()] == ["other"]


def test_a_damaged_or_missing_manifest_is_refused(tmp_path: Path) -> None:
    with _open(tmp_path) as journal:
        journal.commit(_answers(0, 1))
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(ResumeError, match=r"manifest.json is damaged"):
        _open(tmp_path)
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(ResumeError, match="answers without a manifest"):
        _open(tmp_path)


def test_a_failed_commit_leaves_nothing_of_its_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with _open(tmp_path) as journal:
        journal.commit(_answers(0, 2))
        with pytest.raises(DataError, match="a score is not a finite number"):
            journal.commit([Answer(id="a", score=float("nan"))])
        real = os.write

        def half(file: int, data: memoryview) -> int:
            real(file, data[: len(data) // 2])
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "write", half)
        with pytest.raises(DataError, match="No space left"):
            journal.commit(_answers(2, 4))
        monkeypatch.undo()
        assert journal.done == 2
        journal.commit(_answers(2, 3))
        assert list(journal.answers()) == _answers(0, 3)


WORKER = """
import sys
from lorica.data.journal import Journal
from lorica.records import Answer

journal = Journal.open(sys.argv[1], {"input": "sha256:1", "model": "tiny"}, resume=True)
while True:
    step = journal.done % 5 + 1
    journal.commit([Answer(id=f"row-{i}", score=i / 7) for i in range(journal.done, journal.done + step)])
"""


def test_a_killed_writer_loses_and_doubles_nothing(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    seen = 0
    for growth in (1, 977, 12_345, 4_096, 70_001):
        before = path.stat().st_size if path.exists() else 0
        worker = subprocess.Popen([sys.executable, "-c", WORKER, str(tmp_path)], env=environment)
        try:
            # Killed as soon as the file has grown by so many bytes: in the middle of what comes next.
            while not path.exists() or path.stat().st_size < before + growth:
                assert worker.poll() is None
        finally:
            worker.send_signal(signal.SIGKILL)
            worker.wait()
        with _open(tmp_path) as journal:
            assert journal.done > seen
            seen = journal.done
            assert [a.id for a in journal.answers()] == [f"row-{i}" for i in range(seen)]
