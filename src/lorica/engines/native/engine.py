"""The native engine: plan -> run -> commit."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import cast

import torch

from lorica.adapters.folder import open_adapter
from lorica.engines.base import (
    Decode,
    EngineSettings,
    OnDone,
    OnOutputs,
    check_adapters,
    failed,
    find_problem,
    not_there,
)
from lorica.engines.native import merging
from lorica.engines.native.beginnings import Beginnings, Wanted
from lorica.engines.native.block import goes_by_products, has_fast_kernel
from lorica.engines.native.branches import NO_BRANCHES, branches_of
from lorica.engines.native.generate import Finished, Generation, Waiting
from lorica.engines.native.load import load_for, load_stored
from lorica.engines.native.memory import free_memory, in_halves, tokens_that_fit
from lorica.engines.native.pack import Piece, Prefix
from lorica.engines.native.passes import Passes
from lorica.engines.native.plan import Batch, Plan, PlannedRow, beginnings_first, make_plan
from lorica.engines.native.varlen import fits_varlen
from lorica.engines.native.workers import Workers, count_workers
from lorica.errors import EngineError
from lorica.models.adapter_weights import load_lora
from lorica.models.decoder import Decoder
from lorica.models.fast import AnyDecoder, FastDecoder
from lorica.models.lora import LoraWeights
from lorica.models.merging import merge, restore
from lorica.models.quantised import quantised
from lorica.records import Choose, Generate, Output, Request

_CACHE_PER_BATCH = 4  # tokens that rows under continuation may hold, in units of batch_tokens


class NativeEngine:
    """Lorica's own decoder with any number of adapters, mixed freely in one batch.

    batch_tokens: tokens of one forward pass, the memory budget. share_prefixes: compute what prompts of one
    adapter have in common at their beginning only once. deterministic: on a CPU, the bits of a row's scores depend on
    nothing but the row, its adapter and the base. merge: see `EngineSettings`. stored: the base anew, as its files have
    it; without that nothing is merged.
    """

    def __init__(
        self,
        decoder: AnyDecoder,
        *,
        batch_tokens: int = 4096,
        share_prefixes: bool = True,
        deterministic: bool = True,
        merge: merging.Merge = "auto",
        stored: Callable[[], Decoder] | None = None,
    ) -> None:
        if batch_tokens < 1:
            raise EngineError(f"batch_tokens is {batch_tokens}; at least 1 is needed", fix="try batch_tokens=4096")
        self._decoder = decoder
        self._batch_tokens = batch_tokens
        self._share_prefixes = share_prefixes
        self._deterministic = deterministic
        self._passes = Passes(decoder, deterministic=self._repeats())
        self._adapters: dict[str, LoraWeights] = {}
        self._digests: dict[str, str] = {}
        self._merge, self._stored = merge, stored
        self._merged: str | None = None
        self._decode: Decode | None = None
        self._beginnings = Beginnings()

    def add_adapter(self, name: str, folder: Path) -> None:
        """Load an adapter under a name; the same adapter again changes nothing.

        Raises AdapterError for a folder that cannot be used on this base, EngineError when another adapter
        has the name.
        """
        opened = open_adapter(folder)
        if self._digests.setdefault(name, opened.digest) != opened.digest:
            raise EngineError(f"the adapter name {name!r} is taken by another adapter than {folder}")
        if name not in self._adapters:
            decoder = self._decoder
            try:
                weights = load_lora(
                    name, opened, decoder.config, dtype=decoder.dtype, device=decoder.device, keep_narrow=True
                )
            except BaseException:
                del self._digests[name]
                raise
            self._adapters[name] = weights

    def remove_adapter(self, name: str) -> None:
        """Forget an adapter and free its memory. Raises EngineError for one that was never added."""
        if name not in self._adapters:
            raise not_there(name, self._adapters)
        if self._merged == name:
            self._restore()
        del self._adapters[name]
        del self._digests[name]
        self._beginnings.drop(name)
        if isinstance(self._decoder, FastDecoder):
            self._decoder.forget_adapters()

    def describe(self) -> dict[str, str]:
        """What decides the results and the speed."""
        decoder = self._decoder
        repeats = self._repeats()
        by_products = repeats and goes_by_products(torch.empty(0, dtype=decoder.dtype))
        compiled = self._compiled()
        return {
            "engine": "native",
            "family": decoder.config.family,
            "dtype": _precision(decoder),
            "device": str(decoder.device),
            "threads": str(torch.get_num_threads()),
            "batch_tokens": str(self._batch_tokens),
            "share_prefixes": str(self._share_prefixes).lower(),
            "deterministic": str(repeats).lower(),
            "kernels": "compiled" if compiled else "torch",
            "attention": "compiled" if compiled else "products" if by_products else _attention(decoder),
            "merged": self._merged or "none",
            "torch": str(torch.__version__),
        }

    def repeatable(self, request: Request) -> bool:
        """Where `deterministic` holds: scores are, and texts beside the compiled kernels. Elsewhere attention of a step
        rounds by the rows that are continued together.
        """
        return self._repeats() and (isinstance(request, Choose) or self._compiled())

    def _compiled(self) -> bool:
        return isinstance(self._decoder, FastDecoder) and self._decoder.compiled

    def _repeats(self) -> bool:
        return self._deterministic and self._decoder.device.type == "cpu"

    def read_text_with(self, decode: Decode) -> None:
        """See `ReadingEngine`."""
        self._decode = decode

    def settle(self, uses: Mapping[str | None, int], sample: Sequence[Request]) -> str:
        """See `MergingEngine.settle`."""
        name = merging.one_adapter(uses)
        if name != self._merged:
            self._restore()
        if name is None:
            return f"not merged: {merging.told(uses)}" if uses.keys() != {None} else ""
        if name == self._merged:
            return f"adapter {name!r} is part of the weights"
        decoder, precision = self._decoder, _precision(self._decoder)
        if not isinstance(decoder, FastDecoder) or self._stored is None:
            return f"adapter {name!r} is not merged: that is done for a base of a folder on a CPU, and not in 4 bits"
        reason = merging.why_not(
            self._merge, precision, sample, uses[name], batch_tokens=self._budget(), repeatable=self.repeatable
        )
        if reason:
            return f"adapter {name!r} is not merged: {reason}"
        asked = merging.probes(sample, self.run)
        before = self.run(asked)
        merge(decoder, self._stored(), self._adapters[name])
        self._merged = name
        self._beginnings.clear()
        decoder.forget_adapters()
        difference = merging.mean_difference(before, self.run(asked))
        if not merging.exact_enough(difference, precision):
            self._restore()
            return f"adapter {name!r} is not merged: log-probabilities would differ by {difference:.2g} in the mean"
        return (
            f"adapter {name!r} is merged into the weights in {precision}: log-probabilities differ by {difference:.1e} "
            f"in the mean over {len(asked)} rows"
        )

    def _restore(self) -> None:
        """The base as it was, to the last bit."""
        if self._merged is None:
            return
        assert isinstance(self._decoder, FastDecoder)
        assert self._stored is not None
        restore(self._decoder, self._stored(), self._adapters[self._merged])
        self._merged = None
        self._beginnings.clear()

    def forget_beginnings(self) -> None:
        """Let go of the shared beginnings that earlier runs computed; the next run computes its own."""
        self._beginnings.clear()

    def run(
        self, requests: Sequence[Request], on_done: OnDone | None = None, on_outputs: OnOutputs | None = None
    ) -> list[Output]:
        """Answer all requests in their order; see `RepeatableEngine.run`."""
        check_adapters(requests, self._adapters)
        if any(request.adapter != self._merged for request in requests):
            self._restore()
        outputs: list[Output | None] = [None] * len(requests)
        able: list[int] = []
        for index, request in enumerate(requests):
            outputs[index] = self._answer_unread(request)
            if outputs[index] is None:
                able.append(index)
        if on_done is not None:
            on_done(len(requests) - len(able))
        self._beginnings.make_room(self._decoder.device)
        asked = [requests[index] for index in able]
        for committed in self.execute(self.plan(asked)):
            for index, output in committed:
                outputs[able[index]] = output
            if on_outputs is not None and committed:
                on_outputs([(able[index], output) for index, output in committed])
            if on_done is not None and committed:
                on_done(len(committed))
        self._beginnings.see(asked)
        return cast(list[Output], outputs)

    def plan(self, requests: Sequence[Request]) -> Plan:
        """The plan for valid requests: a pure function of them, the settings, the beginnings of earlier runs and, where
        that is short, free memory.
        """
        return make_plan(
            requests,
            batch_tokens=self._budget(),
            share_prefixes=self._share_prefixes,
            workers=count_workers(self._decoder.device),
            known=self._beginnings.known(requests) if self._repeats() else {},
        )

    @torch.inference_mode()
    def execute(self, plan: Plan) -> Iterator[Finished]:
        """Run a plan batch by batch; yields (index of the request, output) of what each step finished."""
        computed: dict[int, Future[Prefix]] = {}
        generation = Generation(
            self._decoder,
            cache_tokens=_CACHE_PER_BATCH * self._budget(),
            decode=self._decode,
            deterministic=self._repeats() and self._compiled(),
        )
        count = count_workers(self._decoder.device)
        with Workers[Finished](count) as workers:
            for batch in beginnings_first(plan.batches, ahead=count - 1):
                release = partial(_forget, computed, batch.release)
                if batch.kind == "prefix":
                    workers.submit(self._to_compute(plan, batch, computed))
                elif batch.kind == "choose":
                    workers.submit(self._to_score(plan, batch, computed), release)
                else:
                    yield from workers.finished(all_of_it=True)
                    yield from self._admit(plan, batch, computed, generation)
                    # Rows that are still being continued hold on to their prefix themselves.
                    release()
                yield from workers.finished()
            yield from workers.finished(all_of_it=True)
        while generation.busy:
            yield generation.step()

    def _answer_unread(self, request: Request) -> Output | None:
        config = self._decoder.config
        problem = find_problem(request, vocab_size=config.vocab_size, max_positions=config.max_positions)
        if problem:
            return failed(request, problem)
        if isinstance(request, Generate) and request.sampling.max_new_tokens < 1:
            return Output(id=request.id, finish="length")
        return None

    def _budget(self) -> int:
        decoder = self._decoder
        return min(self._batch_tokens, tokens_that_fit(decoder.config, decoder.dtype, free_memory(decoder.device)))

    def _adapter(self, name: str | None) -> LoraWeights | None:
        return None if name is None or name == self._merged else self._adapters[name]

    def _piece(self, plan: Plan, row: PlannedRow, prefix: Prefix | None) -> Piece:
        request = plan.requests[row.request]
        return Piece(
            request.prompt[row.start :],
            prefix,
            self._adapter(request.adapter),
            branches_of(request.choices) if isinstance(request, Choose) else NO_BRANCHES,
        )

    def _to_compute(self, plan: Plan, batch: Batch, computed: dict[int, Future[Prefix]]) -> Callable[[], Finished]:
        wanted = self._beginnings.look_up(plan, batch.segments)
        parents = [computed.get(one.segment.parent) for one in wanted]
        promised: list[Future[Prefix]] = [Future() for _ in wanted]
        computed.update(zip(batch.segments, promised, strict=True))

        def read(missing: Sequence[Wanted], before: Sequence[Prefix | None]) -> list[Prefix]:
            pieces = [
                Piece(one.segment.tokens, parent, self._adapter(one.segment.adapter))
                for one, parent in zip(missing, before, strict=True)
            ]
            return in_halves(self._passes.read, pieces)

        def work() -> Finished:
            try:
                before = [_kept(parent) for parent in parents]
                prefixes = self._beginnings.complete(wanted, before, read, keep=self._repeats())
                for promise, prefix in zip(promised, prefixes, strict=True):
                    promise.set_result(prefix)
            except BaseException as error:
                for promise in promised:  # whoever waits for them must not wait for ever
                    if not promise.done():
                        promise.set_exception(error)
                raise
            return []

        return work

    def _to_score(self, plan: Plan, batch: Batch, computed: dict[int, Future[Prefix]]) -> Callable[[], Finished]:
        prefixes = [computed.get(row.segment) for row in batch.rows]

        def score(part: Sequence[tuple[Piece, Choose]]) -> list[Output]:
            pieces, requests = zip(*part, strict=True)
            found = self._passes.score(pieces, requests)
            return [_scored(request, values) for request, values in zip(requests, found, strict=True)]

        def refuse(one: tuple[Piece, Choose]) -> Output:
            return _too_large(one[1])

        def work() -> Finished:
            asked = [
                (self._piece(plan, row, _kept(prefix)), cast(Choose, plan.requests[row.request]))
                for row, prefix in zip(batch.rows, prefixes, strict=True)
            ]
            outputs = in_halves(score, asked, refuse)
            return [(row.request, output) for row, output in zip(batch.rows, outputs, strict=True)]

        return work

    def _admit(
        self, plan: Plan, batch: Batch, computed: dict[int, Future[Prefix]], generation: Generation
    ) -> Iterator[Finished]:
        waiting = []
        for row in batch.rows:
            piece = self._piece(plan, row, _kept(computed.get(row.segment)))
            waiting.append(Waiting(row.request, piece, cast(Generate, plan.requests[row.request])))
        while not generation.fits(waiting):
            yield generation.step()
        yield in_halves(generation.admit, waiting, lambda one: (one.index, _too_large(one.request)))


def _kept(promised: Future[Prefix] | None) -> Prefix | None:
    return None if promised is None else promised.result()


def _forget(computed: dict[int, Future[Prefix]], indices: Sequence[int]) -> None:
    for index in indices:
        del computed[index]


def _precision(decoder: AnyDecoder) -> str:
    if isinstance(decoder, FastDecoder):
        return decoder.precision
    return "nf4" if quantised(decoder) else str(decoder.dtype).removeprefix("torch.")


def _attention(decoder: AnyDecoder) -> str:
    if decoder.device.type == "cpu":
        return "flash" if has_fast_kernel() else "plain"
    return "varlen" if fits_varlen(decoder.config, decoder.dtype, decoder.device) else "plain"


def _too_large(request: Request) -> Output:
    return failed(request, "there is not enough memory for this row, even alone")


def _scored(request: Choose, values: Sequence[float]) -> Output:
    if any(math.isnan(value) for value in values):
        return failed(request, "the model's output is not a number (NaN): weights or precision are broken")
    return Output(id=request.id, logprobs=tuple(values))


def load_native(folder: Path, settings: EngineSettings) -> NativeEngine:
    """The factory for `load_engine`. Raises EngineError for what only the transformers engine does."""
    if settings.device_map not in ("", "auto"):
        raise EngineError(
            f"the native engine runs on one device; device_map={settings.device_map!r}", fix="use engine=transformers"
        )
    if settings.threads > 0:
        torch.set_num_threads(settings.threads)
    device = settings.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return NativeEngine(
        load_for(folder, settings, device),
        batch_tokens=settings.batch_tokens,
        share_prefixes=settings.share_prefixes,
        deterministic=settings.deterministic,
        merge=settings.merge,
        stored=lambda: load_stored(folder, settings),
    )
