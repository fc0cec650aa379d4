"""What ends the training of a trial: the deadline, seen in time, and others that did better."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from lorica.runs.run_clock import RunClock
from lorica.training.listeners import SilentListener
from lorica.training.types import StepReport
from lorica.tuning.trial_listener import CURVE_NAME, CUT, PRUNED, TrialListener
from lorica.tuning.trial_store import Curve


class Time:
    """Seconds that only a test moves."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def listen(
    folder: Path,
    time: Time,
    *,
    limit: float = 100.0,
    reserve: float = 0.0,
    is_hopeless: Callable[[Curve], bool] = lambda curve: False,
) -> TrialListener:
    clock = RunClock(folder, limit=limit, now=time)
    return TrialListener(
        SilentListener(), "trial 1", folder / "0001", clock, reserve=lambda: reserve, is_hopeless=is_hopeless
    )


def step(listener: TrialListener, time: Time, number: int, seconds: float, total: int = 10) -> str:
    time.now += seconds
    listener.stepped(StepReport(number, total, 1.0, 1e-4, 1.0, 100.0))
    return listener.stop_reason()


def test_it_stops_before_an_update_that_would_end_too_late(tmp_path: Path) -> None:
    time = Time()
    listener = listen(tmp_path, time, limit=24)
    listener.started("rules", 0, 10)
    assert [step(listener, time, number, 8) for number in (1, 2)] == ["", ""]
    assert step(listener, time, 3, 1) == CUT, "an update of 8 seconds does not fit into the 7 that are left"
    assert time.now <= 24


def test_what_must_follow_the_training_is_kept_free(tmp_path: Path) -> None:
    time = Time()
    listener = listen(tmp_path, time, reserve=90.0)
    time.now = 5
    listener.started("rules", 0, 10)
    time.now = 7
    listener.evaluated(0, 0.7, False)
    assert step(listener, time, 1, 1) == ""
    assert step(listener, time, 2, 2) == CUT


def test_losses_outlast_a_kill_and_are_told_once_from_the_checkpoint_on(tmp_path: Path) -> None:
    time = Time()
    listener = listen(tmp_path, time)
    listener.started("rules", 0, 10)
    listener.evaluated(0, 0.9, False)
    for update, loss in ((2, 0.8), (4, 0.7), (6, 0.65)):
        listener.evaluated(update, loss, True)
    assert list(listener.curve) == [(0.2, 0.8), (0.4, 0.7), (0.6, 0.65)]
    with (tmp_path / "0001" / CURVE_NAME).open("ab") as curve_file:
        curve_file.write(b"[8, 10, 0.")  # a kill
    again = listen(tmp_path, time)
    assert again.curve == listener.curve, "also of a training that was finished before the kill"
    again.started("rules", 4, 10)
    assert list(again.curve) == [(0.2, 0.8), (0.4, 0.7)]
    again.evaluated(6, 0.64, True)
    assert listen(tmp_path, time).curve == ((0.2, 0.8), (0.4, 0.7), (0.6, 0.64))


def test_a_hopeless_trial_is_ended_also_where_a_kill_came_between(tmp_path: Path) -> None:
    time = Time()

    def is_hopeless(curve: Curve) -> bool:
        return bool(curve) and curve[-1][1] > 0.7

    listener = listen(tmp_path, time, is_hopeless=is_hopeless)
    listener.started("rules", 0, 10)
    listener.evaluated(2, 0.6, True)
    assert listener.stop_reason() == ""
    listener.evaluated(4, 0.8, False)
    again = listen(tmp_path, time, is_hopeless=is_hopeless)
    again.started("rules", 4, 10)
    assert step(again, time, 5, 1) == PRUNED
