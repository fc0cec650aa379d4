"""Shared prefixes copied into one contiguous buffer, so that one call of the varlen kernel reads all of them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch

from lorica.engines.native.packed_batch import Prefix, prefix_chain
from lorica.models.families import DecoderConfig

_CAPACITY_STEP = 1024  # tokens


class PrefixPool:
    """keys, values: of each layer [capacity, Hkv, Dh]. ends[i]: the end of the i-th prefix, its ancestors included."""

    def __init__(
        self,
        config: DecoderConfig,
        prefixes: Sequence[Prefix],
        dtype: torch.dtype,
        device: torch.device,
        *,
        max_tokens: int,
    ) -> None:
        """Holds these prefixes, with room for half as many tokens more, up to max_tokens: a pool that is outgrown is
        replaced, and so is the graph that reads it. For no prefixes it has no room.
        """
        tokens = sum(prefix.stop for prefix in prefixes)
        self.capacity = -(-max(tokens, min(tokens * 3 // 2, max_tokens)) // _CAPACITY_STEP) * _CAPACITY_STEP
        shape = (self.capacity, config.kv_heads, config.head_dim)
        self.keys = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(config.layers)]
        self.values = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(config.layers)]
        self.ends: list[int] = []
        self._prefixes: list[Prefix] = []
        self._indices: dict[int, int] = {}
        self.load(prefixes, max_prefixes=len(prefixes))

    def load(self, prefixes: Sequence[Prefix], *, max_prefixes: int) -> bool:
        """Have these prefixes in the pool, beside earlier ones as long as there are at most max_prefixes; False, and
        nothing is changed, if they do not fit.
        """
        fresh = [prefix for prefix in prefixes if id(prefix) not in self._indices]
        if not fresh and len(self._prefixes) <= max_prefixes:
            return True
        fresh_tokens = sum(prefix.stop for prefix in fresh)
        if len(self._prefixes) + len(fresh) > max_prefixes or self._used() + fresh_tokens > self.capacity:
            if len(prefixes) > max_prefixes or sum(prefix.stop for prefix in prefixes) > self.capacity:
                return False
            self._prefixes, self._indices, self.ends, fresh = [], {}, [], list(prefixes)
        for prefix in fresh:
            self._append(prefix)
        return True

    def index(self, prefix: Prefix | None) -> int:
        """The index of a prefix in the pool; for None the one behind the last."""
        return len(self._prefixes) if prefix is None else self._indices[id(prefix)]

    def _append(self, prefix: Prefix) -> None:
        chain = prefix_chain(prefix)
        starts = list(accumulate((link.length for link in chain), initial=self._used()))
        for link, start in zip(chain, starts, strict=False):
            for layer, (keys, values) in enumerate(zip(self.keys, self.values, strict=True)):
                keys[start : start + link.length] = link.keys[layer].transpose(0, 1)
                values[start : start + link.length] = link.values[layer].transpose(0, 1)
        self._indices[id(prefix)] = len(self._prefixes)
        self._prefixes.append(prefix)
        self.ends.append(starts[-1])

    def _used(self) -> int:
        return self.ends[-1] if self.ends else 0
