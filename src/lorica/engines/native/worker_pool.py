"""Parallel workers: threads that compute a batch each, instead of sharing every operation.

Two threads inside one operation meet at its end, dozens of times in every layer; where the processor also does other
work, each meeting waits for the thread that was preempted. Threads with a batch of their own meet once, at the end.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

import torch

Result = TypeVar("Result")

MAX_WORKERS = 8
"""Beyond, batches would push each other's weights out of the cache; each worker gets several threads instead."""

_PENDING_PER_WORKER = 2  # tasks that may be queued or finished before the oldest result is taken


def count_workers(device: torch.device) -> int:
    """How many batches are computed in parallel: on a CPU one for each thread, up to MAX_WORKERS."""
    return min(torch.get_num_threads(), MAX_WORKERS) if device.type == "cpu" else 1


class WorkerPool(Generic[Result]):
    """Runs tasks in `count` threads, or for a count of 1 in the calling thread. As a context: leaving it waits for what
    runs.
    """

    def __init__(self, count: int) -> None:
        self._count, self._threads = count, torch.get_num_threads()
        self._executor: ThreadPoolExecutor | None = None
        self._pending: deque[tuple[Future[Result], Callable[[], None]]] = deque()

    def __enter__(self) -> WorkerPool[Result]:
        if self._count > 1:
            threads_per_worker = max(1, self._threads // self._count)
            self._executor = ThreadPoolExecutor(self._count, "batch", torch.set_num_threads, (threads_per_worker,))
        return self

    def __exit__(self, *error: object) -> None:
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)
            # Some libraries count threads for the whole process, and the workers have set their own number.
            torch.set_num_threads(self._threads)

    def submit(self, task: Callable[[], Result], before_result: Callable[[], None] = lambda: None) -> None:
        """Queue a task. before_result: called right before `results` yields its result."""
        if self._executor is not None:
            self._pending.append((self._executor.submit(_without_gradients, task), before_result))
            return
        future: Future[Result] = Future()
        try:
            future.set_result(_without_gradients(task))
        except Exception as error:
            future.set_exception(error)
        self._pending.append((future, before_result))

    def start(self, task: Callable[[], Result]) -> Future[Result]:
        """Queue a task whose result `results` does not yield; only with several workers."""
        assert self._executor is not None
        return self._executor.submit(_without_gradients, task)

    def results(self, *, wait_for_all: bool = False) -> Iterator[Result]:
        """Results in the order of submission, until few tasks are pending, or none. Raises what a task raised."""
        max_pending = 0 if wait_for_all or self._executor is None else self._count * _PENDING_PER_WORKER
        while len(self._pending) > max_pending:
            future, before_result = self._pending.popleft()
            result = future.result()
            before_result()
            yield result


def _without_gradients(task: Callable[[], Result]) -> Result:
    with torch.inference_mode():  # a setting of each thread
        return task()
