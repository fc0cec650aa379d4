"""Attention of a pass by the compiled kernel: the bits of a query's result depend on it and on the keys it sees alone.

Nothing is gathered, padded or masked in memory: the kernel is told where each sequence's tokens and shared beginnings
lie.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from lorica.engines.native.attention import Keep
from lorica.engines.native.pack import Pass, Piece, Prefix
from lorica.models.compiled import kernels

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
        return kernels.attend(query, key, value, self._sequences, self._links[layer], self._windows[layer])

    def _branches(self, piece: Piece) -> tuple[int, int]:
        """Addresses of what the kernel must know of a sequence that has branches."""
        if not piece.branches.tokens:
            return 0, 0
        until = [_NEVER] * piece.start + [piece.start + end for end in piece.until()]
        places = [*range(piece.start), *piece.positions()]
        both = np.array([until, places], np.int32)
        self._held.append(both)
        return both[0].ctypes.data, both[1].ctypes.data


def _addresses(links: Sequence[Prefix], kind: str, layer: int) -> kernels.Integers:
    tensors = [getattr(link, kind)[layer] for link in links]  # [Hkv, L, Dh], as views of [L, Hkv, Dh]
    assert all(one.transpose(0, 1).is_contiguous() for one in tensors)
    return np.array([one.data_ptr() for one in tensors], np.int64)
