"""Shared beginnings copied side by side, so that one call of a kernel reads all of them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch

from lorica.engines.native.packed_batch import Prefix
from lorica.models.families import DecoderConfig

_GROWS = 1024  # tokens


class Pool:
    """keys, values: of each layer [capacity, Hkv, Dh]. ends[i]: where the i-th beginning ends, ancestors included."""

    def __init__(
        self,
        config: DecoderConfig,
        prefixes: Sequence[Prefix],
        dtype: torch.dtype,
        device: torch.device,
        *,
        most_tokens: int,
    ) -> None:
        """With room for these beginnings, which it holds, and up to most_tokens for half as many more: an outgrown one
        is made anew, and whatever reads it. For none it has no room at all.
        """
        tokens = sum(prefix.stop for prefix in prefixes)
        self.capacity = -(-max(tokens, min(tokens * 3 // 2, most_tokens)) // _GROWS) * _GROWS
        shape = (self.capacity, config.kv_heads, config.head_dim)
        self.keys = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(config.layers)]
        self.values = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(config.layers)]
        self.ends: list[int] = []
        self._held: list[Prefix] = []
        self._numbers: dict[int, int] = {}
        self.hold(prefixes, most=len(prefixes))

    def hold(self, prefixes: Sequence[Prefix], *, most: int) -> bool:
        """Have these there, at most so many with others that were; False, and nothing is done, if there is no room."""
        fresh = [prefix for prefix in prefixes if id(prefix) not in self._numbers]
        if not fresh and len(self._held) <= most:
            return True
        if len(self._held) + len(fresh) > most or self._end() + sum(one.stop for one in fresh) > self.capacity:
            if len(prefixes) > most or sum(one.stop for one in prefixes) > self.capacity:
                return False
            self._held, self._numbers, self.ends, fresh = [], {}, [], list(prefixes)
        for prefix in fresh:
            self._append(prefix)
        return True

    def number(self, prefix: Prefix | None) -> int:
        """Which of the beginnings it is; for none the number after the last."""
        return len(self._held) if prefix is None else self._numbers[id(prefix)]

    def _append(self, prefix: Prefix) -> None:
        chain = prefix.chain()
        begins = list(accumulate((link.length for link in chain), initial=self._end()))
        for link, at in zip(chain, begins, strict=False):
            for layer, (keys, values) in enumerate(zip(self.keys, self.values, strict=True)):
                keys[at : at + link.length] = link.keys[layer].transpose(0, 1)
                values[at : at + link.length] = link.values[layer].transpose(0, 1)
        self._numbers[id(prefix)] = len(self._held)
        self._held.append(prefix)
        self.ends.append(begins[-1])

    def _end(self) -> int:
        return self.ends[-1] if self.ends else 0
