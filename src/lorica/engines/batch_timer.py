"""How long batches take to compute: an engine's own time, without loading, reading, tokenising and writing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from threading import Lock

OnBatch = Callable[[Mapping[str, float], float], None]
"""Receives the tokens that a batch computed for each request (by its id), and its seconds; from any thread."""


def _ignore(tokens: Mapping[str, float], seconds: float) -> None:
    pass


class BatchTimer:
    """Measures batches of one engine, which may compute several in parallel. Thread-safe.

    Where n batches are computed at a time, each counts 1/n of that time: the seconds of all batches sum to the wall
    time in which the engine computed anything.
    """

    def __init__(self, on_batch: OnBatch = _ignore, clock: Callable[[], float] = time.perf_counter) -> None:
        self._on_batch, self._clock = on_batch, clock
        self._lock = Lock()
        self._running = 0
        self._changed_at = 0.0
        self._share = 0.0  # seconds that a batch which ran from the first one on would count by now

    @contextmanager
    def batch(self, tokens: Mapping[str, float]) -> Iterator[None]:
        """Measure the block, which computes so many tokens for each request; without any it is not counted.

        Tokens that several requests share (a common prefix) are divided among them. A block that fails counts, too:
        its time was spent.
        """
        if not tokens:
            yield
            return
        share_before = self._advance(1)
        try:
            yield
        finally:
            self._on_batch(tokens, self._advance(-1) - share_before)

    def _advance(self, change: int) -> float:
        """The share until now; `change` more batches run from here on."""
        with self._lock:
            now = self._clock()
            if self._running:
                self._share += (now - self._changed_at) / self._running
            self._changed_at = now
            self._running += change
            return self._share
