"""Continuous batching in several threads: decode workers, each with a decode batch of its own.

As with other batches (`worker_pool.py`), threads that share every operation wait for each other all the time. Where
texts are batch-invariant, no bit depends on which sequences are decoded together. Decode steps are padded to whole
blocks of rows, so sequences migrate between workers when that leaves less padding.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait

from lorica.engines.native.decode import DecodeBatch, FinishedOutputs, PendingSequence
from lorica.engines.native.packed_batch import ROW_ALIGNMENT
from lorica.engines.native.worker_pool import WorkerPool

DecodeGroup = Callable[[], tuple[list[PendingSequence], FinishedOutputs]]
"""Gives sequences to decode, once their prefixes are computed, and the outputs of those that ran out of memory."""

_ROWS_PER_THREAD = 2  # of a worker, for each thread of the machine: with fewer, all workers wait for memory


def count_decode_workers(rows: int, threads: int, max_workers: int) -> int:
    """How many decode workers suit so many rows on a machine with so many threads."""
    return max(1, min(max_workers, rows // max(ROW_ALIGNMENT, _ROWS_PER_THREAD * threads)))


class DecodeWorkerPool:
    """Decode workers over some decode batches, each of which runs in a thread of `threads`."""

    def __init__(self, batches: Sequence[DecodeBatch], threads: WorkerPool[FinishedOutputs]) -> None:
        self._workers = [DecodeWorker(batch) for batch in batches]
        self._threads = threads
        self._queue: deque[DecodeGroup] = deque()
        self._running: dict[Future[FinishedOutputs], DecodeWorker] = {}

    def submit(self, group: DecodeGroup) -> Iterator[FinishedOutputs]:
        """Queue sequences to decode; yields outputs until a worker takes them."""
        self._queue.append(group)
        self._start_idle_workers()
        while self._queue:
            yield from self._next_outputs()
            self._start_idle_workers()

    def drain(self) -> Iterator[FinishedOutputs]:
        """Decode until at most one worker has sequences left: all threads together decode these faster."""
        while True:
            if self._may_continue():
                self._start_idle_workers()
            if not self._running:
                return
            yield from self._next_outputs()

    def _may_continue(self) -> bool:
        """Whether idle workers may start: not while they wait for running ones, to rebalance, nor for the last one."""
        if any(worker.group for worker in self._workers):
            return True
        batches = [worker.batch for worker in self._workers]
        if _needs_rebalancing([batch.rows for batch in batches]):
            if self._running:
                return False
            _rebalance(batches)
        return sum(batch.busy for batch in batches) > 1

    def _start_idle_workers(self) -> None:
        running = set(self._running.values())
        for worker in self._workers:
            if worker in running:
                continue
            if worker.group is None and self._queue:
                worker.group = self._queue.popleft()
            if worker.busy:
                self._running[self._threads.start(worker.advance)] = worker

    def _next_outputs(self) -> Iterator[FinishedOutputs]:
        done, _ = wait(self._running, return_when=FIRST_COMPLETED)
        for future in done:
            del self._running[future]
            yield future.result()


class DecodeWorker:
    """A decode batch, and the group that joins it next."""

    def __init__(self, batch: DecodeBatch) -> None:
        self.batch = batch
        self.group: DecodeGroup | None = None

    @property
    def busy(self) -> bool:
        """Whether there is anything to do."""
        return self.group is not None or self.batch.busy

    def advance(self) -> FinishedOutputs:
        """Prefill the waiting group if it fits, or else do one decode step."""
        if self.group is not None:
            pending, failed_outputs = self.group()
            if self.batch.fits(pending):
                self.group = None
                return [*failed_outputs, *self.batch.prefill(pending)]
        return self.batch.decode_step()


def _needs_rebalancing(rows: Sequence[int]) -> bool:
    """Whether batches of so many rows have more padding than need be, or one has two blocks more than another."""
    blocks = [-(-count // ROW_ALIGNMENT) for count in rows]
    return sum(blocks) > -(-sum(rows) // ROW_ALIGNMENT) or max(blocks) > min(blocks) + 1


def _rebalance(batches: Sequence[DecodeBatch]) -> None:
    """Migrate sequences, as far as there is room, so that at most one block is padded: one of the largest batch, where
    padding weighs least.
    """
    largest_first = sorted(batches, key=lambda batch: -batch.rows)
    rows = sum(batch.rows for batch in largest_first)
    blocks, extra_blocks = divmod(-(-rows // ROW_ALIGNMENT), len(largest_first))
    targets = [ROW_ALIGNMENT * (blocks + (index < extra_blocks)) for index in range(len(largest_first))]
    targets[0] -= sum(targets) - rows
    for source, source_rows in zip(largest_first, targets, strict=True):
        for target, target_rows in zip(largest_first, targets, strict=True):
            if source.rows > source_rows and target.rows < target_rows:
                source.migrate_to(target, min(source.rows - source_rows, target_rows - target.rows))
