"""The native engine: plan -> run -> commit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import cast

import torch

from lorica.adapters.folder import AdapterFolder
from lorica.config.schema import InferenceConfig
from lorica.engines.base import (
    Decode,
    EngineInfo,
    EngineSettings,
    MergeDecision,
    OnDone,
    OnOutputs,
    check_adapters,
    not_there,
    output_without_model,
)
from lorica.engines.native import merging
from lorica.engines.native.attention.block import goes_by_products, has_fast_kernel
from lorica.engines.native.attention.varlen import fits_varlen
from lorica.engines.native.decode import Finished
from lorica.engines.native.executor import Execution
from lorica.engines.native.load import load_for, load_stored
from lorica.engines.native.memory import free_memory, tokens_that_fit
from lorica.engines.native.prefix_cache import Beginnings
from lorica.engines.native.scheduler import Plan, make_plan
from lorica.engines.native.workers import count_workers
from lorica.errors import EngineError
from lorica.models.adapter_weights import load_lora
from lorica.models.base_folder import BaseFolder
from lorica.models.cpu.decoder import AnyDecoder, FastDecoder
from lorica.models.decoder import Decoder
from lorica.models.lora import LoraWeights
from lorica.models.merged_weights import merge, restore
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
        batch_tokens: int = InferenceConfig.batch_tokens,
        share_prefixes: bool = True,
        deterministic: bool = True,
        merge: merging.Merge = "auto",
        stored: Callable[[], Decoder] | None = None,
    ) -> None:
        if batch_tokens < 1:
            raise EngineError(
                f"batch_tokens is {batch_tokens}; at least 1 is needed",
                fix=f"try batch_tokens={InferenceConfig.batch_tokens}",
            )
        self._decoder = decoder
        self._batch_tokens = batch_tokens
        self._share_prefixes = share_prefixes
        self._deterministic = deterministic
        self._adapters: dict[str, LoraWeights] = {}
        self._digests: dict[str, str] = {}
        self._merge, self._stored = merge, stored
        self._merged: str | None = None
        self._half_merged: str | None = None
        self._decode: Decode | None = None
        self._beginnings = Beginnings()

    def add_adapter(self, name: str, adapter: AdapterFolder) -> None:
        """Load an adapter under a name; the same adapter again changes nothing.

        Raises AdapterError for one that cannot be used on this base or is more than plain LoRA pairs, EngineError when
        another adapter has the name.
        """
        if self._digests.setdefault(name, adapter.digest) != adapter.digest:
            raise EngineError(f"the adapter name {name!r} is taken by another adapter than {adapter.path}")
        if name not in self._adapters:
            decoder = self._decoder
            try:
                weights = load_lora(
                    name, adapter, decoder.config, dtype=decoder.dtype, device=decoder.device, keep_narrow=True
                )
            except BaseException:
                del self._digests[name]
                raise
            self._adapters[name] = weights

    def remove_adapter(self, name: str) -> None:
        """Forget an adapter and free its memory. Raises EngineError for one that was never added."""
        if name not in self._adapters:
            raise not_there(name, self._adapters)
        if name in (self._merged, self._half_merged):
            self._restore()
        del self._adapters[name]
        del self._digests[name]
        self._beginnings.drop(name)
        if isinstance(self._decoder, FastDecoder):
            self._decoder.forget_adapters()

    @property
    def info(self) -> EngineInfo:
        """What decides the results and the speed."""
        decoder = self._decoder
        repeats = self._repeats()
        by_products = repeats and goes_by_products(torch.empty(0, dtype=decoder.dtype))
        compiled = self._compiled()
        return EngineInfo(
            name="native",
            family=decoder.config.family,
            dtype=_precision(decoder),
            device=str(decoder.device),
            threads=torch.get_num_threads(),
            batch_tokens=self._batch_tokens,
            share_prefixes=self._share_prefixes,
            deterministic=repeats,
            kernels="compiled" if compiled else "torch",
            attention="compiled" if compiled else "products" if by_products else _attention(decoder),
            merged=self._merged or "",
            versions={"torch": str(torch.__version__)},
            batch_invariant=self._batch_invariant(),
        )

    def _batch_invariant(self) -> tuple[type[Request], ...]:
        """Where `deterministic` holds: scores are, and with the compiled kernels texts, too. Without them attention of
        a decode step rounds by the sequences that are decoded together.
        """
        if not self._repeats():
            return ()
        return (Choose, Generate) if self._compiled() else (Choose,)

    def _compiled(self) -> bool:
        return isinstance(self._decoder, FastDecoder) and self._decoder.compiled

    def _repeats(self) -> bool:
        return self._deterministic and self._decoder.device.type == "cpu"

    def set_detokenizer(self, decode: Decode) -> None:
        """See `StopStringEngine`."""
        self._decode = decode

    def maybe_merge(self, uses: Mapping[str | None, int], sample: Sequence[Request]) -> MergeDecision:
        """See `MergingEngine`."""
        name = merging.one_adapter(uses)
        if name != self._merged or self._half_merged is not None:
            self._restore()
        if name is None:
            return MergeDecision(False, f"not merged: {merging.told(uses)}" if uses.keys() != {None} else "")
        if name == self._merged:
            return MergeDecision(True, f"adapter {name!r} is part of the weights")
        decoder, precision = self._decoder, _precision(self._decoder)
        if not isinstance(decoder, FastDecoder) or self._stored is None:
            reason = "that is done for a base of a folder on a CPU, and not in 4 bits"
            return MergeDecision(False, f"adapter {name!r} is not merged: {reason}")
        reason = merging.why_not(
            self._merge,
            precision,
            sample,
            uses[name],
            batch_tokens=self._budget(),
            batch_invariant=self._batch_invariant(),
        )
        if reason:
            return MergeDecision(False, f"adapter {name!r} is not merged: {reason}")
        asked = merging.probes(sample, self.run)
        before = self.run(asked)
        self._half_merged = name  # until all of it is: an interruption must not leave half of it unnoticed
        merge(decoder, self._stored(), self._adapters[name])
        self._merged, self._half_merged = name, None
        self._beginnings.clear()
        decoder.forget_adapters()
        difference = merging.mean_difference(before, self.run(asked))
        if not merging.exact_enough(difference, precision):
            self._restore()
            reason = f"log-probabilities would differ by {difference:.2g} in the mean"
            return MergeDecision(False, f"adapter {name!r} is not merged: {reason}")
        return MergeDecision(
            True,
            f"adapter {name!r} is merged into the weights in {precision}: log-probabilities differ by {difference:.1e} "
            f"in the mean over {len(asked)} rows",
        )

    def _restore(self) -> None:
        """The base as it was, to the last bit."""
        name = self._merged or self._half_merged
        if name is None:
            return
        assert isinstance(self._decoder, FastDecoder)
        assert self._stored is not None
        self._merged, self._half_merged = None, name
        restore(self._decoder, self._stored(), self._adapters[name])
        self._half_merged = None
        self._beginnings.clear()

    def forget_beginnings(self) -> None:
        """Let go of the shared beginnings that earlier runs computed; the next run computes its own."""
        self._beginnings.clear()

    def run(
        self, requests: Sequence[Request], on_done: OnDone | None = None, on_outputs: OnOutputs | None = None
    ) -> list[Output]:
        """Answer all requests in their order; see `Engine.run`."""
        check_adapters(requests, self._adapters)
        if self._half_merged is not None or any(request.adapter != self._merged for request in requests):
            self._restore()
        config = self._decoder.config
        outputs: list[Output | None] = [None] * len(requests)
        able: list[int] = []
        for index, request in enumerate(requests):
            outputs[index] = output_without_model(
                request, vocab_size=config.vocab_size, max_positions=config.max_positions
            )
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
        """The plan for valid requests: a pure function of them, the settings, if they are repeatable the beginnings of
        earlier runs, and, where that is short, free memory.
        """
        batch_invariant = self._batch_invariant()
        invariant = all(isinstance(request, batch_invariant) for request in requests)
        return make_plan(
            requests,
            batch_tokens=self._budget(),
            share_prefixes=self._share_prefixes,
            workers=count_workers(self._decoder.device),
            known=self._beginnings.known(requests) if invariant else {},
        )

    def execute(self, plan: Plan) -> Iterator[Finished]:
        """Run a plan batch by batch; yields (index of the request, output) of what each step finished."""
        execution = Execution(
            self._decoder,
            self._beginnings,
            self._adapter,
            _CACHE_PER_BATCH * self._budget(),
            self._decode,
            repeats=self._repeats(),
            repeats_texts=self._repeats() and self._compiled(),
        )
        return execution.run(plan)

    def _budget(self) -> int:
        decoder = self._decoder
        return min(self._batch_tokens, tokens_that_fit(decoder.config, decoder.dtype, free_memory(decoder.device)))

    def _adapter(self, name: str | None) -> LoraWeights | None:
        return None if name is None or name == self._merged else self._adapters[name]


def _precision(decoder: AnyDecoder) -> str:
    if isinstance(decoder, FastDecoder):
        return decoder.precision
    return "nf4" if quantised(decoder) else str(decoder.dtype).removeprefix("torch.")


def _attention(decoder: AnyDecoder) -> str:
    if decoder.device.type == "cpu":
        return "flash" if has_fast_kernel() else "plain"
    return "varlen" if fits_varlen(decoder.config, decoder.dtype, decoder.device) else "plain"


def load_native(base: BaseFolder, settings: EngineSettings) -> NativeEngine:
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
        load_for(base, settings, device),
        batch_tokens=settings.batch_tokens,
        share_prefixes=settings.share_prefixes,
        deterministic=settings.deterministic,
        merge=settings.merge,
        stored=lambda: load_stored(base, settings),
    )
