"""Requests answered batch by batch, in their order: what an engine does whose outputs depend on one request each."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lorica.engines.base import OnDone, OnOutputs
from lorica.engines.batch_timer import BatchTimer
from lorica.records import Output, Request


def answer_in_order(
    requests: Sequence[Request],
    answer: Callable[[Sequence[Request]], list[Output]],
    *,
    batch_rows: int,
    timer: BatchTimer,
    on_done: OnDone | None,
    on_outputs: OnOutputs | None,
) -> list[Output]:
    """The outputs of all requests. answer: a batch of at most `batch_rows` requests -> their outputs, in their order.
    on_done, on_outputs: see `Engine.run`."""
    outputs: list[Output] = []
    for start in range(0, len(requests), batch_rows):
        batch = requests[start : start + batch_rows]
        with timer.batch({request.id: len(request.prompt) for request in batch}):
            batch_outputs = answer(batch)
        outputs += batch_outputs
        if on_outputs is not None:
            on_outputs(list(enumerate(batch_outputs, start)))
        if on_done is not None:
            on_done(len(batch_outputs))
    return outputs
