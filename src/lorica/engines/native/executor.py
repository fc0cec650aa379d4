"""A plan, executed batch by batch: beginnings and scores side by side, texts token by token."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch

from lorica.engines.base import Decode, failed
from lorica.engines.native.decode import Finished, Generation, Waiting
from lorica.engines.native.decode_workers import Group, Lanes, count_lanes
from lorica.engines.native.memory import in_halves, too_large
from lorica.engines.native.model_runner import Passes
from lorica.engines.native.packed_batch import Piece, Prefix
from lorica.engines.native.prefix_cache import Beginnings, Wanted
from lorica.engines.native.scheduler import Batch, Plan, PlannedRow, beginnings_first
from lorica.engines.native.token_tree import NO_BRANCHES, branches_of
from lorica.engines.native.workers import Workers, count_workers
from lorica.models.cpu.decoder import AnyDecoder
from lorica.models.lora import LoraWeights
from lorica.records import Choose, Generate, Output


@dataclass(frozen=True)
class Execution:
    """What a plan is executed with.

    adapter_of: the weights of an adapter that is asked for. cache_tokens: of rows that are continued. repeats: whether
    beginnings and scores depend on no other row, repeats_texts: whether texts do not.
    """

    decoder: AnyDecoder
    beginnings: Beginnings
    adapter_of: Callable[[str | None], LoraWeights | None]
    cache_tokens: int
    decode: Decode | None
    repeats: bool
    repeats_texts: bool

    @torch.inference_mode()
    def run(self, plan: Plan) -> Iterator[Finished]:
        """Yields (index of the request, output) of what each batch, and each step of generation, finished."""
        count = count_workers(self.decoder.device)
        rows = sum(len(batch.rows) for batch in plan.batches if batch.kind == "generate")
        beside = count_lanes(rows, torch.get_num_threads(), count) if self.repeats_texts else 1
        generations = [self._generation(beside) for _ in range(beside)]
        work = _Work(self, plan, Passes(self.decoder, deterministic=self.repeats))
        with Workers[Finished](count if beside == 1 else beside) as workers:
            lanes = Lanes(generations, workers)
            for batch in beginnings_first(plan.batches, ahead=count - 1):
                if batch.kind == "prefix":
                    workers.submit(work.to_compute(batch))
                elif batch.kind == "choose":
                    workers.submit(work.to_score(batch), partial(work.forget, batch))
                elif beside > 1:
                    group = work.to_continue(batch)
                    work.forget(batch)
                    yield from lanes.join(group)
                else:
                    yield from workers.finished(all_of_it=True)
                    yield from _join(generations[0], work.to_continue(batch))
                    # Rows that are still being continued hold on to their prefix themselves.
                    work.forget(batch)
                yield from workers.finished()
            yield from lanes.finish()
            yield from workers.finished(all_of_it=True)
        for generation in generations:
            while generation.busy:
                yield generation.step()

    def _generation(self, beside: int) -> Generation:
        return Generation(
            self.decoder,
            cache_tokens=self.cache_tokens // beside,
            decode=self.decode,
            deterministic=self.repeats_texts,
            give_up=self.beginnings.give_up,
        )


class _TooLargeError(MemoryError):
    """There is not enough memory for a beginning, even alone: the rows behind it fail."""


class _Work:
    """What is to be done for the batches of a plan, and the beginnings that were computed so far."""

    def __init__(self, given: Execution, plan: Plan, passes: Passes) -> None:
        self._given, self._plan, self._passes = given, plan, passes
        self._computed: dict[int, Future[Prefix]] = {}

    def forget(self, batch: Batch) -> None:
        """Let go of the beginnings that no later batch needs."""
        for index in batch.release:
            del self._computed[index]

    def to_compute(self, batch: Batch) -> Callable[[], Finished]:
        """Compute shared beginnings, or find them among those that are kept."""
        given, passes = self._given, self._passes
        wanted = given.beginnings.look_up(self._plan, batch.segments)
        parents = [self._computed.get(one.segment.parent) for one in wanted]
        promised: list[Future[Prefix]] = [Future() for _ in wanted]
        self._computed.update(zip(batch.segments, promised, strict=True))

        def read(missing: Sequence[Wanted], before: Sequence[Prefix | None]) -> list[Prefix | None]:
            pieces = [
                Piece(one.segment.tokens, parent, given.adapter_of(one.segment.adapter))
                for one, parent in zip(missing, before, strict=True)
            ]
            return in_halves(passes.read, pieces, lambda _: None, give_up=given.beginnings.give_up)

        def work() -> Finished:
            try:
                able = [number for number, parent in enumerate(parents) if not _lacks(parent)]
                before = [_kept(parents[number]) for number in able]
                found = given.beginnings.complete([wanted[number] for number in able], before, read, keep=given.repeats)
                prefixes = dict(zip(able, found, strict=True))
                for number, promise in enumerate(promised):
                    prefix = prefixes.get(number)
                    if prefix is None:
                        promise.set_exception(_TooLargeError())
                    else:
                        promise.set_result(prefix)
            except BaseException as error:
                for promise in promised:  # whoever waits for them must not wait for ever
                    if not promise.done():
                        promise.set_exception(error)
                raise
            return []

        return work

    def to_score(self, batch: Batch) -> Callable[[], Finished]:
        """Score rows."""
        prefixes = self._prefixes(batch)

        def score(part: Sequence[tuple[Piece, Choose]]) -> list[Output]:
            pieces, requests = zip(*part, strict=True)
            found = self._passes.score(pieces, requests)
            return [_scored(request, values) for request, values in zip(requests, found, strict=True)]

        def work() -> Finished:
            able, refused = self._pieces(batch, prefixes)
            asked = [(piece, cast(Choose, self._plan.requests[index])) for index, piece in able]
            outputs = in_halves(score, asked, lambda one: too_large(one[1]), give_up=self._given.beginnings.give_up)
            return [*((index, output) for (index, _), output in zip(able, outputs, strict=True)), *refused]

        return work

    def to_continue(self, batch: Batch) -> Group:
        """Rows whose texts are wanted."""
        prefixes = self._prefixes(batch)

        def rows() -> tuple[list[Waiting], Finished]:
            able, refused = self._pieces(batch, prefixes)
            return [Waiting(index, piece, cast(Generate, self._plan.requests[index])) for index, piece in able], refused

        return rows

    def _pieces(
        self, batch: Batch, prefixes: Sequence[Future[Prefix] | None]
    ) -> tuple[list[tuple[int, Piece]], Finished]:
        """Of each request: what is to be computed, or the output where there was no memory for its beginning."""
        able, refused = [], []
        for row, prefix in zip(batch.rows, prefixes, strict=True):
            if _lacks(prefix):
                refused.append((row.request, too_large(self._plan.requests[row.request])))
            else:
                able.append((row.request, self._piece(row, _kept(prefix))))
        return able, refused

    def _prefixes(self, batch: Batch) -> list[Future[Prefix] | None]:
        return [self._computed.get(row.segment) for row in batch.rows]

    def _piece(self, row: PlannedRow, prefix: Prefix | None) -> Piece:
        request = self._plan.requests[row.request]
        return Piece(
            request.prompt[row.start :],
            prefix,
            self._given.adapter_of(request.adapter),
            branches_of(request.choices) if isinstance(request, Choose) else NO_BRANCHES,
        )


def _join(generation: Generation, group: Group) -> Iterator[Finished]:
    rows, refused = group()
    if refused:
        yield refused
    while not generation.fits(rows):
        yield generation.step()
    yield generation.admit(rows)


def _lacks(promised: Future[Prefix] | None) -> bool:
    return promised is not None and isinstance(promised.exception(), _TooLargeError)


def _kept(promised: Future[Prefix] | None) -> Prefix | None:
    return None if promised is None else promised.result()


def _scored(request: Choose, values: Sequence[float]) -> Output:
    if any(math.isnan(value) for value in values):
        return failed(request, "the model's output is not a number (NaN): weights or precision are broken")
    return Output(id=request.id, logprobs=tuple(values))
