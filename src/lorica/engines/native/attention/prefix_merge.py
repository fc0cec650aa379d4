"""Attention over [shared prefixes ; own part], each part on its own and merged exactly by log-sum-exp.

Masks and gather indices are made once per forward pass; the layers only index and multiply.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lorica.engines.native.attention.block import attend_block
from lorica.engines.native.packed_batch import Pass, Piece, Prefix

Keep = Callable[[int, Tensor, Tensor], None]
"""Receives (layer, key, value) of a pass, [T, Hkv, Dh] each, to keep what later passes need."""

_SMALLEST_BUCKET = 16


@dataclass(frozen=True)
class _Reach:
    """What a window leaves of a prefix for some queries. mask: additive [Tr, L]; blind: [1, 1, Tr], sees
    nothing.
    """

    mask: Tensor | None
    blind: Tensor | None


class PrefixPart:
    """Queries start..stop of a pass see one prefix."""

    def __init__(
        self, prefix: Prefix, start: int, stop: int, positions: Tensor, windows: set[int], dtype: torch.dtype
    ) -> None:
        self._prefix, self._start, self._stop = prefix, start, stop
        self._reach: dict[int | None, _Reach | None] = {None: _Reach(None, None)}
        for window in windows:
            self._reach[window] = self._reach_of(window, positions[start:stop], dtype)

    def merge(self, layer: int, window: int | None, query: Tensor, output: Tensor, total: Tensor) -> None:
        """Add what the prefix contributes, in place. query, output [T, H, Dh]; total [T, H], the log-sum-exp
        so far.
        """
        reach = self._reach[window]
        if reach is None:
            return
        part = slice(self._start, self._stop)
        found, weight = attend_block(
            query[part].transpose(0, 1).unsqueeze(0),
            self._prefix.keys[layer].unsqueeze(0),
            self._prefix.values[layer].unsqueeze(0),
            reach.mask,
        )
        if reach.blind is not None:
            weight = weight.masked_fill(reach.blind, -torch.inf)
            found = found.masked_fill(reach.blind.unsqueeze(-1), 0.0)
        found, weight = found[0].transpose(0, 1), weight[0].transpose(0, 1)
        so_far = total[part]
        share = torch.sigmoid(weight - so_far).unsqueeze(-1)
        output[part] = torch.lerp(output[part], found, share.to(found.dtype))
        total[part] = torch.logaddexp(so_far, weight)

    def _reach_of(self, window: int, positions: Tensor, dtype: torch.dtype) -> _Reach | None:
        keys = torch.arange(self._prefix.start, self._prefix.stop, device=positions.device)
        seen = positions[:, None] - keys[None, :] < window
        if bool(seen.all()):
            return _Reach(None, None)
        sighted = seen.any(dim=1)
        if not bool(sighted.any()):
            return None
        return _Reach(additive(seen, dtype), None if bool(sighted.all()) else ~sighted[None, None, :])


def prefix_parts(
    prefixes: Sequence[Prefix | None],
    lengths: Sequence[int],
    positions: Tensor,
    windows: set[int],
    dtype: torch.dtype,
) -> list[PrefixPart]:
    """The parts of sequences laid end to end: neighbours below the same prefix share one."""
    ranges: list[tuple[Prefix, int, int]] = []
    latest: dict[int, int] = {}
    start = 0
    for prefix, length in zip(prefixes, lengths, strict=True):
        stop = start + length
        for link in [] if prefix is None else prefix.chain():
            at = latest.get(id(link))
            if at is not None and ranges[at][2] == start:
                ranges[at] = (link, ranges[at][1], stop)
            else:
                latest[id(link)] = len(ranges)
                ranges.append((link, start, stop))
        start = stop
    return [PrefixPart(link, a, b, positions, windows, dtype) for link, a, b in ranges]


def additive(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """Booleans -> 0 where true, -inf where false."""
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill(~seen, -torch.inf)


class _Bucket:
    """Pieces of similar length, padded to the longest for one attention call per layer.

    Padding stands behind the real tokens, so that causality alone hides it from them.
    """

    def __init__(
        self,
        pieces: Sequence[Piece],
        offsets: Sequence[int],
        windows: set[int],
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        lengths = torch.tensor([piece.length for piece in pieces], device=device)
        self._longest = int(lengths.max())
        column = torch.arange(self._longest, device=device)
        inside = column < lengths[:, None]
        self._gather = torch.where(inside, torch.tensor(offsets, device=device)[:, None] + column, 0)
        self.real = inside.reshape(-1).nonzero().squeeze(1)
        self.tokens = self._gather.reshape(-1)[self.real]
        self.padded = len(pieces) * self._longest
        self._masks: dict[int | None, Tensor | None] = dict.fromkeys([None, *windows])
        branched = any(piece.branches.tokens for piece in pieces)
        for window in self._masks:
            if branched or (window is not None and window < self._longest):
                self._masks[window] = additive(self._seen(pieces, window, column), dtype)

    def attend(self, window: int | None, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Packed query, key, value -> padded output [B * L, H, Dh] and log-sum-exp [B * L, H]."""
        mask = self._masks[window]
        output, total = attend_block(
            query[self._gather].transpose(1, 2),
            key[self._gather].transpose(1, 2),
            value[self._gather].transpose(1, 2),
            mask,
            causal=mask is None,
        )
        return output.transpose(1, 2).flatten(0, 1), total.transpose(1, 2).flatten(0, 1)

    def _seen(self, pieces: Sequence[Piece], window: int | None, column: Tensor) -> Tensor:
        # [B, 1, L, L]; a padding query sees itself, so that no query sees nothing
        pad = [0] * self._longest
        device = column.device
        endless = [self._longest] * self._longest
        until = torch.tensor([(p.until() + endless)[: self._longest] for p in pieces], device=device)
        seen = (column[:, None] >= column[None, :]) & (column[:, None] < until[:, None, :])
        if window is not None:
            position = torch.tensor([(p.positions() + pad)[: self._longest] for p in pieces], device=device)
            near = position[:, :, None] - position[:, None, :] < window
            seen = seen & (near | (column[:, None] == column[None, :]))
        return seen.unsqueeze(1)


class SharedAttention:
    """Attention of a pass over new sequences, for `Decoder.hidden`."""

    def __init__(
        self, work: Pass, windows: Sequence[int | None], dtype: torch.dtype, *, keep: Keep | None = None
    ) -> None:
        self._windows = windows
        self._keep = keep
        distinct = {window for window in windows if window is not None}
        device = work.tokens.device
        sized: dict[tuple[bool, int], list[int]] = {}
        for index, piece in enumerate(work.pieces):
            size = max(_SMALLEST_BUCKET, 1 << (piece.length - 1).bit_length())
            sized.setdefault((bool(piece.branches.tokens), size), []).append(index)
        self._buckets = [
            _Bucket([work.pieces[i] for i in each], [work.offsets[i] for i in each], distinct, dtype, device)
            for each in sized.values()
        ]
        self._parts = prefix_parts(
            [piece.prefix for piece in work.pieces],
            [piece.length for piece in work.pieces],
            work.positions,
            distinct,
            dtype,
        )
        # token -> its row in the outputs of the buckets laid end to end
        self._place = torch.empty_like(work.tokens)
        start = 0
        for bucket in self._buckets:
            self._place[bucket.tokens] = bucket.real + start
            start += bucket.padded

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """query [T, H, Dh], or of no rows; key and value [T, Hkv, Dh], rotated -> [T, H, Dh]."""
        if self._keep is not None:
            self._keep(layer, key, value)
        if not len(query):
            return query
        window = self._windows[layer]
        found = [bucket.attend(window, query, key, value) for bucket in self._buckets]
        outputs, totals = zip(*found, strict=True)
        output = torch.cat(outputs)[self._place]
        if self._parts:
            total = torch.cat(totals)[self._place]
            for part in self._parts:
                part.merge(layer, window, query, output, total)
        return output
