"""Batches computed side by side: threads that work on a batch each do not wait for each other at every operation.

Two threads inside one operation meet at its end, dozens of times in every layer; where the processor has other work,
too, each meeting waits for whoever was set aside. Threads with a batch of their own meet once, at the end of all.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, TypeVar

import torch

Result = TypeVar("Result")

MOST = 8
"""Batches at once: beyond, they would push each other's weights out of the cache, and each gets several threads."""

_AHEAD = 2  # batches per worker that may wait or be finished before the oldest one's result is taken


def count_workers(device: torch.device) -> int:
    """How many batches are computed at once: on a CPU as many as there are threads, up to MOST."""
    return min(torch.get_num_threads(), MOST) if device.type == "cpu" else 1


class Workers(Generic[Result]):
    """count: how many; a single one works in the thread that asks. As a context: leaving it waits for what runs."""

    def __init__(self, count: int) -> None:
        self._count, self._threads = count, torch.get_num_threads()
        self._pool: ThreadPoolExecutor | None = None
        self._pending: deque[tuple[Future[Result], Callable[[], None]]] = deque()

    def __enter__(self) -> Workers[Result]:
        if self._count > 1:
            each = max(1, self._threads // self._count)
            self._pool = ThreadPoolExecutor(self._count, "batch", torch.set_num_threads, (each,))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            # Some libraries count threads for the whole process, and the workers have asked for few.
            torch.set_num_threads(self._threads)

    def submit(self, work: Callable[[], Result], after: Callable[[], None] = lambda: None) -> None:
        """Have something done; what is submitted first begins first. after: called before its result is given out."""
        if self._pool is not None:
            self._pending.append((self._pool.submit(_without_gradients, work), after))
            return
        future: Future[Result] = Future()
        try:
            future.set_result(_without_gradients(work))
        except Exception as error:
            future.set_exception(error)
        self._pending.append((future, after))

    def start(self, work: Callable[[], Result]) -> Future[Result]:
        """Have something done whose result is taken as soon as it is there; only with several workers."""
        assert self._pool is not None
        return self._pool.submit(_without_gradients, work)

    def finished(self, *, all_of_it: bool = False) -> Iterator[Result]:
        """Results in the order of submission, until few are pending, or none. Raises what the work raised."""
        room = 0 if all_of_it or self._pool is None else self._count * _AHEAD
        while len(self._pending) > room:
            future, after = self._pending.popleft()
            result = future.result()
            after()
            yield result


def _without_gradients(work: Callable[[], Result]) -> Result:
    with torch.inference_mode():  # a matter of each thread
        return work()
