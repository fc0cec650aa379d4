"""The KV cache of sequences that are being decoded: one slot of keys and values each."""

from __future__ import annotations

import torch
from torch import Tensor

from lorica.memory_limit import NO_LIMIT
from lorica.models.allocator import release_free_pages
from lorica.models.families import DecoderConfig

# The cache grows by whole blocks of these.
_BLOCK_SLOTS = 16
_BLOCK_TOKENS = 64
_LAST_BLOCK_TOKENS = 8  # of blocks that hold all that the sequences may come to


class KVCache:
    """Keys and values of each sequence's suffix; slots 0..n-1 are in use, without gaps.

    keys, values: of each layer, [slots, length, Hkv, Dh].
    """

    def __init__(self, config: DecoderConfig, dtype: torch.dtype, device: torch.device, *, max_tokens: int) -> None:
        """max_tokens: slots times length, above which the cache grows by no more than is needed."""
        self._heads, self._head_dim, self._max_tokens = config.kv_heads, config.head_dim, max_tokens
        empty = torch.empty(0, 0, self._heads, self._head_dim, dtype=dtype, device=device)
        self.keys = [empty] * config.layers
        self.values = [empty] * config.layers

    def reserve(self, slots: int, length: int, final_length: int = NO_LIMIT) -> None:
        """Grow to at least this many slots of this many tokens; what is cached stays.

        final_length: tokens that no slot will exceed, beyond which there is no need to grow.
        """
        # Layers may differ in shape if memory ran out while the cache grew.
        shapes = [tensor.shape for tensor in (*self.keys, *self.values)]
        have_slots, have_length = (min(shape[side] for shape in shapes) for side in range(2))
        if slots <= have_slots and length <= have_length:
            return
        slots, length = self._grown_shape((slots, length), (have_slots, have_length), final_length)
        if self.keys[0].device.type == "cpu":
            release_free_pages()
        for tensors in (self.keys, self.values):
            for layer, old in enumerate(tensors):
                # Zeros: what a mask hides is still multiplied by 0, and 0 * NaN is NaN.
                grown = old.new_zeros(slots, length, self._heads, self._head_dim)
                used = slice(min(slots, old.shape[0])), slice(min(length, old.shape[1]))
                grown[used] = old[used]
                tensors[layer] = grown

    def _grown_shape(self, needed: tuple[int, int], present: tuple[int, int], final_length: int) -> tuple[int, int]:
        """The first of these within max_tokens: whole blocks that cover the present shape, too; whole blocks; blocks of
        tokens only; no more than is needed.
        """
        (slots, length), (present_slots, present_length) = needed, present
        block_slots = _round_up(slots, _BLOCK_SLOTS)
        final_length = _round_up(max(length, final_length), _LAST_BLOCK_TOKENS)
        block_length = min(_round_up(length, _BLOCK_TOKENS), final_length)
        shapes = (
            (max(block_slots, present_slots), max(block_length, present_length)),
            (block_slots, block_length),
            (slots, block_length),
        )
        return next((shape for shape in shapes if shape[0] * shape[1] <= self._max_tokens), needed)

    def write(self, layer: int, slot: int, key: Tensor, value: Tensor) -> None:
        """Fill a slot from its beginning with key, value [L, Hkv, Dh]."""
        self.keys[layer][slot, : len(key)] = key
        self.values[layer][slot, : len(value)] = value

    def move(self, source: int, target: int) -> None:
        """Copy a slot over another."""
        for tensor in (*self.keys, *self.values):
            tensor[target] = tensor[source]

    def copy_to(self, target_cache: KVCache, source: int, target: int, length: int) -> None:
        """Copy the first tokens of a slot into a slot of another cache, which has room for them."""
        layers = zip((*self.keys, *self.values), (*target_cache.keys, *target_cache.values), strict=True)
        for source_layer, target_layer in layers:
            target_layer[target, :length] = source_layer[source, :length]


def _round_up(count: int, step: int) -> int:
    return -(-count // step) * step
