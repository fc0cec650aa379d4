"""The log of a window under way: what is whole counts, what is torn does not, and other windows are forgotten."""

from __future__ import annotations

from pathlib import Path

import pytest

from lorica.data.journal import Journal
from lorica.data.outputs import OutputLog
from lorica.records import Answer, Output

FIRST = [Output("a", logprobs=(-0.1, -2.3e-7)), Output("b", finish="error", error="too long\n")]
SECOND = [Output("c", tokens=(1, 2), finish="stop")]


def written(path: Path) -> bytes:
    log = OutputLog(path, 8)
    log.add(FIRST)
    log.add(SECOND)
    log.close()
    return path.read_bytes()


def test_outputs_come_back_to_the_last_bit(tmp_path: Path) -> None:
    written(tmp_path / "log")
    log = OutputLog(tmp_path / "log", 8)
    assert log.known == {output.id: output for output in FIRST + SECOND}
    log.close()


def test_a_write_that_was_killed_costs_its_own_batch(tmp_path: Path) -> None:
    path = tmp_path / "log"
    whole = written(path)
    first = whole.index(b"\n") + 1
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        log = OutputLog(path, 8)
        assert list(log.known) == (["a", "b"] if cut >= first else [])
        log.add(SECOND)
        log.close()
        again = OutputLog(path, 8)
        assert list(again.known)[-1] == "c"
        again.close()


@pytest.mark.parametrize("spoilt", [b"-0.2", b"9"])
def test_a_changed_line_does_not_count(tmp_path: Path, spoilt: bytes) -> None:
    path = tmp_path / "log"
    path.write_bytes(written(path).replace(b"-0.1", spoilt))
    log = OutputLog(path, 8)
    assert log.known == {}
    log.close()


def test_another_window_starts_empty(tmp_path: Path) -> None:
    written(tmp_path / "log")
    log = OutputLog(tmp_path / "log", 16)
    assert log.known == {}
    log.close()
    assert (tmp_path / "log").read_bytes() == b""


def test_the_journal_keeps_the_log_with_it(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with Journal.open(folder, {"input": "x"}, resume=False) as journal:
        before = journal.empty
        with journal.outputs() as log:
            log.add(FIRST)
        assert (before, journal.empty) == (True, False)
    with Journal.open(folder, {"input": "x"}, resume=True) as journal:
        with journal.outputs() as log:
            assert list(log.known) == ["a", "b"]
        journal.commit([Answer("a"), Answer("b")])
        with journal.outputs() as log:
            assert log.known == {}
        journal.remove()
    assert not folder.exists()


def test_a_new_run_does_not_inherit_outputs(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "outputs.jsonl").write_bytes(written(tmp_path / "log"))
    with Journal.open(folder, {"input": "x"}, resume=False) as journal, journal.outputs() as log:
        assert log.known == {}
