"""Ctrl-C that waits for the end of an update; a second one does not wait."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType


class Interrupt:
    """A block in which the first Ctrl-C only sets `asked`. Outside the main thread signals are left alone."""

    def __init__(self) -> None:
        self.asked = False
        # `signal.signal` is refused in other threads; they never get a Ctrl-C either.
        self._active = threading.current_thread() is threading.main_thread()
        self._before: signal._HANDLER = None

    def __enter__(self) -> Interrupt:
        if self._active:
            self._before = signal.signal(signal.SIGINT, self._first)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _first(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        self._restore()

    def _restore(self) -> None:
        if self._active and self._before is not None:
            signal.signal(signal.SIGINT, self._before)
            self._active = False
