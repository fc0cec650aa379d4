"""Decode steps captured as CUDA graphs: hundreds of small kernels are launched by one call.

A graph repeats what was captured, on the same memory and in the same shapes. So a step has capacity for more rows than
there may be; the rows, their tokens, slots, adapters and prefixes are numbers in a table that its kernels read.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TypeVar
from weakref import WeakSet

import torch
from torch import Tensor

from lorica.engines.native.active_sequence import ActiveSequence
from lorica.engines.native.attention.varlen import SequenceBounds, attend_varlen
from lorica.engines.native.kv_cache import KVCache
from lorica.engines.native.memory import is_out_of_memory
from lorica.engines.native.packed_batch import Prefix
from lorica.engines.native.prefix_pool import PrefixPool
from lorica.models.decoder import Decoder
from lorica.models.lora import LoraWeights, PerTokenLora

MAX_RANKS = 512
"""Ranks of all adapters together up to which every row is multiplied with all: beyond, that does not pay."""

Item = TypeVar("Item")

_UNCAPTURABLE: WeakSet[Decoder] = WeakSet()

_CAPACITY_STEP = 16  # rows by which the capacity of a step grows
_MAX_EXCESS = 4  # a step with more than so many times the capacity that is needed is captured anew


class GraphedDecodeStep:
    """Captures a decode step and replays it until rows, adapters, cache or prefixes outgrow it; where `fits_varlen`."""

    def __init__(self, decoder: Decoder, cache: KVCache, *, max_prefix_tokens: int) -> None:
        """max_prefix_tokens: of shared prefixes, up to which they are copied into a pool."""
        self._decoder, self._cache, self._max_prefix_tokens = decoder, cache, max_prefix_tokens
        self._pool: PrefixPool | None = None
        self._step: _CapturedStep | None = None
        self._is_broken = decoder in _UNCAPTURABLE

    def logits(self, rows: Sequence[ActiveSequence]) -> Tensor | None:
        """The logits [n, vocab_size] after each row's last token, whose keys and values are cached then; None where a
        graph does not suit.
        """
        adapters = _distinct([row.seq.adapter for row in rows])
        prefixes = _distinct([row.seq.prefix for row in rows])
        prefix_tokens = sum(prefix.stop for prefix in prefixes)
        if self._is_broken or _total_rank(adapters) > MAX_RANKS or prefix_tokens > self._max_prefix_tokens:
            return None
        try:
            return self._prepare(rows, adapters, prefixes).run(rows)
        except RuntimeError as error:
            logging.getLogger(__name__).warning("steps are not captured as a CUDA graph, and take longer: %s", error)
            self._is_broken, self._step, self._pool = True, None, None
            if not is_out_of_memory(error):
                _UNCAPTURABLE.add(self._decoder)
            return None

    def _prepare(
        self, rows: Sequence[ActiveSequence], adapters: list[LoraWeights], prefixes: list[Prefix]
    ) -> _CapturedStep:
        capacity = -(-len(rows) // _CAPACITY_STEP) * _CAPACITY_STEP
        if self._step is not None and capacity <= self._step.capacity <= capacity * _MAX_EXCESS:
            capacity = self._step.capacity
        self._cache.reserve(capacity, max(row.max_cached for row in rows))
        if self._pool is None or not self._pool.load(prefixes, max_prefixes=capacity):
            self._step = None  # frees its pool before a new one is allocated
            decoder = self._decoder
            self._pool = PrefixPool(
                decoder.config, prefixes, decoder.dtype, decoder.device, max_tokens=self._max_prefix_tokens
            )
        if self._step is None or not self._step.suits(capacity, adapters, self._cache):
            self._step = _CapturedStep(self._decoder, self._cache, self._pool, capacity, adapters)
        return self._step


class _CapturedStep:
    """One decode step with capacity for some rows, of some adapters."""

    def __init__(
        self, decoder: Decoder, cache: KVCache, pool: PrefixPool, capacity: int, adapters: Sequence[LoraWeights]
    ) -> None:
        self.capacity = capacity
        self._decoder, self._cache, self._pool, self._adapters = decoder, cache, pool, adapters
        self._captured_keys = cache.keys[0]
        self._table = torch.zeros(9, capacity + 1, dtype=torch.int64, device=decoder.device)
        self._lora = PerTokenLora(adapters, self._table[4, :capacity], decoder.dtype)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._logits = torch.empty(0)

    def suits(self, capacity: int, adapters: Sequence[LoraWeights], cache: KVCache) -> bool:
        """Whether it can be replayed for such rows."""
        adapter_ids = {id(adapter) for adapter in self._adapters}
        same_memory = cache.keys[0] is self._captured_keys
        return capacity == self.capacity and same_memory and all(id(adapter) in adapter_ids for adapter in adapters)

    def run(self, rows: Sequence[ActiveSequence]) -> Tensor:
        """[n, vocab_size], a copy. Raises RuntimeError where capturing fails, or replaying gives something else."""
        by_prefix = sorted(range(len(rows)), key=lambda index: self._pool.index(rows[index].seq.prefix))
        self._table.copy_(torch.tensor(self._table_rows([rows[index] for index in by_prefix])))
        if self._graph is None:
            self._capture(len(rows))
        else:
            self._graph.replay()
        original_order = sorted(range(len(rows)), key=by_prefix.__getitem__)
        return self._logits[torch.tensor(original_order, device=self._logits.device)]

    def _table_rows(self, rows: Sequence[ActiveSequence]) -> list[list[int]]:
        """What `_compute` reads. Rows above the real ones write into slots that are not in use."""
        slots = [row.slot for row in rows]
        slots += sorted({*range(self.capacity)} - {*slots})
        adapter_index = {id(adapter): index for index, adapter in enumerate(self._adapters)}
        no_adapter = len(adapter_index)
        rows_of_prefix = [0] * len(self._pool.ends)
        for row in rows:
            if row.seq.prefix is not None:
                rows_of_prefix[self._pool.index(row.seq.prefix)] += 1
        row_ends = [sum(rows_of_prefix[: index + 1]) for index in range(len(rows_of_prefix))]
        columns = (
            ([row.last_token for row in rows], 0),
            ([row.position for row in rows], 0),
            (slots, 0),
            ([row.cached for row in rows], 0),
            ([adapter_index.get(id(row.seq.adapter), no_adapter) for row in rows], no_adapter),
            (sorted(range(self.capacity), key=slots.__getitem__), 0),  # the row of each slot
            ([int(row.seq.prefix is None) for row in rows], 1),
            ([0, *row_ends], row_ends[-1] if row_ends else 0),
            ([0, *self._pool.ends], self._pool.ends[-1] if self._pool.ends else 0),
        )
        return [values + [padding] * (self.capacity + 1 - len(values)) for values, padding in columns]

    def _capture(self, rows: int) -> None:
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            expected = self._compute()  # libraries allocate their workspaces before anything is captured
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._logits = self._compute()
        graph.replay()
        replayed, expected = self._logits[:rows].float(), expected[:rows].float()
        tolerance = 0.02 * float(expected.abs().max())
        if not torch.allclose(replayed, expected, rtol=0.02, atol=tolerance, equal_nan=True):
            raise RuntimeError("a step that is repeated gives other logits than one that is computed")
        self._graph = graph

    def _compute(self) -> Tensor:
        tokens, positions = self._table[:2, : self.capacity]
        attention = _GraphedDecodeAttention(self._cache, self._pool, self._table)
        return self._decoder.logits(self._decoder.hidden(tokens, positions, attention, self._lora))


class _GraphedDecodeAttention:
    """`PrefixMergeDecodeAttention` in calls whose shapes never change."""

    def __init__(self, cache: KVCache, pool: PrefixPool, table: Tensor) -> None:
        """table: [9, R + 1], of `_CapturedStep._table_rows`."""
        _, _, slots, cached, _, row_of_slot, has_no_prefix, query_bounds, key_bounds = table
        self._cache, self._pool, self._capacity = cache, pool, len(slots) - 1
        columns = (column[: self._capacity] for column in (slots, cached, row_of_slot))
        self._slots, self._cached, self._row_of_slot = columns
        self._used_keys = (self._cached[self._row_of_slot] + 1).int()
        self._has_no_prefix = has_no_prefix[: self._capacity, None] != 0
        slot_length = cache.keys[0].shape[1]
        counter = torch.arange(self._capacity + 1, dtype=torch.int32, device=table.device)
        self._single_queries = SequenceBounds(counter, 1)
        self._whole_slots = SequenceBounds(counter * slot_length, slot_length)
        self._prefix_queries = SequenceBounds(query_bounds.int(), self._capacity)
        self._prefix_keys = SequenceBounds(key_bounds.int(), pool.capacity)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """query [R, H, Dh], key and value [R, Hkv, Dh], rotated -> [R, H, Dh]."""
        keys, values = self._cache.keys[layer], self._cache.values[layer]
        keys[self._slots, self._cached] = key
        values[self._slots, self._cached] = value
        by_slot, logsumexp = attend_varlen(
            query[self._row_of_slot],
            keys[: self._capacity].flatten(0, 1),
            values[: self._capacity].flatten(0, 1),
            self._single_queries,
            self._whole_slots,
            used_keys=self._used_keys,
        )
        output, logsumexp = by_slot[self._slots], logsumexp[self._slots]
        if not self._pool.capacity:
            return output
        pool = (self._pool.keys[layer], self._pool.values[layer])
        prefix_output, prefix_logsumexp = attend_varlen(query, *pool, self._prefix_queries, self._prefix_keys)
        # Of rows without a prefix both hold whatever was in memory.
        prefix_logsumexp = prefix_logsumexp.masked_fill(self._has_no_prefix, -torch.inf)
        prefix_output = prefix_output.masked_fill(self._has_no_prefix.unsqueeze(-1), 0.0)
        weight = torch.sigmoid(prefix_logsumexp - logsumexp).unsqueeze(-1).to(prefix_output.dtype)
        return torch.lerp(output, prefix_output, weight)


def _distinct(items: Sequence[Item | None]) -> list[Item]:
    return list({id(item): item for item in items if item is not None}.values())


def _total_rank(adapters: Sequence[LoraWeights]) -> int:
    return sum(max((len(pair.a) for pair in adapter.pairs.values()), default=0) for adapter in adapters)
