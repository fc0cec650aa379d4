"""Rows answered by adapters that were chosen beforehand, through a journal: out-of-fold scores, folds side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby, islice

from lorica.data.journal import Journal
from lorica.pipeline.answer import Pipeline
from lorica.records import Answer, Row


def answer_by_adapter(
    pipeline: Pipeline,
    requested: Sequence[tuple[str, Row]],
    journal: Journal,
    *,
    window_rows: int,
    on_done: Callable[[int], None],
) -> list[tuple[str, Answer]]:
    """(adapter, its answer) for each (adapter, row) of `requested`, in their order. What the journal holds already is
    not computed again; nothing that a kill leaves there is lost. Raises what `Pipeline.answer` raises."""
    on_done(journal.done)
    for adapter_name, window in _windows(requested[journal.done :], window_rows):
        journal.commit(*pipeline.fixed_to(adapter_name).answer_timed(window, on_done, journal.outputs()))
    names = (adapter_name for adapter_name, _ in requested)
    return list(zip(names, journal.answers(), strict=True))


def _windows(requested: Sequence[tuple[str, Row]], window_rows: int) -> Iterator[tuple[str, list[Row]]]:
    """Rows of one adapter, at most `window_rows` at a time."""
    for adapter_name, pairs in groupby(requested, key=lambda pair: pair[0]):
        rows = (row for _, row in pairs)
        while window := list(islice(rows, window_rows)):
            yield adapter_name, window
