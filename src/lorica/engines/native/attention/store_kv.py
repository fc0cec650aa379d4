"""Attention that hands on the keys and values of its forward pass, for prefixes and the KV cache."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from lorica.models.packed_attention import Attention

StoreKV = Callable[[int, Tensor, Tensor], None]
"""Receives (layer, key, value) of a forward pass, [T, Hkv, Dh] each, and stores what later passes need."""


class StoringAttention:
    """Another attention, with the keys and values of every layer stored first."""

    def __init__(self, attention: Attention, store: StoreKV) -> None:
        self._attention, self._store = attention, store

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """query [T, H, Dh], or of no rows to store only; key and value [T, Hkv, Dh], rotated -> [T, H, Dh]."""
        self._store(layer, key, value)
        return self._attention.attend(layer, query, key, value) if len(query) else query
