"""The time of a run: counted over its sessions, and kept inside a step of which nobody knows the length."""

from __future__ import annotations

import json
import signal
import threading
import time as system_time
from pathlib import Path

import pytest

from lorica.errors import DataError
from lorica.runs.run_clock import CLOCK_NAME, RunClock, TimeOver


class Time:
    """Seconds that only a test moves."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_only_time_that_was_used_counts(tmp_path: Path) -> None:
    time = Time()
    clock = RunClock(tmp_path, limit=60, now=time)
    time.now = 20
    clock.save(force=True)
    time.now = 5000  # a pause: the first session's process is gone
    again = RunClock(tmp_path, limit=60, now=time)
    time.now += 10
    assert (again.used, again.remaining) == (30, 30)
    assert RunClock(tmp_path, limit=120, now=time).remaining == 100, "minutes may be raised"


def test_seconds_are_saved_once_a_second(tmp_path: Path) -> None:
    time = Time()
    clock = RunClock(tmp_path, limit=60, now=time)
    for moment in (0.5, 1.5, 2.0, 2.6):
        time.now = moment
        clock.save()
    assert json.loads((tmp_path / CLOCK_NAME).read_text()) == {"seconds": 2.6}
    time.now = 3.0
    clock.save()
    assert json.loads((tmp_path / CLOCK_NAME).read_text()) == {"seconds": 2.6}


@pytest.mark.parametrize("content", ["", "[]", '{"seconds": "many"}', '{"seconds": -1}', '{"seconds": NaN}'])
def test_a_damaged_count_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / CLOCK_NAME).write_text(content)
    with pytest.raises(DataError, match="seconds"):
        RunClock(tmp_path, limit=60)


def _work(seconds: float) -> None:
    """One step, of which nothing looks at a clock."""
    until = system_time.monotonic() + seconds
    while system_time.monotonic() < until:
        sum(range(1000))


def test_a_step_of_unknown_length_is_ended_when_the_time_is_over(tmp_path: Path) -> None:
    clock = RunClock(tmp_path, limit=0.2)
    with pytest.raises(TimeOver), clock.interrupting(reserve=0.1):
        _work(30.0)
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert clock.used < 30


def test_no_block_begins_when_the_time_is_over(tmp_path: Path) -> None:
    begun = []
    with pytest.raises(TimeOver), RunClock(tmp_path, limit=1.0).interrupting(reserve=1.5):
        begun.append(True)
    assert not begun


def test_what_is_done_in_time_is_left_alone_and_so_is_an_alarm_of_others(tmp_path: Path) -> None:
    alarms: list[int] = []
    former = signal.signal(signal.SIGALRM, lambda number, stack_frame: alarms.append(number))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with RunClock(tmp_path, limit=3600).interrupting(reserve=0.0):
            _work(0.05)
        with pytest.raises(TimeOver), RunClock(tmp_path, limit=0.05).interrupting(reserve=0.0):
            _work(30.0)
        assert not alarms
        _work(0.5)
        assert alarms == [signal.SIGALRM]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)


def test_another_thread_works_on_without_an_alarm(tmp_path: Path) -> None:
    done = []

    def work() -> None:
        with RunClock(tmp_path, limit=3600).interrupting(reserve=0.0):
            done.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done


def test_no_handler_of_failures_takes_it_for_one(tmp_path: Path) -> None:
    def tolerant_work() -> None:
        try:
            _work(30.0)
        except Exception:  # as libraries do
            pytest.fail("it was swallowed")

    with pytest.raises(TimeOver), RunClock(tmp_path, limit=0.05).interrupting(reserve=0.0):
        tolerant_work()
