"""Keys and values of rows that are being continued, and the attention of one step over them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lorica.engines.native.attention.block import attend_block
from lorica.engines.native.attention.prefix_merge import PrefixPart, additive
from lorica.models.families import DecoderConfig

# By which the cache grows.
_LINES = 16
_TOKENS = 64


class RowCache:
    """One line of keys and values per row, its own part only; lines 0..n-1 are in use, without holes.

    keys, values: of each layer, [lines, length, Hkv, Dh].
    """

    def __init__(self, config: DecoderConfig, dtype: torch.dtype, device: torch.device, *, most_tokens: int) -> None:
        """most_tokens: lines times length, beyond which there is room for what is asked alone."""
        self._heads, self._head_dim, self._most_tokens = config.kv_heads, config.head_dim, most_tokens
        empty = torch.empty(0, 0, self._heads, self._head_dim, dtype=dtype, device=device)
        self.keys = [empty] * config.layers
        self.values = [empty] * config.layers

    def reserve(self, lines: int, length: int) -> None:
        """Have room for so many lines of so many tokens: no fewer than are in use, which stay."""
        shapes = [each.shape for each in (*self.keys, *self.values)]  # not all alike if memory ran out while they grew
        have_lines, have_length = (min(shape[side] for shape in shapes) for side in range(2))
        if lines <= have_lines and length <= have_length:
            return
        lines, length = self._suitable(lines, length, have_lines, have_length)
        for tensors in (self.keys, self.values):
            for layer, old in enumerate(tensors):
                # Zeros: what a mask hides is still multiplied by 0, and 0 * NaN is NaN.
                fresh = old.new_zeros(lines, length, self._heads, self._head_dim)
                used = slice(min(lines, old.shape[0])), slice(min(length, old.shape[1]))
                fresh[used] = old[used]
                tensors[layer] = fresh

    def _suitable(self, lines: int, length: int, have_lines: int, have_length: int) -> tuple[int, int]:
        """The most room that is not too much: beside what is there, in whole blocks, or what is asked alone."""
        many, long = -(-lines // _LINES) * _LINES, -(-length // _TOKENS) * _TOKENS
        wanted = ((max(many, have_lines), max(long, have_length)), (many, long), (lines, long))
        return next((one for one in wanted if one[0] * one[1] <= self._most_tokens), (lines, length))

    def write(self, layer: int, line: int, key: Tensor, value: Tensor) -> None:
        """Begin a line with key, value [L, Hkv, Dh]."""
        self.keys[layer][line, : len(key)] = key
        self.values[layer][line, : len(value)] = value

    def move(self, source: int, target: int) -> None:
        """Copy a line over another."""
        for tensor in (*self.keys, *self.values):
            tensor[target] = tensor[source]

    def copy(self, source: int, other: RowCache, target: int, length: int) -> None:
        """Copy the first tokens of a line into another cache's, which has room for them."""
        for mine, theirs in zip((*self.keys, *self.values), (*other.keys, *other.values), strict=True):
            theirs[target, :length] = mine[source, :length]


class StepAttention:
    """One new token per row: it sees its row's prefixes, its row's line of the cache, and itself.

    lines[i]: the cache line of token i; lengths[i]: tokens in that line before this one. The cache has room for it.
    """

    def __init__(
        self,
        cache: RowCache,
        lines: Sequence[int],
        lengths: Sequence[int],
        windows: Sequence[int | None],
        parts: Sequence[PrefixPart],
    ) -> None:
        device = cache.keys[0].device
        self._cache, self._windows, self._parts = cache, windows, parts
        self._rows, self._longest = len(lines), max(lengths) + 1
        self._lines = torch.tensor(lines, device=device)
        self._at = torch.tensor(lengths, device=device)
        self._order = torch.argsort(self._lines)  # tokens in the order of their lines
        self._back = torch.argsort(self._order)
        # Lines without holes are read where they are.
        self._which = slice(self._rows) if max(lines) < self._rows else self._lines[self._order]
        last = self._at[self._order][:, None]
        column = torch.arange(self._longest, device=device)[None, :]
        self._masks: dict[int | None, Tensor] = {}
        for window in set(windows):
            seen = column <= last
            if window is not None:
                seen = seen & (last - column < window)
            self._masks[window] = additive(seen, cache.keys[0].dtype)[:, None, None, :]

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """query [T, H, Dh], key and value [T, Hkv, Dh], rotated -> [T, H, Dh]."""
        keys, values = self._cache.keys[layer], self._cache.values[layer]
        keys[self._lines, self._at] = key
        values[self._lines, self._at] = value
        window = self._windows[layer]
        # The query heads of one key head stand in for queries: [n, H, Dh] -> [n, Hkv, H / Hkv, Dh].
        grouped = query[self._order].view(self._rows, key.shape[1], -1, query.shape[2])
        output, total = attend_block(
            grouped,
            keys[self._which, : self._longest].transpose(1, 2),
            values[self._which, : self._longest].transpose(1, 2),
            self._masks[window],
        )
        output = output.reshape(query.shape)[self._back]
        if self._parts:
            totals = total.reshape(query.shape[:2])[self._back]
            for part in self._parts:
                part.merge(layer, window, query, output, totals)
        return output
