"""Progress of long work on standard error: a bar for a person, a line now and then for a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from lorica.streams import progress_bar

_LINE_EVERY = 30.0  # seconds, where standard error is no terminal


@contextmanager
def row_progress(unit_count: int | None, unit_name: str = "rows") -> Iterator[Callable[[int], None]]:
    """Yield a function that is told how many further rows, or other units, are done."""
    if not sys.stderr.isatty():
        yield _lines(unit_count, unit_name)
        return
    started = time.perf_counter()
    with progress_bar(sys.stderr, transient=True) as bar:
        task_id = bar.add_task(unit_name, total=unit_count, detail="")

        def advance(count: int) -> None:
            bar.advance(task_id, count)
            done = bar.tasks[0].completed
            bar.update(task_id, detail=f"{done / max(time.perf_counter() - started, 1e-9):.1f} {unit_name}/s")

        yield advance


def _lines(unit_count: int | None, unit_name: str) -> Callable[[int], None]:
    done = 0
    last_line = time.perf_counter()

    def advance(count: int) -> None:
        nonlocal done, last_line
        done += count
        if time.perf_counter() - last_line >= _LINE_EVERY:
            last_line = time.perf_counter()
            count_text = f"{done} of {unit_count}" if unit_count else f"{done}"
            print(f"{count_text} {unit_name}", file=sys.stderr, flush=True)

    return advance
