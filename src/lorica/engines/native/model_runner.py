"""Forward passes over shared beginnings and over rows to score."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lorica.engines.native.attention.batch_invariant import TiledAttention, align_reads
from lorica.engines.native.attention.compiled import CompiledAttention
from lorica.engines.native.attention.prefix_merge import Keep, SharedAttention
from lorica.engines.native.attention.varlen import VarlenAttention, fits_varlen
from lorica.engines.native.packed_batch import ALIGNMENT, Pass, Piece, Prefix, pack
from lorica.engines.native.score import find_scored, score
from lorica.models.cpu.decoder import AnyDecoder, FastDecoder
from lorica.models.packed_attention import Attention
from lorica.records import Choose


class Passes:
    """deterministic: the bits of what is computed for a piece depend on no other piece."""

    def __init__(self, decoder: AnyDecoder, *, deterministic: bool) -> None:
        self._decoder, self._deterministic = decoder, deterministic

    def read(self, pieces: Sequence[Piece]) -> list[Prefix]:
        """Compute the keys and values of shared beginnings."""
        work = self._pack(pieces)
        prefixes = [Prefix(piece.prefix, piece.start, piece.length, [], []) for piece in pieces]

        def keep(layer: int, key: Tensor, value: Tensor) -> None:
            for prefix, start in zip(prefixes, work.offsets, strict=True):
                part = slice(start, start + prefix.length)
                prefix.keys.append(key[part].clone().transpose(0, 1))
                prefix.values.append(value[part].clone().transpose(0, 1))

        attention = attention_of(work, self._decoder, deterministic=self._deterministic, keep=keep)
        self._hidden(work, attention, work.tokens[:0])
        return prefixes

    def score(self, pieces: Sequence[Piece], requests: Sequence[Choose]) -> list[list[float]]:
        """The log-probability of every choice; pieces[i] is the own part of requests[i], its branches included."""
        work = self._pack(pieces)
        ends = [start + len(piece.tokens) for start, piece in zip(work.offsets, work.pieces, strict=True)]
        wanted = find_scored(requests, ends, self._decoder.device)
        if self._deterministic:
            wanted = align_reads(wanted, work.spans)
        attention = attention_of(work, self._decoder, deterministic=self._deterministic)
        return score(self._decoder, self._hidden(work, attention, wanted.rows), requests, wanted)

    def _pack(self, pieces: Sequence[Piece]) -> Pass:
        return pack(pieces, self._decoder.device, align=ALIGNMENT if self._deterministic else 1)

    def _hidden(self, work: Pass, attention: Attention, read: Tensor) -> Tensor:
        if isinstance(self._decoder, FastDecoder):
            # Adapters' products of their own round alike in any company, and batches run side by side.
            return self._decoder.hidden(
                work.tokens, work.positions, attention, work.spans, read=read, bundle=not self._deterministic
            )
        return self._decoder.hidden(work.tokens, work.positions, attention, work.spans, read=read)


def attention_of(work: Pass, decoder: AnyDecoder, *, deterministic: bool, keep: Keep | None = None) -> Attention:
    """The attention of a pass over new sequences: the fastest there is."""
    config = decoder.config
    if isinstance(decoder, FastDecoder) and decoder.compiled:
        return CompiledAttention(work, config.windows, keep=keep)
    whole = not any(piece.branches.tokens for piece in work.pieces)
    if whole and fits_varlen(config, decoder.dtype, decoder.device):
        return VarlenAttention(work, keep=keep)
    if not deterministic:
        return SharedAttention(work, config.windows, decoder.dtype, keep=keep)
    like = torch.empty(0, dtype=decoder.dtype, device=decoder.device)
    return TiledAttention(work, config.windows, like, heads=(config.heads, config.kv_heads), keep=keep)
