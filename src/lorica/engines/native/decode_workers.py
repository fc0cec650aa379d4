"""Rows continued by several threads side by side, where no bit depends on who is continued together.

As with batches (`workers.py`): threads that share every operation wait for each other all the time, and on a machine
that does other work for whoever was set aside. A lane is a `Generation` in a thread of its own. Steps are filled up to
whole blocks of rows, so lanes hand each other rows when together they would be filled up with less.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait

from lorica.engines.native.decode import Finished, Generation, Waiting
from lorica.engines.native.packed_batch import ALIGNMENT
from lorica.engines.native.workers import Workers

Group = Callable[[], tuple[list[Waiting], Finished]]
"""Rows that are to be continued, once what they begin with is computed, and those for which there was no memory."""

_PER_THREAD = 2  # rows of a lane for each thread of the machine: with fewer, memory is what all lanes wait for


def count_lanes(rows: int, threads: int, workers: int) -> int:
    """How many lanes suit so many rows on a machine of so many threads."""
    return max(1, min(workers, rows // max(ALIGNMENT, _PER_THREAD * threads)))


class Lanes:
    """generations: one for each worker."""

    def __init__(self, generations: Sequence[Generation], workers: Workers[Finished]) -> None:
        self._lanes = [_Lane(each) for each in generations]
        self._workers = workers
        self._waiting: deque[Group] = deque()
        self._running: dict[Future[Finished], _Lane] = {}

    def join(self, group: Group) -> Iterator[Finished]:
        """Have rows continued; goes on with those that are there until a lane takes them."""
        self._waiting.append(group)
        self._start()
        while self._waiting:
            yield from self._next()
            self._start()

    def finish(self) -> Iterator[Finished]:
        """Continue until at most one lane has rows left, which then go faster in all threads together."""
        while True:
            if self._may_go_on():
                self._start()
            if not self._running:
                return
            yield from self._next()

    def _may_go_on(self) -> bool:
        """Whether no lane must wait for others, so that they can hand over rows, or has the only rows left."""
        if any(lane.group for lane in self._lanes):
            return True
        generations = [lane.generation for lane in self._lanes]
        if _uneven([each.rows for each in generations]):
            if self._running:
                return False
            _even_out(generations)
        return sum(each.busy for each in generations) > 1

    def _start(self) -> None:
        resting = set(self._lanes) - set(self._running.values())
        for lane in self._lanes:
            if lane not in resting:
                continue
            if lane.group is None and self._waiting:
                lane.group = self._waiting.popleft()
            if lane.busy:
                self._running[self._workers.start(lane.turn)] = lane

    def _next(self) -> Iterator[Finished]:
        done, _ = wait(self._running, return_when=FIRST_COMPLETED)
        for future in done:
            del self._running[future]
            yield future.result()


class _Lane:
    """A generation, and the rows that join it next."""

    def __init__(self, generation: Generation) -> None:
        self.generation = generation
        self.group: Group | None = None

    @property
    def busy(self) -> bool:
        return self.group is not None or self.generation.busy

    def turn(self) -> Finished:
        """Have the next rows join if there is room, or continue those that are there by a token."""
        if self.group is not None:
            rows, refused = self.group()
            if self.generation.fits(rows):
                self.group = None
                return [*refused, *self.generation.admit(rows)]
        return self.generation.step()


def _uneven(rows: Sequence[int]) -> bool:
    """Whether lanes of so many rows are filled up more than need be, or one has two blocks more than another."""
    blocks = [-(-each // ALIGNMENT) for each in rows]
    return sum(blocks) > -(-sum(rows) // ALIGNMENT) or max(blocks) > min(blocks) + 1


def _even_out(generations: Sequence[Generation]) -> None:
    """Spread the rows so that at most one block is not full, which weighs least where there are most: as far as there
    is room for them.
    """
    ordered = sorted(generations, key=lambda each: -each.rows)
    rows = sum(each.rows for each in ordered)
    whole, more = divmod(-(-rows // ALIGNMENT), len(ordered))
    wanted = [ALIGNMENT * (whole + (number < more)) for number in range(len(ordered))]
    wanted[0] -= sum(wanted) - rows
    for source, most in zip(ordered, wanted, strict=True):
        for target, room in zip(ordered, wanted, strict=True):
            if source.rows > most and target.rows < room:
                source.hand_over(min(source.rows - most, room - target.rows), target)
