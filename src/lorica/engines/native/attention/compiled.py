"""Attention of a pass by the compiled kernel: the bits of a query's result depend on it and on the keys it sees alone.

Nothing is gathered, padded or masked in memory: the kernel is told where each sequence's tokens and shared beginnings
lie.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lorica.engines.native.attention.prefix_merge import Keep
from lorica.engines.native.kv_cache import RowCache
from lorica.engines.native.packed_batch import Pass, Piece, Prefix
from lorica.models.compiled import bindings

_NEVER = np.iinfo(np.int32).max


class CompiledAttention:
    """Attention of a pass over new sequences, for `Decoder.hidden`; bfloat16 on a CPU, where `kernels.fits`."""

    def __init__(self, work: Pass, windows: Sequence[int | None], *, keep: Keep | None = None) -> None:
        self._windows, self._keep = windows, keep
        links: list[Prefix] = []
        chains: dict[int, tuple[int, int]] = {}  # of each shared beginning: where its links stand, and how many
        self._held: list[object] = [links]  # what the addresses below point to
        rows = []
        for piece, offset in zip(work.pieces, work.offsets, strict=True):
            chain = [] if piece.prefix is None else piece.prefix.chain()
            if id(piece.prefix) not in chains:
                chains[id(piece.prefix)] = len(links), len(chain)
                links += chain
            rows.append((offset, piece.length, piece.start, *chains[id(piece.prefix)], *self._branches(piece)))
        self._sequences = np.array(rows, np.int64)
        lengths = np.array([link.length for link in links], np.int64)
        self._links = [
            (_addresses(links, "keys", layer), _addresses(links, "values", layer), lengths)
            for layer in range(len(windows))
        ]

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """query [T, H, Dh], or of no rows; key and value [T, Hkv, Dh], rotated -> [T, H, Dh]."""
        if self._keep is not None:
            self._keep(layer, key, value)
        if not len(query):
            return query
        return bindings.attend(query, key, value, self._sequences, self._links[layer], self._windows[layer])

    def _branches(self, piece: Piece) -> tuple[int, int]:
        """Addresses of what the kernel must know of a sequence that has branches."""
        if not piece.branches.tokens:
            return 0, 0
        until = [_NEVER] * piece.start + [piece.start + end for end in piece.until()]
        places = [*range(piece.start), *piece.positions()]
        both = np.array([until, places], np.int32)
        self._held.append(both)
        return both[0].ctypes.data, both[1].ctypes.data


class CompiledStep:
    """`StepAttention` by the compiled kernel: a row's line of the cache is one more shared beginning of its own.

    lines[i]: the cache line of token i; lengths[i]: tokens in that line before this one; prefixes[i]: what lies before.
    Tokens behind these stand for nothing. The cache has room for the new ones.
    """

    def __init__(
        self,
        cache: RowCache,
        lines: Sequence[int],
        lengths: Sequence[int],
        windows: Sequence[int | None],
        prefixes: Sequence[Prefix | None],
    ) -> None:
        self._cache, self._windows = cache, windows
        self._lines, self._at = torch.tensor(lines), torch.tensor(lengths)
        self._shared: list[Prefix] = []
        numbers: dict[int, int] = {}  # of each shared beginning among these
        spans: list[int] = []
        of_links: list[int] = []  # which shared beginning a link is, -1 for a row's line
        rows = []
        for row, (length, prefix) in enumerate(zip(lengths, prefixes, strict=True)):
            chain = [] if prefix is None else prefix.chain()
            start = (0 if prefix is None else prefix.stop) + length
            rows.append((row, 1, start, len(spans), len(chain) + 1, 0, 0))
            for link in chain:
                if numbers.setdefault(id(link), len(self._shared)) == len(self._shared):
                    self._shared.append(link)
            of_links += [*(numbers[id(link)] for link in chain), -1]
            spans += [*(link.length for link in chain), length]
        self._sequences, self._lengths = np.array(rows, np.int64), np.array(spans, np.int64)
        self._of_links = np.array(of_links)
        self._numbers = np.array(lines, np.int64)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """query [T, H, Dh], key and value [T, Hkv, Dh], rotated -> [T, H, Dh]; zeros where no row stands."""
        keys, values = self._write(layer, "keys", key), self._write(layer, "values", value)
        return bindings.attend(query, key, value, self._sequences, (keys, values, self._lengths), self._windows[layer])

    def _write(self, layer: int, kind: str, fresh: Tensor) -> bindings.Integers:
        """Put the new ones into the cache; returns where the links' are."""
        held = getattr(self._cache, kind)[layer]
        held[self._lines, self._at] = fresh[: len(self._lines)]
        shared = np.append(_addresses(self._shared, kind, layer), 0)
        found: bindings.Integers = shared[self._of_links]
        found[self._of_links < 0] = held.data_ptr() + self._numbers * (held.stride(0) * held.element_size())
        return found


def _addresses(links: Sequence[Prefix], kind: str, layer: int) -> bindings.Integers:
    tensors = [getattr(link, kind)[layer] for link in links]  # [Hkv, L, Dh], as views of [L, Hkv, Dh]
    assert all(one.transpose(0, 1).is_contiguous() for one in tensors)
    return np.array([one.data_ptr() for one in tensors], np.int64)
