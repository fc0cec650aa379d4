"""What a frontier keeps of its measurements: all that is on disk, and nothing else."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from lorica.commands.frontier_search import Measurement, PointStore
from lorica.data.record_log import RecordLog
from lorica.errors import LoricaError


def test_what_is_on_disk_when_a_signal_comes_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = RecordLog.append

    def interrupted(self: RecordLog[Any], record: Any) -> None:
        real(self, record)
        signal.raise_signal(signal.SIGINT)

    store = PointStore(tmp_path)
    monkeypatch.setattr(RecordLog, "append", interrupted)
    with pytest.raises(KeyboardInterrupt):
        store.add(Measurement(point="a", right="1", seconds=(0.1,)))
    assert list(store.best) == list(PointStore(tmp_path).best) == ["a"]


def test_a_point_that_cannot_answer_more_rows_is_no_longer_usable(tmp_path: Path) -> None:
    store = PointStore(tmp_path)
    store.add(Measurement(point="a", right="11", seconds=(0.1, 0.1)))
    store.add(Measurement(point="a", problem="a row of a subject without an adapter"))
    for same in (store, PointStore(tmp_path)):
        assert not same.usable()
        assert list(same.problems) == ["a"]


def test_damaged_points_are_named(tmp_path: Path) -> None:
    (tmp_path / "points.jsonl").write_text('{"point":"a","right":"10","seconds":[1.0]}\n')
    with pytest.raises(LoricaError, match="2 rows and 1 seconds"):
        PointStore(tmp_path)
    (tmp_path / "points.jsonl").write_text("no json\n")
    with pytest.raises(LoricaError, match="is no measurement"):
        PointStore(tmp_path)
