"""Progress of long work on standard error: a bar for a person, a line now and then for a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from lorica.streams import progress_bar

_LINE_EVERY = 30.0  # seconds, where standard error is no terminal


@contextmanager
def row_progress(total: int | None, unit: str = "rows") -> Iterator[Callable[[int], None]]:
    """Yield a function that is told how many further rows, or other units, are done."""
    if not sys.stderr.isatty():
        yield _lines(total, unit)
        return
    started = time.perf_counter()
    with progress_bar(sys.stderr, transient=True) as bar:
        task = bar.add_task(unit, total=total, detail="")

        def advance(count: int) -> None:
            bar.advance(task, count)
            done = bar.tasks[0].completed
            bar.update(task, detail=f"{done / max(time.perf_counter() - started, 1e-9):.1f} {unit}/s")

        yield advance


def _lines(total: int | None, unit: str) -> Callable[[int], None]:
    done = 0
    last_line = time.perf_counter()

    def advance(count: int) -> None:
        nonlocal done, last_line
        done += count
        if time.perf_counter() - last_line >= _LINE_EVERY:
            last_line = time.perf_counter()
            print(f"{done} of {total} {unit}" if total else f"{done} {unit}", file=sys.stderr, flush=True)

    return advance
