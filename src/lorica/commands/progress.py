"""Progress of long work on standard error: a bar for a person, a line now and then for a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_LINE_EVERY = 30.0  # seconds, where standard error is no terminal


@contextmanager
def row_progress(total: int | None, things: str = "rows") -> Iterator[Callable[[int], None]]:
    """Yield a function that is told how many further rows, or other things, are done."""
    if not sys.stderr.isatty():
        yield _lines(total, things)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn(things),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    started = time.perf_counter()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(things, total=total, rate="")

        def advance(count: int) -> None:
            bar.advance(task, count)
            done = bar.tasks[0].completed
            bar.update(task, rate=f"{done / max(time.perf_counter() - started, 1e-9):.1f} {things}/s")

        yield advance


def _lines(total: int | None, things: str) -> Callable[[int], None]:
    done = 0
    said = time.perf_counter()

    def advance(count: int) -> None:
        nonlocal done, said
        done += count
        if time.perf_counter() - said >= _LINE_EVERY:
            said = time.perf_counter()
            print(f"{done} of {total} {things}" if total else f"{done} {things}", file=sys.stderr, flush=True)

    return advance
