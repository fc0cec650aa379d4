"""The journal: whatever moment it is cut off at, committed rows are there once, and nothing else is."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from lorica.data.journal import Journal
from lorica.errors import DataError, ResumeError
from lorica.records import Answer, Generate, Output, Sampling

MANIFEST = {"input": "sha256:1", "model": "tiny"}
DATABASE, WAL = "journal.sqlite", "journal.sqlite-wal"
FIRST = [Output("a", logprobs=(-0.1, -2.3e-7)), Output("b", finish="error", error="too long\n")]
SECOND = [Output("c", tokens=(1, 2), finish="stop")]
SOURCE = Path(__file__).resolve().parents[2] / "src"


def _answers(start: int, stop: int) -> list[Answer]:
    return [Answer(id=f"row-{i}", answer='{"commit":\n' * (i % 3), score=i / 7) for i in range(start, stop)]


def _requests(outputs: list[Output]) -> list[Generate]:
    return [Generate(output.id, (1, 2)) for output in outputs]


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


def test_a_write_ahead_log_cut_at_any_byte_is_cut_back_to_a_commit(tmp_path: Path) -> None:
    live, copy = tmp_path / "live", tmp_path / "copy"
    sizes: list[int] = []
    with _open(live) as journal:
        for start, stop in ((0, 2), (2, 3), (3, 6)):
            journal.commit(_answers(start, stop))
            sizes.append((live / WAL).stat().st_size)
        database, log = (live / DATABASE).read_bytes(), (live / WAL).read_bytes()  # as a kill leaves them
    for size in [*range(sizes[0], len(log), 511), *(size + step for size in sizes for step in (-1, 0, 1))]:
        copy.mkdir()
        (copy / DATABASE).write_bytes(database)
        (copy / WAL).write_bytes(log[:size])
        committed = sum(size >= end for end in sizes)
        with _open(copy) as journal:
            assert journal.done == (0, 2, 3, 6)[committed]
            assert list(journal.answers()) == _answers(0, journal.done)
            journal.commit(_answers(journal.done, 7))  # and it can be gone on with
            assert list(journal.answers()) == _answers(0, 7)
            journal.remove()


def _change(folder: Path, statement: str) -> None:
    with contextlib.closing(sqlite3.connect(folder / DATABASE)) as database, database:
        database.execute(statement)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE windows SET answers = replace(answers, 'row-1', 'row-9') WHERE start = 0",
        "UPDATE windows SET rows = 1 WHERE start = 0",
        "DELETE FROM windows WHERE start = 0",
        "DELETE FROM manifest",
    ],
)
def test_changed_rows_are_refused(tmp_path: Path, statement: str) -> None:
    with _open(tmp_path) as journal:
        journal.commit(_answers(0, 2))
        journal.commit(_answers(2, 4))
    _change(tmp_path, statement)
    before = (tmp_path / DATABASE).read_bytes()
    with pytest.raises(ResumeError, match=r"is damaged.*\n  -> start anew: delete"):
        _open(tmp_path)
    assert (tmp_path / DATABASE).read_bytes() == before


def test_every_changed_byte_is_noticed_or_changes_no_answer(tmp_path: Path) -> None:
    with _open(tmp_path) as journal:
        journal.commit(_answers(0, 40))
        journal.commit(_answers(40, 60))
    content = (tmp_path / DATABASE).read_bytes()
    refused = 0
    for position in range(3, len(content), 97):
        changed = bytearray(content)
        changed[position] ^= 0x15
        (tmp_path / DATABASE).write_bytes(changed)
        try:
            with _open(tmp_path) as journal:
                assert list(journal.answers()) == _answers(0, journal.done)
        except (ResumeError, DataError):
            refused += 1
    assert refused > 20


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


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / DATABASE).write_bytes(b"answers, answers, answers" * 100)
    with pytest.raises(ResumeError, match=r"is damaged: file is not a database"):
        _open(tmp_path)


def test_a_database_that_another_machine_has_open_is_refused(tmp_path: Path) -> None:
    _open(tmp_path).close()
    with contextlib.closing(sqlite3.connect(tmp_path / DATABASE, isolation_level=None)) as database:
        database.execute("PRAGMA locking_mode = EXCLUSIVE")
        database.execute("BEGIN EXCLUSIVE")
        with pytest.raises(ResumeError, match="another process has"):
            _open(tmp_path)


def test_a_failed_commit_leaves_nothing_of_its_window(tmp_path: Path) -> None:
    with _open(tmp_path) as journal:
        journal.commit(_answers(0, 2))
        with pytest.raises(DataError, match="a score is not a finite number"):
            journal.commit([Answer(id="a", score=float("nan"))])
        with _full_disk(tmp_path), pytest.raises(DataError, match=r"cannot be written \(.*\)\n  -> free some space"):
            journal.commit([Answer(id="row-2", answer="x" * 1_000_000)])
        assert journal.done == 2
        journal.commit(_answers(2, 3))
        assert list(journal.answers()) == _answers(0, 3)


@contextlib.contextmanager
def _full_disk(folder: Path) -> Iterator[None]:
    """Files of this process cannot grow beyond what they have now and a little."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    largest = max(path.stat().st_size for path in folder.iterdir())
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest + 100_000, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


def test_outputs_of_the_window_come_back_to_the_last_bit(tmp_path: Path) -> None:
    with _open(tmp_path) as journal:
        empty_before = journal.empty
        log = journal.outputs()
        log.add(_requests(FIRST), FIRST, [0.5] * len(FIRST))
        log.add(_requests(SECOND), SECOND, [0.25] * len(SECOND))
        assert (empty_before, journal.empty) == (True, False)
    with _open(tmp_path) as journal:
        log = journal.outputs()
        assert [log.output_of(request) for request in _requests(FIRST + SECOND)] == FIRST + SECOND
        assert log.seconds_by_id == {"a": 0.5, "b": 0.5, "c": 0.25}
        assert set(log.part_by_id.values()) == {1}
        assert journal.part == 2
        journal.commit(_answers(0, 3))
        assert journal.outputs().output_of(_requests(FIRST)[0]) is None


def test_a_changed_batch_and_those_after_it_are_computed_again(tmp_path: Path) -> None:
    with _open(tmp_path) as journal:
        log = journal.outputs()
        log.add(_requests(FIRST), FIRST, [0.5] * len(FIRST))
        log.add(_requests(SECOND), SECOND, [0.25] * len(SECOND))
    _change(tmp_path, "UPDATE outputs SET outputs = replace(outputs, 'stop', 'halt') WHERE batch = 2")
    with _open(tmp_path) as journal:
        log = journal.outputs()
        assert [log.output_of(request) for request in _requests(FIRST + SECOND)] == [*FIRST, None]
        log.add(_requests(SECOND), SECOND, [0.25] * len(SECOND))
    with _open(tmp_path) as journal:
        log = journal.outputs()
        assert [log.output_of(request) for request in _requests(FIRST + SECOND)] == FIRST + SECOND


@pytest.mark.parametrize(
    "changes",
    [{"prompt": (1, 3)}, {"adapter": "a"}, {"stop_tokens": (0,)}, {"sampling": Sampling(seed=1)}],
    ids=lambda changes: next(iter(changes)),
)
def test_an_output_is_that_of_its_very_request(tmp_path: Path, changes: dict[str, Any]) -> None:
    with _open(tmp_path) as journal:
        journal.outputs().add(_requests(FIRST), FIRST, [0.5] * len(FIRST))
        same, other = _requests(FIRST)[0], msgspec.structs.replace(_requests(FIRST)[0], **changes)
        assert (journal.outputs().output_of(same), journal.outputs().output_of(other)) == (FIRST[0], None)


WORKER = """
import sys
from lorica.data.journal import Journal
from lorica.records import Answer

journal = Journal.open(sys.argv[1], {"input": "sha256:1", "model": "tiny"}, resume=True)
while True:
    step = journal.done % 5 + 1
    journal.commit([Answer(id=f"row-{i}", score=i / 7) for i in range(journal.done, journal.done + step)])
    print(journal.done, flush=True)
"""


def test_a_killed_writer_loses_and_doubles_nothing(tmp_path: Path) -> None:
    log = tmp_path / WAL
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    committed = 0
    for growth in (1, 977, 12_345, 4_096, 70_001):
        worker = subprocess.Popen(
            [sys.executable, "-c", WORKER, str(tmp_path)], env=environment, stdout=subprocess.PIPE, text=True
        )
        assert worker.stdout is not None
        with worker.stdout as reports:
            try:
                # The tables' own bytes in the log differ by version of SQLite: count from a first commit on.
                reported = int(reports.readline())
                start = log.stat().st_size
                # Killed as soon as the log has grown by so many bytes: in the middle of what comes next.
                while log.stat().st_size < start + growth:
                    assert worker.poll() is None
            finally:
                worker.send_signal(signal.SIGKILL)
                worker.wait()
            reported = max([reported, *map(int, reports.read().split())])
        with _open(tmp_path) as journal:
            assert journal.done >= reported > committed
            committed = journal.done
            assert [answer.id for answer in journal.answers()] == [f"row-{i}" for i in range(committed)]


def test_the_journal_of_a_former_version_is_not_passed_over(tmp_path: Path) -> None:
    for name in ("manifest.json", "answers.jsonl"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(ResumeError, match=r"kept it in text files\n  -> finish the run with that version"):
        _open(tmp_path)


def test_a_table_of_another_form_is_damage_and_no_full_disk(tmp_path: Path) -> None:
    _open(tmp_path).close()
    _change(tmp_path, "ALTER TABLE windows RENAME COLUMN start TO first")
    with pytest.raises(ResumeError, match="is damaged: no such column: start"):
        _open(tmp_path)
