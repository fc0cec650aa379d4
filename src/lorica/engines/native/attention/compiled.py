"""Attention by the compiled kernel, batch-invariant: the bits of a query's output depend on it and its keys alone.

Nothing is gathered, padded or masked in memory: the kernel gets the addresses of each sequence's tokens and prefixes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lorica.engines.native.kv_cache import KVCache
from lorica.engines.native.packed_batch import PackedBatch, PackedSequence, Prefix, prefix_chain
from lorica.models.compiled import bindings

_ALWAYS_VISIBLE = np.iinfo(np.int32).max


class CompiledAttention:
    """Attention of a forward pass over new sequences, for `CpuDecoder.hidden` with the compiled kernels; bfloat16."""

    def __init__(self, batch: PackedBatch, *, windows: Sequence[int | None]) -> None:
        self._windows = windows
        links: list[Prefix] = []
        link_ranges: dict[int, tuple[int, int]] = {}  # of each prefix: the first of its links, and their number
        self._owners: list[object] = [links]  # of the memory that the addresses below point to
        rows = []
        for seq, offset in zip(batch.sequences, batch.offsets, strict=True):
            chain = prefix_chain(seq.prefix)
            if id(seq.prefix) not in link_ranges:
                link_ranges[id(seq.prefix)] = len(links), len(chain)
                links += chain
            rows.append((offset, seq.length, seq.start, *link_ranges[id(seq.prefix)], *self._tree_addresses(seq)))
        self._sequences = np.array(rows, np.int64)
        lengths = np.array([link.length for link in links], np.int64)
        self._links = [
            (_addresses(links, "keys", layer), _addresses(links, "values", layer), lengths)
            for layer in range(len(windows))
        ]

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """query [T, H, Dh], key and value [T, Hkv, Dh], rotated -> [T, H, Dh]."""
        return bindings.attend(query, key, value, self._sequences, self._links[layer], self._windows[layer])

    def _tree_addresses(self, seq: PackedSequence) -> tuple[int, int]:
        """The addresses of `subtree_ends` and `positions` of all keys of a sequence with a token tree."""
        if not seq.tree.tokens:
            return 0, 0
        subtree_ends = [_ALWAYS_VISIBLE] * seq.start + [seq.start + end for end in seq.subtree_ends()]
        positions = [*range(seq.start), *seq.positions()]
        table = np.array([subtree_ends, positions], np.int32)
        self._owners.append(table)
        return table[0].ctypes.data, table[1].ctypes.data


class CompiledDecodeAttention:
    """`PrefixMergeDecodeAttention` by the compiled kernel, to which the cache slot of a row is its last prefix.

    Tokens behind those of the rows are padding.
    """

    def __init__(
        self,
        cache: KVCache,
        slots: Sequence[int],
        lengths: Sequence[int],
        prefixes: Sequence[Prefix | None],
        *,
        windows: Sequence[int | None],
    ) -> None:
        self._cache, self._windows = cache, windows
        self._slots, self._lengths = torch.tensor(slots), torch.tensor(lengths)
        self._shared_links: list[Prefix] = []
        link_indices: dict[int, int] = {}  # into _shared_links
        link_lengths: list[int] = []
        sources: list[int] = []  # of each row's links: the index into _shared_links, -1 for the cache slot
        rows = []
        for row, (length, prefix) in enumerate(zip(lengths, prefixes, strict=True)):
            chain = prefix_chain(prefix)
            position = (0 if prefix is None else prefix.stop) + length
            rows.append((row, 1, position, len(link_lengths), len(chain) + 1, 0, 0))
            for link in chain:
                if link_indices.setdefault(id(link), len(self._shared_links)) == len(self._shared_links):
                    self._shared_links.append(link)
            sources += [*(link_indices[id(link)] for link in chain), -1]
            link_lengths += [*(link.length for link in chain), length]
        self._sequences, self._link_lengths = np.array(rows, np.int64), np.array(link_lengths, np.int64)
        self._sources, self._slot_indices = np.array(sources), np.array(slots, np.int64)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """query [T, H, Dh], key and value [T, Hkv, Dh], rotated -> [T, H, Dh]; zeros for padding."""
        keys, values = self._write(layer, "keys", key), self._write(layer, "values", value)
        links = (keys, values, self._link_lengths)
        return bindings.attend(query, key, value, self._sequences, links, self._windows[layer])

    def _write(self, layer: int, side: str, fresh: Tensor) -> bindings.Integers:
        """Write the new tokens' keys or values into the cache; returns the address of each link."""
        cached = getattr(self._cache, side)[layer]
        cached[self._slots, self._lengths] = fresh[: len(self._slots)]
        shared = np.append(_addresses(self._shared_links, side, layer), 0)
        addresses: bindings.Integers = shared[self._sources]
        slot_bytes = cached.stride(0) * cached.element_size()
        addresses[self._sources < 0] = cached.data_ptr() + self._slot_indices * slot_bytes
        return addresses


def _addresses(links: Sequence[Prefix], side: str, layer: int) -> bindings.Integers:
    tensors = [getattr(link, side)[layer] for link in links]  # [Hkv, L, Dh], as views of [L, Hkv, Dh]
    assert all(tensor.transpose(0, 1).is_contiguous() for tensor in tensors)
    return np.array([tensor.data_ptr() for tensor in tensors], np.int64)
