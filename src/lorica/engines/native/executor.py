"""The executor: runs a plan batch by batch, prefills and scores in parallel, generation by continuous batching."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cached_property, partial
from typing import cast

import torch

from lorica.engines.base import Decode, scored
from lorica.engines.batch_timer import BatchTimer
from lorica.engines.native.attention.select import AttentionBackend
from lorica.engines.native.decode import DecodeBatch, FinishedOutputs, PendingSequence
from lorica.engines.native.decode_workers import DecodeGroup, DecodeWorkerPool, count_decode_workers
from lorica.engines.native.memory import out_of_memory_output, split_on_out_of_memory
from lorica.engines.native.model_runner import ModelRunner
from lorica.engines.native.packed_batch import PackedSequence, Prefix
from lorica.engines.native.prefix_cache import PrefixCache, PrefixMatch
from lorica.engines.native.scheduler import Plan, ScheduledBatch, ScheduledRow, schedule_prefills_first
from lorica.engines.native.token_tree import EMPTY_TREE, choice_tree
from lorica.engines.native.worker_pool import WorkerPool, count_workers
from lorica.models.cpu.cpu_decoder import AnyDecoder
from lorica.models.lora import LoraWeights
from lorica.records import Generate, Output, ScoreChoices


@dataclass(frozen=True)
class Executor:
    """What plans are run with.

    adapter_weights: of an adapter by name. cache_tokens: of the KV cache of all decode batches together.
    """

    decoder: AnyDecoder
    backend: AttentionBackend
    prefix_cache: PrefixCache
    adapter_weights: Callable[[str | None], LoraWeights | None]
    cache_tokens: int
    detokenize: Decode | None
    timer: BatchTimer

    @torch.inference_mode()
    def run(self, plan: Plan) -> Iterator[FinishedOutputs]:
        """Yields (index of the request, output) of what each batch, and each decode step, finished."""
        worker_count = count_workers(self.decoder.device)
        rows_to_decode = sum(len(batch.rows) for batch in plan.batches if batch.stage == "generate")
        decode_count = 1
        if Generate in self.backend.batch_invariant:
            decode_count = count_decode_workers(rows_to_decode, torch.get_num_threads(), worker_count)
        decode_batches = [self._decode_batch(self.cache_tokens // decode_count) for _ in range(decode_count)]
        tasks = _PlanTasks(self, plan, ModelRunner(self.decoder, self.backend))
        with WorkerPool[FinishedOutputs](worker_count if decode_count == 1 else decode_count) as workers:
            decode_workers = DecodeWorkerPool(decode_batches, workers)
            for batch in schedule_prefills_first(plan.batches, ahead=worker_count - 1):
                if batch.stage == "prefill":
                    workers.submit(tasks.prefill(batch))
                elif batch.stage == "score":
                    workers.submit(tasks.score(batch), partial(tasks.release, batch))
                elif decode_count > 1:
                    group = tasks.decode(batch)
                    tasks.release(batch)
                    yield from decode_workers.submit(group)
                else:
                    yield from workers.results(wait_for_all=True)
                    yield from _admit(decode_batches[0], tasks.decode(batch))
                    # Sequences that are being decoded hold on to their prefix themselves.
                    tasks.release(batch)
                yield from workers.results()
            yield from decode_workers.drain()
            yield from workers.results(wait_for_all=True)
        for decode_batch in decode_batches:
            while decode_batch.busy:
                yield decode_batch.decode_step()

    def _decode_batch(self, cache_tokens: int) -> DecodeBatch:
        return DecodeBatch(
            self.decoder,
            self.backend,
            cache_tokens=cache_tokens,
            detokenize=self.detokenize,
            evict=self.prefix_cache.evict_all,
            timer=self.timer,
        )


class _PlanTasks:
    """The tasks of a plan's batches, and the prefixes that are computed so far."""

    def __init__(self, executor: Executor, plan: Plan, model_runner: ModelRunner) -> None:
        self._executor, self._plan, self._model_runner = executor, plan, model_runner
        # By node; None where a prefix does not fit into memory even alone: the rows behind it fail.
        self._prefixes: dict[int, Future[Prefix | None]] = {}

    def release(self, batch: ScheduledBatch) -> None:
        """Let go of the prefixes that no later batch needs."""
        for node in batch.release:
            del self._prefixes[node]

    def prefill(self, batch: ScheduledBatch) -> Callable[[], FinishedOutputs]:
        """The task that computes prefixes, or takes them from the prefix cache."""
        executor, cache = self._executor, self._executor.prefix_cache
        matches = cache.match(self._plan, batch.nodes)
        parents = [self._prefixes.get(match.node.parent) for match in matches]
        missing_nodes = [node for node, match in zip(batch.nodes, matches, strict=True) if match.cached is None]
        futures: list[Future[Prefix | None]] = [Future() for _ in matches]
        self._prefixes.update(zip(batch.nodes, futures, strict=True))

        def compute(missing: Sequence[PrefixMatch], parents: Sequence[Prefix | None]) -> list[Prefix | None]:
            sequences = [
                PackedSequence(match.node.tokens, parent, executor.adapter_weights(match.node.adapter))
                for match, parent in zip(missing, parents, strict=True)
            ]
            return split_on_out_of_memory(self._model_runner.prefill, sequences, lambda _: None, evict=cache.evict_all)

        def task() -> FinishedOutputs:
            try:
                computable = [index for index, parent in enumerate(parents) if not _is_out_of_memory(parent)]
                computed_parents = [_result(parents[index]) for index in computable]
                with executor.timer.batch(self._prefix_tokens(missing_nodes)):
                    prefixes = cache.get_or_compute(
                        [matches[index] for index in computable],
                        computed_parents,
                        compute,
                        store=ScoreChoices in executor.backend.batch_invariant,
                    )
                prefix_of = dict(zip(computable, prefixes, strict=True))
                for index, future in enumerate(futures):
                    future.set_result(prefix_of.get(index))
            except BaseException as error:
                for future in futures:  # tasks that wait for these must not wait for ever
                    if not future.done():
                        future.set_exception(error)
                raise
            return []

        return task

    def score(self, batch: ScheduledBatch) -> Callable[[], FinishedOutputs]:
        """The task that scores the choices of rows."""
        prefixes = [self._prefixes.get(row.node) for row in batch.rows]

        def score(rows: Sequence[tuple[PackedSequence, ScoreChoices]]) -> list[Output]:
            sequences, requests = zip(*rows, strict=True)
            with self._executor.timer.batch({request.id: seq.length for seq, request in rows}):
                logprobs = self._model_runner.score(sequences, requests)
            return [scored(request, values) for request, values in zip(requests, logprobs, strict=True)]

        def task() -> FinishedOutputs:
            computable, failed_outputs = self._sequences(batch, prefixes)
            rows = [(seq, cast(ScoreChoices, self._plan.requests[index])) for index, seq in computable]
            outputs = split_on_out_of_memory(
                score, rows, lambda row: out_of_memory_output(row[1]), evict=self._executor.prefix_cache.evict_all
            )
            finished = [(index, output) for (index, _), output in zip(computable, outputs, strict=True)]
            return finished + failed_outputs

        return task

    def decode(self, batch: ScheduledBatch) -> DecodeGroup:
        """The rows to decode."""
        prefixes = [self._prefixes.get(row.node) for row in batch.rows]

        def group() -> tuple[list[PendingSequence], FinishedOutputs]:
            computable, failed_outputs = self._sequences(batch, prefixes)
            requests = self._plan.requests
            pending = [PendingSequence(index, seq, cast(Generate, requests[index])) for index, seq in computable]
            return pending, failed_outputs

        return group

    @cached_property
    def _rows_below(self) -> Mapping[int, Sequence[str]]:
        """Prefix node -> ids of the requests whose prompts begin with it."""
        rows_below = defaultdict(list)
        for row in (row for batch in self._plan.batches for row in batch.rows):
            node = row.node
            while node >= 0:
                rows_below[node].append(self._plan.requests[row.request_index].id)
                node = self._plan.nodes[node].parent
        return rows_below

    def _prefix_tokens(self, nodes: Sequence[int]) -> dict[str, float]:
        """The tokens of prefix nodes, shared out among the requests below each."""
        tokens: dict[str, float] = defaultdict(float)
        for node in nodes:
            row_ids = self._rows_below[node]
            for row_id in row_ids:
                tokens[row_id] += len(self._plan.nodes[node].tokens) / len(row_ids)
        return tokens

    def _sequences(
        self, batch: ScheduledBatch, prefixes: Sequence[Future[Prefix | None] | None]
    ) -> tuple[list[tuple[int, PackedSequence]], FinishedOutputs]:
        """The suffix of each row, or its output where its prefix ran out of memory, with the index of its request."""
        computable, failed_outputs = [], []
        for row, prefix in zip(batch.rows, prefixes, strict=True):
            if _is_out_of_memory(prefix):
                failed_outputs.append((row.request_index, out_of_memory_output(self._plan.requests[row.request_index])))
            else:
                computable.append((row.request_index, self._suffix(row, _result(prefix))))
        return computable, failed_outputs

    def _suffix(self, row: ScheduledRow, prefix: Prefix | None) -> PackedSequence:
        request = self._plan.requests[row.request_index]
        return PackedSequence(
            request.prompt[row.prefix_length :],
            prefix,
            self._executor.adapter_weights(request.adapter),
            choice_tree(request.choices) if isinstance(request, ScoreChoices) else EMPTY_TREE,
        )


def _admit(decode_batch: DecodeBatch, group: DecodeGroup) -> Iterator[FinishedOutputs]:
    """Decode until the group fits into the batch, then prefill it."""
    pending, failed_outputs = group()
    if failed_outputs:
        yield failed_outputs
    while not decode_batch.fits(pending):
        yield decode_batch.decode_step()
    yield decode_batch.prefill(pending)


def _is_out_of_memory(prefix: Future[Prefix | None] | None) -> bool:
    return prefix is not None and prefix.result() is None


def _result(prefix: Future[Prefix | None] | None) -> Prefix | None:
    return None if prefix is None else prefix.result()
