"""A window's requests through the engine, each output logged when it is finished: a killed run resumes there.

Batch-invariant requests (scores; generations too, where the engine says so) are logged one by one. Other generations
depend to the last bit on what is decoded beside them: they run in groups that are the same in every run, and a group is
logged whole or run again whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from lorica.data.journal import OutputLog
from lorica.engines.base import Engine, EngineInfo
from lorica.pipeline.row_timer import RowTimer
from lorica.records import Generate, Output, Request

GENERATION_GROUP = 128
"""Generations of one group: with fewer, more decode steps have few rows, and take as long as steps with many."""


def run_resumable(
    engine: Engine,
    requests: Sequence[Request],
    on_done: Callable[[int], None] | None,
    output_log: OutputLog,
    row_timer: RowTimer,
) -> list[Output]:
    """Outputs in the order of the requests; what `output_log` holds of the same request is not computed again.

    row_timer: whose seconds of finished rows are logged with their outputs. Raises what the engine raises."""

    requests_by_id = {request.id: request for request in requests}

    def add_to_log(outputs: Sequence[Output]) -> None:
        output_requests = [requests_by_id[output.id] for output in outputs]
        output_log.add(output_requests, outputs, [row_timer.take(output.id) for output in outputs])

    logged = {request.id: output for request in requests if (output := output_log.output_of(request)) is not None}
    outputs: dict[int, Output] = {}
    engine_info = engine.info
    for request_group in _request_groups(engine_info, requests):
        group_requests = [requests[request_index] for request_index in request_group]
        if all(request.id in logged for request in group_requests):
            group_outputs = [logged[request.id] for request in group_requests]
            if on_done is not None:
                on_done(len(group_outputs))
        elif engine_info.is_batch_invariant(group_requests[0]):
            group_outputs = _run_batch_invariant(engine, group_requests, on_done, logged, add_to_log)
        else:
            group_outputs = engine.run(group_requests, on_done)
            add_to_log(group_outputs)
        outputs.update(zip(request_group, group_outputs, strict=True))
    return [outputs[request_index] for request_index in range(len(requests))]


def _request_groups(engine_info: EngineInfo, requests: Sequence[Request]) -> Iterator[list[int]]:
    """Indices of batch-invariant requests, of other scores, and of generations in groups of one adapter and of prompts
    with a common prefix."""
    batch_invariant: list[int] = []
    scores: list[int] = []
    generations: list[int] = []
    for request_index, request in enumerate(requests):
        if engine_info.is_batch_invariant(request):
            batch_invariant.append(request_index)
        else:
            (generations if isinstance(request, Generate) else scores).append(request_index)
    generations.sort(key=lambda request_index: (requests[request_index].adapter or "", requests[request_index].prompt))
    starts = range(0, len(generations), GENERATION_GROUP)
    generation_groups = [generations[group_start : group_start + GENERATION_GROUP] for group_start in starts]
    yield from (request_group for request_group in (batch_invariant, scores, *generation_groups) if request_group)


def _run_batch_invariant(
    engine: Engine,
    requests: Sequence[Request],
    on_done: Callable[[int], None] | None,
    logged: Mapping[str, Output],
    add_to_log: Callable[[Sequence[Output]], None],
) -> list[Output]:

    def log_finished(finished: Sequence[tuple[int, Output]]) -> None:
        add_to_log([output for _, output in finished])

    pending = [request for request in requests if request.id not in logged]
    if on_done is not None and len(pending) < len(requests):
        on_done(len(requests) - len(pending))
    new_outputs = iter(engine.run(pending, on_done, log_finished))
    return [logged[request.id] if request.id in logged else next(new_outputs) for request in requests]
