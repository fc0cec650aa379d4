"""The time that a run may take and has used: that of all its sessions, without what lay between them."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from lorica.data.write import atomic_file
from lorica.errors import DataError

CLOCK_NAME = "clock.json"
_SAVE_SECONDS = 1.0  # between two saves: what a kill may lose of the count


class TimeOver(BaseException):
    """The time of a run is used up. Not an Exception, like KeyboardInterrupt: nothing on the way may take it for a
    failure of its own."""


class RunClock:
    """Counts on from what earlier sessions have used. `limit`: seconds that the run may use in all."""

    def __init__(
        self, folder: Path, *, limit: float, started: float | None = None, now: Callable[[], float] = time.monotonic
    ) -> None:
        """started: when this session began, by `now`; None is now. Raises DataError for a damaged count."""
        self.limit = limit
        self.now = now
        self._path = folder / CLOCK_NAME
        self._earlier = _read(self._path)
        self._started = now() if started is None else started
        self._saved = 0.0

    @property
    def used(self) -> float:
        """Seconds so far."""
        return self._earlier + self.now() - self._started

    @property
    def remaining(self) -> float:
        """Seconds until the limit; below 0 beyond it."""
        return self.limit - self.used

    def save(self, *, force: bool = False) -> None:
        """Write the count, at most once a second unless `force`. Raises DataError when the disk refuses."""
        if not force and self.used - self._saved < _SAVE_SECONDS:
            return
        self._saved = self.used
        with atomic_file(self._path) as clock_file:
            clock_file.write(json.dumps({"seconds": round(self._saved, 3)}).encode() + b"\n")

    @contextmanager
    def interrupting(self, reserve: float) -> Iterator[None]:
        """A block that is ended by `TimeOver`, whatever it is doing, when `reserve` seconds are left: for work of which
        nobody knows how long a step of it takes. What is in a product of C code ends with that.

        Outside the main thread, and on Windows, it is not ended.
        """
        seconds = self.remaining - reserve
        if seconds <= 0:
            raise TimeOver
        if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
            yield
            return
        is_running = True

        def end(number: int, stack_frame: FrameType | None) -> None:
            if is_running:
                raise TimeOver

        began = time.monotonic()
        former_handler = signal.signal(signal.SIGALRM, end)
        former_seconds, former_interval = signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            try:
                yield
            finally:
                is_running = False
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, former_handler)
            if former_seconds:
                seconds_left = max(former_seconds - (time.monotonic() - began), 1e-6)
                signal.setitimer(signal.ITIMER_REAL, seconds_left, former_interval)


def _read(path: Path) -> float:
    try:
        seconds = float(json.loads(path.read_bytes())["seconds"])
    except FileNotFoundError:
        return 0.0
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"does not say how many seconds were used: {error}", path=path, fix='write {"seconds": 0} there'
        ) from error
    if not 0 <= seconds < float("inf"):
        raise DataError(f"{seconds} seconds were used", path=path, fix='write {"seconds": 0} there')
    return seconds
