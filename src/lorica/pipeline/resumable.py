"""A window's requests through the engine, each part kept as it is finished, so that an interruption costs one part.

Of repeatable requests (scores; texts too, where the engine says so) whatever the engine has finished is kept. Elsewhere
a text depends on its company to the last bit, for rows that are continued together share the products of each step:
such texts are asked in groups that are the same in every run, and a group is kept whole or asked again whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from lorica.data.journal import OutputLog
from lorica.engines.base import Engine, EngineInfo
from lorica.records import Generate, Output, Request

GENERATION_GROUP = 128
"""Texts of one group: fewer would leave more steps with few rows, which take as long as steps with many."""


def run_resumable(
    engine: Engine, requests: Sequence[Request], on_done: Callable[[int], None] | None, log: OutputLog
) -> list[Output]:
    """The outputs in the order of the requests; what `log` knows is not asked again. Raises what the engine raises."""
    outputs: dict[int, Output] = {}
    info = engine.info
    for group in _groups(info, requests):
        asked = [requests[index] for index in group]
        if all(request.id in log.outputs_by_id for request in asked):
            found = [log.outputs_by_id[request.id] for request in asked]
            if on_done is not None:
                on_done(len(found))
        elif info.is_batch_invariant(asked[0]):
            found = _run_repeatable(engine, asked, on_done, log)
        else:
            found = engine.run(asked, on_done)
            log.add(found)
        outputs.update(zip(group, found, strict=True))
    return [outputs[index] for index in range(len(requests))]


def _groups(info: EngineInfo, requests: Sequence[Request]) -> Iterator[list[int]]:
    """Repeatable requests, other questions, and texts: those of one adapter, and prompts that begin alike, together."""
    repeatable: list[int] = []
    questions: list[int] = []
    texts: list[int] = []
    for index, request in enumerate(requests):
        if info.is_batch_invariant(request):
            repeatable.append(index)
        else:
            (texts if isinstance(request, Generate) else questions).append(index)
    texts.sort(key=lambda index: (requests[index].adapter or "", requests[index].prompt))
    parts = [texts[start : start + GENERATION_GROUP] for start in range(0, len(texts), GENERATION_GROUP)]
    yield from (group for group in (repeatable, questions, *parts) if group)


def _run_repeatable(
    engine: Engine, requests: Sequence[Request], on_done: Callable[[int], None] | None, log: OutputLog
) -> list[Output]:
    known = {request.id for request in requests if request.id in log.outputs_by_id}
    left = [request for request in requests if request.id not in known]
    if on_done is not None and known:
        on_done(len(known))

    def keep(finished: Sequence[tuple[int, Output]]) -> None:
        log.add([output for _, output in finished])

    fresh = iter(engine.run(left, on_done, keep))
    return [log.outputs_by_id[request.id] if request.id in known else next(fresh) for request in requests]
