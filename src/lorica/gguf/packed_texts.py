"""The strings of an array of a GGUF file, in its bytes: a vocabulary as a list of `str` takes several times as much."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import overload


class PackedTexts(Sequence[str]):
    """Strings in UTF-8, decoded when they are asked for."""

    def __init__(self, encoded: bytes, starts: array[int], stops: array[int]) -> None:
        """starts, stops: where each string begins in `encoded`, and the byte behind its last."""
        self._encoded, self._starts, self._stops = encoded, starts, stops

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> PackedTexts: ...

    def __getitem__(self, index: int | slice) -> str | PackedTexts:
        if isinstance(index, slice):
            return PackedTexts(self._encoded, self._starts[index], self._stops[index])
        return self._encoded[self._starts[index] : self._stops[index]].decode()

    def __repr__(self) -> str:
        return f"{len(self)} texts"
