"""Continuous batching: sequences are decoded token by token; a finished one leaves at once, and others join."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lorica.engines.base import NOT_A_NUMBER, Decode, failed, max_new_tokens_for
from lorica.engines.batch_timer import BatchTimer
from lorica.engines.native.active_sequence import ActiveSequence
from lorica.engines.native.attention.select import AttentionBackend
from lorica.engines.native.attention.store_kv import StoringAttention
from lorica.engines.native.cuda_graphs import GraphedDecodeStep
from lorica.engines.native.kv_cache import KVCache
from lorica.engines.native.memory import is_out_of_memory, out_of_memory_output, split_on_out_of_memory
from lorica.engines.native.packed_batch import PackedSequence, lora_spans, pack_sequences
from lorica.engines.native.sampler import SequenceSampler, sample
from lorica.models.cpu.cpu_decoder import AnyDecoder
from lorica.models.decoder import Decoder
from lorica.records import Generate, Output

FinishedOutputs = list[tuple[int, Output]]
"""(index of the request, its output) of finished rows."""


@dataclass(frozen=True, eq=False)
class PendingSequence:
    """A sequence to decode: the index of its request, its suffix, the request."""

    index: int
    seq: PackedSequence
    request: Generate


class DecodeBatch:
    """The sequences that are decoded together, in the order of the plan, so that adapters are contiguous.

    cache_tokens: of the KV cache, sequences times the longest of them. detokenize: without it no stop string ends a
    text. evict: see `split_on_out_of_memory`.
    """

    def __init__(
        self,
        decoder: AnyDecoder,
        backend: AttentionBackend,
        *,
        cache_tokens: int,
        detokenize: Decode | None = None,
        evict: Callable[[], bool] = lambda: False,
        timer: BatchTimer | None = None,
    ) -> None:
        self._decoder, self._backend = decoder, backend
        self._cache_tokens, self._detokenize, self._evict = cache_tokens, detokenize, evict
        self._align = backend.row_alignment if Generate in backend.batch_invariant else 1
        self._cache = KVCache(decoder.config, decoder.dtype, decoder.device, max_tokens=cache_tokens)
        self._graphed_step: GraphedDecodeStep | None = None
        if backend.cuda_graphs:
            assert isinstance(decoder, Decoder)
            self._graphed_step = GraphedDecodeStep(decoder, self._cache, max_prefix_tokens=cache_tokens)
        self._active: list[ActiveSequence] = []
        self._timer = timer or BatchTimer()

    @property
    def busy(self) -> bool:
        """Whether any sequence is unfinished."""
        return bool(self._active)

    @property
    def rows(self) -> int:
        """How many sequences are unfinished."""
        return len(self._active)

    def fits(self, pending: Sequence[PendingSequence]) -> bool:
        """Whether the KV cache has room for these; an empty batch takes anything."""
        return self._has_room([item.seq.length + self._max_new_tokens(item.request) for item in pending])

    def prefill(self, pending: Sequence[PendingSequence]) -> FinishedOutputs:
        """Run the suffixes of new sequences and sample the first token of each. Returns those that are finished
        already, and those that do not fit into memory even alone.
        """
        return split_on_out_of_memory(
            self._prefill, pending, lambda item: (item.index, out_of_memory_output(item.request)), evict=self._evict
        )

    def _prefill(self, pending: Sequence[PendingSequence]) -> FinishedOutputs:
        with self._timer.batch({item.request.id: item.seq.length for item in pending}):
            joining, next_tokens = self._compute_first_tokens(pending)
        self._active += joining
        return self._append(joining, next_tokens)

    def _compute_first_tokens(
        self, pending: Sequence[PendingSequence]
    ) -> tuple[list[ActiveSequence], list[int | None]]:
        # They join only when all first tokens are sampled, for memory may run out before.
        joining = [
            ActiveSequence(
                item.index, item.seq, SequenceSampler(item.request), self._max_new_tokens(item.request), slot
            )
            for slot, item in enumerate(pending, len(self._active))
        ]
        batch = pack_sequences([item.seq for item in pending], self._decoder.device, align=self._align)
        self._reserve(joining)

        def store(layer: int, key: Tensor, value: Tensor) -> None:
            for row, start in zip(joining, batch.offsets, strict=True):
                stop = start + row.seq.length
                self._cache.write(layer, row.slot, key[start:stop], value[start:stop])

        attention = StoringAttention(self._backend.generate(batch), store)
        last_rows = [start + row.seq.length - 1 for row, start in zip(joining, batch.offsets, strict=True)]
        output_rows = torch.tensor(self._padded(last_rows, last_rows[-1]), device=self._decoder.device)
        hidden = self._decoder.hidden(batch.tokens, batch.positions, attention, batch.spans, output_rows=output_rows)
        return joining, self._sample(joining, self._decoder.logits(hidden)[: len(joining)])

    def decode_step(self) -> FinishedOutputs:
        """One more token for every sequence. Returns those that finished, or do not fit into memory even alone."""
        return split_on_out_of_memory(self._decode_step, list(self._active), self._fail, evict=self._evict)

    def _decode_step(self, rows: Sequence[ActiveSequence]) -> FinishedOutputs:
        logits = None
        with self._timer.batch(dict.fromkeys([row.sampler.request.id for row in rows], 1)):
            if self._graphed_step is not None and len(rows) == len(self._active):
                logits = self._graphed_step.logits(rows)
            next_tokens = self._sample(rows, self._logits(rows) if logits is None else logits)
        return self._append(rows, next_tokens)

    def _fail(self, row: ActiveSequence) -> tuple[int, Output]:
        self._release(row)
        return row.index, out_of_memory_output(row.sampler.request)

    def _logits(self, rows: Sequence[ActiveSequence]) -> Tensor:
        """The logits after each row's last token, whose keys and values are cached then."""
        self._reserve()
        device = self._decoder.device
        tokens = torch.tensor(self._padded([row.last_token for row in rows], 0), device=device)
        positions = torch.tensor(self._padded([row.position for row in rows], 0), device=device)
        attention = self._backend.decode(
            self._cache, [row.slot for row in rows], [row.cached for row in rows], [row.seq.prefix for row in rows]
        )
        spans = lora_spans([row.seq.adapter for row in rows], [1] * len(rows))
        hidden = self._decoder.hidden(tokens, positions, attention, spans)
        return self._decoder.logits(hidden)[: len(rows)]

    def migrate_to(self, target: DecodeBatch, count: int) -> None:
        """Hand the last `count` sequences to another batch of the same decoder, as far as that has room."""
        for row in self._active[-count:]:
            slot = target.rows
            if not target._make_room(row):
                return
            self._cache.copy_to(target._cache, row.slot, slot, row.cached)
            self._release(row)
            row.slot = slot
            target._active.append(row)

    def _make_room(self, row: ActiveSequence) -> bool:
        if not self._has_room([row.max_cached]):
            return False
        try:
            self._reserve([row])
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            return False
        return True

    def _has_room(self, new_lengths: Sequence[int]) -> bool:
        lengths = [*(row.max_cached for row in self._active), *new_lengths]
        return not self._active or len(lengths) * max(lengths) <= self._cache_tokens

    def _reserve(self, joining: Sequence[ActiveSequence] = ()) -> None:
        """Grow the cache for one more token of every sequence, and for new sequences."""
        rows = [*self._active, *joining]
        final_length = max(row.max_cached for row in rows)
        if self._graphed_step is not None:
            # A captured step must be captured anew once the cache grows.
            self._cache.reserve(len(rows), final_length)
        else:
            self._cache.reserve(len(rows), max(row.cached + 1 for row in rows), final_length)

    def _padded(self, numbers: list[int], padding: int) -> list[int]:
        """Up to the row alignment, for batch invariance."""
        return numbers + [padding] * (-len(numbers) % self._align)

    def _max_new_tokens(self, request: Generate) -> int:
        return max_new_tokens_for(request, self._decoder.config.max_positions)

    def _sample(self, rows: Sequence[ActiveSequence], logits: Tensor) -> list[int | None]:
        """The next token of each row; None where its logits are NaN."""
        is_nan = logits.amax(dim=-1).isnan().tolist()  # the maximum is NaN if any logit is, and needs one pass
        tokens = sample(logits.nan_to_num(nan=0.0) if any(is_nan) else logits, [row.sampler for row in rows])
        return [None if nan else token for token, nan in zip(tokens, is_nan, strict=True)]

    def _append(self, rows: Sequence[ActiveSequence], next_tokens: Sequence[int | None]) -> FinishedOutputs:
        finished: FinishedOutputs = []
        for row, token in zip(rows, next_tokens, strict=True):
            output = failed(row.sampler.request, NOT_A_NUMBER) if token is None else row.append(token, self._detokenize)
            if output is not None:
                finished.append((row.index, output))
                self._release(row)
        return finished

    def _release(self, row: ActiveSequence) -> None:
        # The last slot moves into the gap, so that the slots in use stay contiguous.
        last = max(self._active, key=lambda active: active.slot)
        if last is not row:
            self._cache.move(last.slot, row.slot)
            last.slot = row.slot
        self._active.remove(row)
