from __future__ import annotations

import io
from pathlib import Path

from lorica.training.listeners import BarListener, LineListener, SilentListener, make_listener
from lorica.training.types import Listener, StepReport, TrainResult

RESULT = TrainResult(6, 8, 1.0, 0.75, 1000, 12.0, Path("run/adapter"), base_loss=2.5, trained_loss=0.75)


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def _tell(listener: Listener) -> None:
    listener.started("algebra", 2, 8)
    listener.evaluated(0, 2.5, False)
    for step in range(3, 9):
        listener.stepped(StepReport(step, 8, 1.5, 1e-4, 0.5, 12345.6))
    listener.evaluated(8, 0.75, True)
    listener.note("a [bold] note")
    listener.closed()
    listener.finished(RESULT)


def test_a_pipe_gets_a_plain_line_now_and_then() -> None:
    out = io.StringIO()
    listener = make_listener(logging_steps=5, stream=out)
    assert isinstance(listener, LineListener)
    _tell(listener)
    assert out.getvalue().splitlines() == [
        "algebra: 8 updates, going on after 2",
        "algebra: loss to beat: 2.5000",
        "algebra: update 5/8, loss 1.5000, 12,346 tokens/s, lr 1.00e-04",
        "algebra: update 8/8, loss 1.5000, 12,346 tokens/s, lr 1.00e-04",
        "algebra: loss after update 8: 0.7500 (best so far)",
        "algebra: a [bold] note",
        "algebra: 8 updates in 12.0 s, validation loss 2.5000 (to beat) -> 0.7500 (update 6), saved in run/adapter",
    ]


def test_a_terminal_gets_a_bar_with_loss_and_speed() -> None:
    out = _Terminal()
    listener = make_listener(logging_steps=5, stream=out)
    assert isinstance(listener, BarListener)
    _tell(listener)
    shown = out.getvalue()
    for text in ("algebra", "8/8", "loss 1.5000", "12,346", "a [bold] note", "saved in run/adapter"):
        assert text in shown


def test_silence_is_possible() -> None:
    _tell(SilentListener())
