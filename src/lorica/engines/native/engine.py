"""The native engine: plan -> run -> commit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import cast

import torch

from lorica.adapters.member import Member
from lorica.config.schema import InferenceConfig
from lorica.engines.base import (
    Decode,
    EngineInfo,
    EngineSettings,
    MergeDecision,
    OnDone,
    OnOutputs,
    as_lora,
    check_adapters,
    is_new,
    output_without_model,
    resolve_device,
    unknown_adapter,
)
from lorica.engines.batch_timer import BatchTimer
from lorica.engines.native import merging
from lorica.engines.native.attention.select import select_backend
from lorica.engines.native.decode import FinishedOutputs
from lorica.engines.native.executor import Executor
from lorica.engines.native.load import load_for, load_stored
from lorica.engines.native.memory import free_memory, max_batch_tokens
from lorica.engines.native.prefix_cache import PrefixCache
from lorica.engines.native.scheduler import Plan, make_plan
from lorica.engines.native.worker_pool import count_workers
from lorica.errors import EngineError
from lorica.models.adapter_weights import load_lora
from lorica.models.base_folder import BaseFolder
from lorica.models.compiled import library
from lorica.models.cpu.cpu_decoder import AnyDecoder, CpuDecoder
from lorica.models.decoder import Decoder
from lorica.models.lora import LoraWeights
from lorica.models.merged_weights import merge_adapter, restore_base
from lorica.models.nf4 import is_quantized
from lorica.records import Output, Request

_CACHE_PER_BATCH = 4  # tokens of the KV cache, in units of batch_tokens


class NativeEngine:
    """Lorica's own decoder with any number of adapters, mixed freely in one batch.

    batch_tokens: tokens of one forward pass, the memory budget. share_prefixes: compute what prompts of one
    adapter have in common at their beginning only once. deterministic: on a CPU, the bits of a row's scores depend on
    nothing but the row, its adapter and the base. merge: see `EngineSettings`. load_base: the base again, as its files
    have it; without that nothing is merged.
    """

    def __init__(
        self,
        decoder: AnyDecoder,
        *,
        batch_tokens: int = InferenceConfig.batch_tokens,
        share_prefixes: bool = True,
        deterministic: bool = True,
        merge: merging.Merge = "auto",
        load_base: Callable[[], Decoder] | None = None,
    ) -> None:
        self._decoder = decoder
        self._backend = select_backend(decoder, deterministic=deterministic)
        self.set_batch_tokens(batch_tokens)
        self._share_prefixes = share_prefixes
        self._adapters: dict[str, LoraWeights] = {}
        self._digests: dict[str, str] = {}
        self._merge, self._load_base = merge, load_base
        self._merged: str | None = None
        self._half_merged: str | None = None
        self._detokenize: Decode | None = None
        self._prefix_cache = PrefixCache()
        self._timer = BatchTimer()

    def add_adapter(self, name: str, adapter: Member) -> None:
        """Load an adapter under a name; the same adapter again changes nothing.

        Raises AdapterError for one that cannot be used on this base or is more than plain LoRA pairs, EngineError when
        another adapter has the name.
        """
        lora, decoder = as_lora(adapter), self._decoder
        if is_new(name, lora, self._digests):
            self._adapters[name] = load_lora(
                name, lora, decoder.config, dtype=decoder.dtype, device=decoder.device, keep_narrow=True
            )
            self._digests[name] = lora.digest

    def remove_adapter(self, name: str) -> None:
        """Forget an adapter and free its memory. Raises EngineError for one that was never added."""
        if name not in self._adapters:
            raise unknown_adapter(name, self._adapters)
        if name in (self._merged, self._half_merged):
            self._unmerge()
        del self._adapters[name]
        del self._digests[name]
        self._prefix_cache.invalidate(name)
        if isinstance(self._decoder, CpuDecoder):
            self._decoder.clear_adapter_cache()

    @property
    def info(self) -> EngineInfo:
        """What decides the results and the speed."""
        decoder, backend = self._decoder, self._backend
        return EngineInfo(
            name="native",
            family=decoder.config.family,
            dtype=_precision(decoder),
            device=str(decoder.device),
            threads=torch.get_num_threads(),
            batch_tokens=self._batch_tokens,
            share_prefixes=self._share_prefixes,
            deterministic=bool(backend.batch_invariant),
            kernels=library.target() if backend.name == "compiled" else "torch",
            attention=backend.name,
            merged=self._merged or "",
            versions={"torch": str(torch.__version__)},
            batch_invariant=backend.batch_invariant,
        )

    def set_detokenizer(self, decode: Decode) -> None:
        """See `StopStringEngine`."""
        self._detokenize = decode

    def set_batch_tokens(self, batch_tokens: int) -> None:
        """See `BatchSizedEngine`. Raises EngineError for less than one."""
        if batch_tokens < 1:
            raise EngineError(
                f"batch_tokens is {batch_tokens}; at least 1 is needed",
                fix=f"try batch_tokens={InferenceConfig.batch_tokens}",
            )
        self._batch_tokens = batch_tokens

    def set_timer(self, timer: BatchTimer) -> None:
        """See `TimedEngine`."""
        self._timer = timer

    def maybe_merge(self, uses: Mapping[str | None, int], sample: Sequence[Request]) -> MergeDecision:
        """See `MergingEngine`."""
        name = merging.single_adapter(uses)
        if name != self._merged or self._half_merged is not None:
            self._unmerge()
        if name is None:
            return MergeDecision(False, f"not merged: {merging.describe_mix(uses)}" if uses.keys() != {None} else "")
        if name == self._merged:
            return MergeDecision(True, f"adapter {name!r} is part of the weights")

        def refuse(reason: str) -> MergeDecision:
            return MergeDecision(False, f"adapter {name!r} is not merged: {reason}")

        decoder, precision = self._decoder, _precision(self._decoder)
        if not isinstance(decoder, CpuDecoder) or self._load_base is None:
            return refuse("that is done for a base of a folder on a CPU, and not in 4 bits")
        reason = merging.reason_not_to_merge(
            self._merge,
            precision,
            sample,
            uses[name],
            batch_tokens=self._available_batch_tokens(),
            batch_invariant=self._backend.batch_invariant,
        )
        if reason:
            return refuse(reason)
        probes = merging.make_probes(sample, self.run)
        unmerged = self.run(probes)
        self._half_merged = name  # until all layers are merged: an interruption must not leave some of them unnoticed
        merge_adapter(decoder, self._load_base(), self._adapters[name])
        self._merged, self._half_merged = name, None
        self._prefix_cache.clear()
        decoder.clear_adapter_cache()
        difference = merging.mean_difference(unmerged, self.run(probes))
        if not merging.is_within_tolerance(difference, precision):
            self._unmerge()
            return refuse(f"log-probabilities would differ by {difference:.2g} in the mean")
        return MergeDecision(
            True,
            f"adapter {name!r} is merged into the weights in {precision}: log-probabilities differ by {difference:.1e} "
            f"in the mean over {len(probes)} rows",
        )

    def _unmerge(self) -> None:
        """Restore the base's weights, to the last bit."""
        name = self._merged or self._half_merged
        if name is None:
            return
        assert isinstance(self._decoder, CpuDecoder)
        assert self._load_base is not None
        self._merged, self._half_merged = None, name
        restore_base(self._decoder, self._load_base(), self._adapters[name])
        self._half_merged = None
        self._prefix_cache.clear()

    def clear_prefix_cache(self) -> None:
        """Drop the shared prefixes that earlier runs computed; the next run computes its own."""
        self._prefix_cache.clear()

    def run(
        self, requests: Sequence[Request], on_done: OnDone | None = None, on_outputs: OnOutputs | None = None
    ) -> list[Output]:
        """Answer all requests in their order; see `Engine.run`."""
        check_adapters(requests, self._adapters)
        if self._half_merged is not None or any(request.adapter != self._merged for request in requests):
            self._unmerge()
        config = self._decoder.config
        outputs: list[Output | None] = [
            output_without_model(request, vocab_size=config.vocab_size, max_positions=config.max_positions)
            for request in requests
        ]
        original_index = [index for index, output in enumerate(outputs) if output is None]
        if on_done is not None:
            on_done(len(requests) - len(original_index))
        self._prefix_cache.set_budget(self._decoder.device)
        planned = [requests[index] for index in original_index]
        for finished in self.execute(self.plan(planned)):
            committed = [(original_index[index], output) for index, output in finished]
            for index, output in committed:
                outputs[index] = output
            if on_outputs is not None and committed:
                on_outputs(committed)
            if on_done is not None and committed:
                on_done(len(committed))
        self._prefix_cache.observe(planned)
        return cast(list[Output], outputs)

    def plan(self, requests: Sequence[Request]) -> Plan:
        """The plan for valid requests: a pure function of them, the settings, the prefixes that earlier runs cached if
        all requests are batch-invariant, and, where that is short, free memory.
        """
        uses_cache = all(isinstance(request, self._backend.batch_invariant) for request in requests)
        return make_plan(
            requests,
            batch_tokens=self._available_batch_tokens(),
            share_prefixes=self._share_prefixes,
            workers=count_workers(self._decoder.device),
            cached_prefixes=self._prefix_cache.prefixes(requests) if uses_cache else {},
        )

    def execute(self, plan: Plan) -> Iterator[FinishedOutputs]:
        """Run a plan batch by batch; yields (index of the request, output) of what each step finished."""
        executor = Executor(
            self._decoder,
            self._backend,
            self._prefix_cache,
            self._adapter_weights,
            _CACHE_PER_BATCH * self._available_batch_tokens(),
            self._detokenize,
            self._timer,
        )
        return executor.run(plan)

    def _available_batch_tokens(self) -> int:
        decoder = self._decoder
        return min(self._batch_tokens, max_batch_tokens(decoder.config, decoder.dtype, free_memory(decoder.device)))

    def _adapter_weights(self, name: str | None) -> LoraWeights | None:
        return None if name is None or name == self._merged else self._adapters[name]


def _precision(decoder: AnyDecoder) -> str:
    if isinstance(decoder, CpuDecoder):
        return decoder.precision
    return "nf4" if is_quantized(decoder) else str(decoder.dtype).removeprefix("torch.")


def load_native(base: BaseFolder, settings: EngineSettings) -> NativeEngine:
    """The factory for `load_engine`. Raises EngineError for what only the transformers engine does."""
    if settings.device_map not in ("", "auto"):
        raise EngineError(
            f"the native engine runs on one device; device_map={settings.device_map!r}", fix="use engine=transformers"
        )
    if settings.threads > 0:
        torch.set_num_threads(settings.threads)
    return NativeEngine(
        load_for(base, settings, resolve_device(settings.device)),
        batch_tokens=settings.batch_tokens,
        share_prefixes=settings.share_prefixes,
        deterministic=settings.deterministic,
        merge=settings.merge,
        load_base=lambda: load_stored(base, settings),
    )
