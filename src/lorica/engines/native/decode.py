"""Continuing rows token by token: a finished row leaves at once and makes room for the next planned ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lorica.engines.base import Decode, failed, max_new_tokens_for
from lorica.engines.native.attention.compiled import CompiledStep
from lorica.engines.native.attention.prefix_merge import prefix_parts
from lorica.engines.native.attention.varlen import fits_varlen
from lorica.engines.native.cuda_graphs import GraphSteps, StepRow
from lorica.engines.native.kv_cache import RowCache, StepAttention
from lorica.engines.native.memory import in_halves, is_out_of_memory, too_large
from lorica.engines.native.model_runner import attention_of
from lorica.engines.native.packed_batch import ALIGNMENT, Piece, find_spans, pack
from lorica.engines.native.sampler import Picker, pick
from lorica.engines.native.stop_strings import holds_stop
from lorica.models.cpu.decoder import AnyDecoder, FastDecoder
from lorica.models.decoder import Decoder
from lorica.models.packed_attention import Attention
from lorica.records import Generate, Output

Finished = list[tuple[int, Output]]
"""(index of the request, its output) of rows that are done."""


@dataclass(frozen=True, eq=False)
class Waiting:
    """A row that is to be continued: the number of its request, its own part, the request."""

    index: int
    piece: Piece
    request: Generate


@dataclass(eq=False)
class _Row:
    index: int
    piece: Piece
    picker: Picker
    limit: int  # new tokens it may get
    line: int  # of the cache
    last: int = -1  # the newest token, not yet read by the model

    @property
    def cached(self) -> int:
        """Tokens in its cache line when the newest is about to be read."""
        return self.piece.length + len(self.picker.tokens) - 1

    @property
    def longest(self) -> int:
        """Tokens that its cache line may come to hold."""
        return self.piece.length + self.limit

    @property
    def position(self) -> int:
        """Of the newest token."""
        return self.piece.start + self.cached

    def to_step(self) -> StepRow:
        """What a captured step must know."""
        piece = self.piece
        return StepRow(self.last, self.position, self.line, self.cached, self.longest, piece.prefix, piece.adapter)


class Generation:
    """The rows that are being continued. Rows keep the order of the plan, so that adapters stand together.

    cache_tokens: own tokens for which the cache may have room, rows times the longest of them. decode: what tokens say;
    without it stop texts end nothing. deterministic: beside compiled kernels, a row's bits depend on no other row.
    give_up: see `in_halves`.
    """

    def __init__(
        self,
        decoder: AnyDecoder,
        *,
        cache_tokens: int,
        decode: Decode | None = None,
        deterministic: bool = False,
        give_up: Callable[[], bool] = lambda: False,
    ) -> None:
        self._decode, self._align, self._give_up = decode, ALIGNMENT if deterministic else 1, give_up
        self._decoder = decoder
        self._cache_tokens = cache_tokens
        self._cache = RowCache(decoder.config, decoder.dtype, decoder.device, most_tokens=cache_tokens)
        self._graphs: GraphSteps | None = None
        if isinstance(decoder, Decoder) and fits_varlen(decoder.config, decoder.dtype, decoder.device):
            self._graphs = GraphSteps(decoder, self._cache, pool_tokens=cache_tokens)
        self._rows: list[_Row] = []

    @property
    def busy(self) -> bool:
        """Whether any row is unfinished."""
        return bool(self._rows)

    @property
    def rows(self) -> int:
        """How many are unfinished."""
        return len(self._rows)

    def fits(self, waiting: Sequence[Waiting]) -> bool:
        """Whether these rows can join now. When none is active, anything can."""
        return self._has_room([one.piece.length + self._room(one.request) for one in waiting])

    def admit(self, waiting: Sequence[Waiting]) -> Finished:
        """Read the own parts of new rows and pick the first token of each. Returns rows that are done already, or do
        not fit into memory even alone.
        """
        return in_halves(self._join, waiting, lambda one: (one.index, too_large(one.request)), give_up=self._give_up)

    def _join(self, waiting: Sequence[Waiting]) -> Finished:
        # Until its first token is picked no row has joined, for memory may run out.
        first = len(self._rows)
        rows = [
            _Row(one.index, one.piece, Picker(one.request), self._room(one.request), first + offset)
            for offset, one in enumerate(waiting)
        ]
        pieces = [one.piece for one in waiting]
        work = pack(pieces, self._decoder.device, align=self._align)
        # A captured step is of no use once the cache has grown, so it grows for all that is to come.
        more = 0 if self._graphs is None else 1
        self._reserve(len(rows), max(row.piece.length + more * row.limit for row in rows))

        def keep(layer: int, key: Tensor, value: Tensor) -> None:
            for row, start in zip(rows, work.offsets, strict=True):
                stop = start + row.piece.length
                self._cache.write(layer, row.line, key[start:stop], value[start:stop])

        attention = attention_of(work, self._decoder, deterministic=False, keep=keep)
        ends = [start + row.piece.length - 1 for row, start in zip(rows, work.offsets, strict=True)]
        read = torch.tensor(self._filled(ends, ends[-1]), device=self._decoder.device)
        hidden = self._decoder.hidden(work.tokens, work.positions, attention, work.spans, read=read)
        chosen = self._pick(rows, self._decoder.logits(hidden)[: len(rows)])
        self._rows += rows
        return self._advance(rows, chosen)

    def step(self) -> Finished:
        """One more token for every row. Returns the rows that are done, or do not fit into memory even alone."""
        return in_halves(self._continue, list(self._rows), self._refuse, give_up=self._give_up)

    def _continue(self, rows: Sequence[_Row]) -> Finished:
        logits = None
        if self._graphs is not None and len(rows) == len(self._rows):
            logits = self._graphs.logits([row.to_step() for row in rows])
        return self._advance(rows, self._pick(rows, self._read(rows) if logits is None else logits))

    def _refuse(self, row: _Row) -> tuple[int, Output]:
        self._leave(row)
        return row.index, too_large(row.picker.request)

    def _read(self, rows: Sequence[_Row]) -> Tensor:
        """The logits after each row's newest token."""
        self._reserve()
        device = self._decoder.device
        tokens = torch.tensor(self._filled([row.last for row in rows], 0), device=device)
        positions = torch.tensor(self._filled([row.position for row in rows], 0), device=device)
        attention = self._attention(rows, positions)
        spans = find_spans([row.piece.adapter for row in rows], [1] * len(rows))
        hidden = self._decoder.hidden(tokens, positions, attention, spans)
        return self._decoder.logits(hidden)[: len(rows)]

    def hand_over(self, count: int, other: Generation) -> None:
        """Have another generation of the same decoder continue the last so many rows, as far as it has room."""
        for row in self._rows[-count:]:
            line = other.rows
            if not other._makes_room(row):
                return
            self._cache.copy(row.line, other._cache, line, row.cached)
            self._leave(row)
            row.line = line
            other._rows.append(row)

    def _makes_room(self, row: _Row) -> bool:
        if not self._has_room([row.longest]):
            return False
        try:
            self._reserve(1, row.cached)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            return False
        return True

    def _has_room(self, longest: Sequence[int]) -> bool:
        every = [*(row.longest for row in self._rows), *longest]
        return not self._rows or len(every) * max(every) <= self._cache_tokens

    def _reserve(self, more: int = 0, length: int = 0) -> None:
        """Room in the cache for one more token of every row, and for so many more rows of so many tokens."""
        self._cache.reserve(len(self._rows) + more, max([length, *(row.cached + 1 for row in self._rows)]))

    def _filled(self, numbers: list[int], filling: int) -> list[int]:
        """Up to a whole alignment: products of few rows, and the remainders of many, round otherwise."""
        return numbers + [filling] * (-len(numbers) % self._align)

    def _attention(self, rows: Sequence[_Row], positions: Tensor) -> Attention:
        decoder = self._decoder
        windows, prefixes = decoder.config.windows, [row.piece.prefix for row in rows]
        lines, lengths = [row.line for row in rows], [row.cached for row in rows]
        if isinstance(decoder, FastDecoder) and decoder.compiled:
            return CompiledStep(self._cache, lines, lengths, windows, prefixes)
        distinct = {window for window in windows if window is not None}
        parts = prefix_parts(prefixes, [1] * len(rows), positions, distinct, decoder.dtype)
        return StepAttention(self._cache, lines, lengths, windows, parts)

    def _room(self, request: Generate) -> int:
        return max_new_tokens_for(request, self._decoder.config.max_positions)

    def _pick(self, rows: Sequence[_Row], logits: Tensor) -> list[int | None]:
        """The next token of each row; None where logits are not numbers."""
        broken = logits.amax(dim=-1).isnan().tolist()  # a maximum is NaN where anything is, and found in one pass
        chosen = pick(logits.nan_to_num(nan=0.0) if any(broken) else logits, [row.picker for row in rows])
        return [None if bad else token for token, bad in zip(chosen, broken, strict=True)]

    def _advance(self, rows: Sequence[_Row], chosen: Sequence[int | None]) -> Finished:
        done: Finished = []
        for row, token in zip(rows, chosen, strict=True):
            output = _broken(row) if token is None else _accept(row, token, self._decode)
            if output is not None:
                done.append((row.index, output))
                self._leave(row)
        return done

    def _leave(self, row: _Row) -> None:
        # The last line moves into the gap, so that the lines in use stay without holes.
        last = max(self._rows, key=lambda other: other.line)
        if last is not row:
            self._cache.move(last.line, row.line)
            last.line = row.line
        self._rows.remove(row)


def _accept(row: _Row, token: int, decode: Decode | None) -> Output | None:
    request, tokens = row.picker.request, row.picker.tokens
    finish: Literal["stop", "length"] | None = None
    if token in request.stop_tokens:
        finish = "stop"
    else:
        tokens.append(token)
        row.last = token
        if decode is not None and holds_stop(decode, tokens, request.stop_texts):
            finish = "stop"
        elif len(tokens) == row.limit:
            finish = "length"
    return None if finish is None else Output(id=request.id, tokens=tuple(tokens), finish=finish)


def _broken(row: _Row) -> Output:
    return failed(row.picker.request, "the model's output is not a number (NaN): weights or precision are broken")
