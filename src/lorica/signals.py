"""Signals that ask the process to end: SIGTERM (Slurm, Kubernetes, `docker stop`, `timeout`) and SIGHUP (a terminal
that was closed) are what Ctrl-C is. One that the process was started to ignore (SIGHUP by `nohup`, SIGINT where a
script starts it by `&`) stays ignored.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class Stopped(KeyboardInterrupt):
    """SIGTERM or SIGHUP came. `exit_code` of any KeyboardInterrupt is 128 and the signal's number."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


def exit_code(stop: KeyboardInterrupt) -> int:
    """What a shell reports of a process that such a signal ended: 130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP."""
    return 128 + (stop.number if isinstance(stop, Stopped) else signal.SIGINT)


def say(stop: KeyboardInterrupt, message: str, *, finished: bool = False) -> None:
    """Have the last line of the command say what was kept and how to go on. finished: also where that is said
    already."""
    if finished or not (str(stop) or hasattr(stop, "__notes__")):
        stop.args = (message,)


def last_line(stop: KeyboardInterrupt) -> str:
    """The last line of a command that a signal ended."""
    stop_reason = f"stopped by {signal.Signals(stop.number).name}" if isinstance(stop, Stopped) else "interrupted"
    return f"{stop_reason}. {stop}".rstrip()


@contextlib.contextmanager
def raised() -> Iterator[None]:
    """A block in which SIGTERM and SIGHUP raise `Stopped`; a second one ends the process at once.

    Outside the main thread signals cannot be handled, and are left alone.
    """

    def stop(number: int, stack_frame: FrameType | None) -> None:
        for signal_number in previous_handlers:
            signal.signal(signal_number, signal.SIG_DFL)
        raise Stopped(number)

    previous_handlers = {}
    if threading.current_thread() is threading.main_thread():
        previous_handlers = {number: signal.signal(number, stop) for number in _ending() if _at_default(number)}
    try:
        yield
    finally:
        for number, handler in previous_handlers.items():
            signal.signal(number, handler)


class Deferred:
    """A block in which the first signal only sets `received`, its number (0 before it); the next is handled as it was
    before the block.

    Outside the main thread signals are left alone.
    """

    def __init__(self) -> None:
        self.received = 0
        self._before: dict[int, signal._HANDLER] = {}

    def __enter__(self) -> Deferred:
        if threading.current_thread() is threading.main_thread():
            numbers = list(filter(_is_heeded, (signal.SIGINT, *_ending())))
            self._before = {number: signal.signal(number, self._first) for number in numbers}
        return self

    def __exit__(self, *error: object) -> None:
        self._restore()

    def stop(self) -> KeyboardInterrupt:
        """The exception for the signal that came."""
        return KeyboardInterrupt() if self.received == signal.SIGINT else Stopped(self.received)

    def _first(self, number: int, stack_frame: FrameType | None) -> None:
        self.received = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}


def _ending() -> tuple[int, ...]:
    # Windows has no SIGHUP.
    return tuple(getattr(signal, signal_name) for signal_name in ("SIGTERM", "SIGHUP") if hasattr(signal, signal_name))


def _at_default(number: int) -> bool:
    return signal.getsignal(number) == signal.SIG_DFL


def _is_heeded(number: int) -> bool:
    return signal.getsignal(number) not in (None, signal.SIG_IGN)
