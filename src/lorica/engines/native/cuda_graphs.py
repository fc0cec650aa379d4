"""Steps of generation on a GPU as CUDA graphs: hundreds of small kernels are started by one call.

A graph repeats what was captured, on the same memory and in the same shapes. So a step has room for more rows than
there may be; which rows there are, their tokens, lines, adapters and shared beginnings are numbers that its kernels
read.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar
from weakref import WeakSet

import torch
from torch import Tensor

from lorica.engines.native.attention.varlen import Ends, attend_varlen
from lorica.engines.native.kv_cache import RowCache
from lorica.engines.native.memory import is_out_of_memory
from lorica.engines.native.packed_batch import Prefix
from lorica.engines.native.prefix_pool import Pool
from lorica.models.decoder import Decoder
from lorica.models.lora import LoraWeights, RowAdapters

MOST_RANKS = 512
"""Ranks of all adapters together up to which every row meets all of them: beyond, blanking costs more than it saves."""

Item = TypeVar("Item")

_NEVER: WeakSet[Decoder] = WeakSet()  # whose steps cannot be captured

_ROOM = 16  # rows by which a step grows
_SHRINK = 4  # a step with more than so many times the room that is needed is captured anew


@dataclass(frozen=True)
class StepRow:
    """A row that is continued: its newest token and that token's position, its line of the cache, the tokens that are
    there and may come to be there, what lies before these, and its adapter.
    """

    token: int
    position: int
    line: int
    cached: int
    longest: int
    prefix: Prefix | None
    adapter: LoraWeights | None


class GraphSteps:
    """Captures a step, and repeats it until rows, adapters, cache or shared beginnings outgrow it.

    Only where `fits_varlen`.
    """

    def __init__(self, decoder: Decoder, cache: RowCache, *, pool_tokens: int) -> None:
        """pool_tokens: of shared beginnings, up to which they are copied side by side to be read in one call."""
        self._decoder, self._cache, self._pool_tokens = decoder, cache, pool_tokens
        self._pool: Pool | None = None
        self._step: _Step | None = None
        self._broken = decoder in _NEVER

    def logits(self, rows: Sequence[StepRow]) -> Tensor | None:
        """The logits [n, vocab_size] after each row's newest token; None where a graph does not suit.

        The new tokens' keys and values are in the cache then.
        """
        adapters = _distinct([row.adapter for row in rows])
        prefixes = _distinct([row.prefix for row in rows])
        tokens = sum(prefix.stop for prefix in prefixes)
        if self._broken or _ranks(adapters) > MOST_RANKS or tokens > self._pool_tokens:
            return None
        try:
            return self._prepared(rows, adapters, prefixes).run(rows)
        except RuntimeError as error:
            logging.getLogger(__name__).warning("steps are not captured as a CUDA graph, and take longer: %s", error)
            self._broken, self._step, self._pool = True, None, None
            if not is_out_of_memory(error):
                _NEVER.add(self._decoder)
            return None

    def _prepared(self, rows: Sequence[StepRow], adapters: list[LoraWeights], prefixes: list[Prefix]) -> _Step:
        room = -(-len(rows) // _ROOM) * _ROOM
        if self._step is not None and room <= self._step.room <= room * _SHRINK:
            room = self._step.room
        self._cache.reserve(room, max(row.longest for row in rows))
        if self._pool is None or not self._pool.hold(prefixes, most=room):
            self._step = None  # what it reads is given up before more is taken
            decoder = self._decoder
            self._pool = Pool(decoder.config, prefixes, decoder.dtype, decoder.device, most_tokens=self._pool_tokens)
        if self._step is None or not self._step.suits(room, adapters, self._cache):
            self._step = _Step(self._decoder, self._cache, self._pool, room, adapters)
        return self._step


class _Step:
    """One step with room for some rows, of some adapters."""

    def __init__(
        self, decoder: Decoder, cache: RowCache, pool: Pool, room: int, adapters: Sequence[LoraWeights]
    ) -> None:
        self.room = room
        self._decoder, self._cache, self._pool, self._adapters = decoder, cache, pool, adapters
        self._keys = cache.keys[0]
        self._numbers = torch.zeros(9, room + 1, dtype=torch.int64, device=decoder.device)
        self._lora = RowAdapters(adapters, self._numbers[4, :room], decoder.dtype)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._logits = torch.empty(0)

    def suits(self, room: int, adapters: Sequence[LoraWeights], cache: RowCache) -> bool:
        """Whether it can be repeated for such rows."""
        known = {id(adapter) for adapter in self._adapters}
        return room == self.room and cache.keys[0] is self._keys and all(id(one) in known for one in adapters)

    def run(self, rows: Sequence[StepRow]) -> Tensor:
        """[n, vocab_size], a copy. Raises RuntimeError where capturing fails, or repeating gives something else."""
        order = sorted(range(len(rows)), key=lambda index: self._pool.number(rows[index].prefix))
        self._numbers.copy_(torch.tensor(self._table([rows[index] for index in order])))
        if self._graph is None:
            self._capture(len(rows))
        else:
            self._graph.replay()
        places = sorted(range(len(rows)), key=order.__getitem__)
        return self._logits[torch.tensor(places, device=self._logits.device)]

    def _table(self, rows: Sequence[StepRow]) -> list[list[int]]:
        """What `_compute` reads. Rows that are not there write into lines that are not in use."""
        lines = [row.line for row in rows]
        lines += sorted({*range(self.room)} - {*lines})
        owners = {id(adapter): number for number, adapter in enumerate(self._adapters)}
        counts = [0] * len(self._pool.ends)
        for row in rows:
            if row.prefix is not None:
                counts[self._pool.number(row.prefix)] += 1
        stops = [sum(counts[: number + 1]) for number in range(len(counts))]
        columns = (
            ([row.token for row in rows], 0),
            ([row.position for row in rows], 0),
            (lines, 0),
            ([row.cached for row in rows], 0),
            ([owners.get(id(row.adapter), len(owners)) for row in rows], len(owners)),
            (sorted(range(self.room), key=lines.__getitem__), 0),  # the row of each line
            ([int(row.prefix is None) for row in rows], 1),
            ([0, *stops], stops[-1] if stops else 0),
            ([0, *self._pool.ends], self._pool.ends[-1] if self._pool.ends else 0),
        )
        return [numbers + [filling] * (self.room + 1 - len(numbers)) for numbers, filling in columns]

    def _capture(self, count: int) -> None:
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            right = self._compute()  # libraries make their workspaces before anything is captured
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._logits = self._compute()
        graph.replay()
        found, right = self._logits[:count].float(), right[:count].float()
        if not torch.allclose(found, right, rtol=0.02, atol=0.02 * float(right.abs().max()), equal_nan=True):
            raise RuntimeError("a step that is repeated gives other logits than one that is computed")
        self._graph = graph

    def _compute(self) -> Tensor:
        tokens, positions = self._numbers[:2, : self.room]
        attention = _StepAttention(self._cache, self._pool, self._numbers)
        return self._decoder.logits(self._decoder.hidden(tokens, positions, attention, self._lora))


class _StepAttention:
    """`StepAttention` in calls whose shapes never change."""

    def __init__(self, cache: RowCache, pool: Pool, numbers: Tensor) -> None:
        """numbers: [9, R + 1], the columns of `_Step._table`."""
        _, _, lines, cached, _, of_lines, alone, queries, keys = numbers
        self._cache, self._pool, self._room = cache, pool, len(lines) - 1
        self._lines, self._cached, self._of_lines = (each[: self._room] for each in (lines, cached, of_lines))
        self._used = (self._cached[self._of_lines] + 1).int()
        self._alone = alone[: self._room, None] != 0
        capacity = cache.keys[0].shape[1]
        column = torch.arange(self._room + 1, dtype=torch.int32, device=numbers.device)
        self._one_each, self._whole_lines = Ends(column, 1), Ends(column * capacity, capacity)
        self._queries, self._shared = Ends(queries.int(), self._room), Ends(keys.int(), pool.capacity)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """query [R, H, Dh], key and value [R, Hkv, Dh], rotated -> [R, H, Dh]."""
        keys, values = self._cache.keys[layer], self._cache.values[layer]
        keys[self._lines, self._cached] = key
        values[self._lines, self._cached] = value
        own, total = attend_varlen(
            query[self._of_lines],
            keys[: self._room].flatten(0, 1),
            values[: self._room].flatten(0, 1),
            self._one_each,
            self._whole_lines,
            used=self._used,
        )
        output, total = own[self._lines], total[self._lines]
        if not self._pool.capacity:
            return output
        pool = (self._pool.keys[layer], self._pool.values[layer])
        found, weight = attend_varlen(query, *pool, self._queries, self._shared)
        # Of rows that see nothing shared, both hold whatever was in memory.
        weight = weight.masked_fill(self._alone, -torch.inf)
        found = found.masked_fill(self._alone.unsqueeze(-1), 0.0)
        return torch.lerp(output, found, torch.sigmoid(weight - total).unsqueeze(-1).to(found.dtype))


def _distinct(items: Sequence[Item | None]) -> list[Item]:
    return list({id(one): one for one in items if one is not None}.values())


def _ranks(adapters: Sequence[LoraWeights]) -> int:
    return sum(max((len(pair.a) for pair in one.pairs.values()), default=0) for one in adapters)
