"""The strings of an array of a GGUF file, in its bytes: a vocabulary as a list of `str` takes several times as much."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Sequence
from typing import overload

LENGTH = struct.Struct("<Q")
"""Stands before each string of a GGUF file: its bytes."""


class PackedTexts(Sequence[str]):
    """Strings in UTF-8, decoded when they are asked for."""

    def __init__(self, encoded: bytes, starts: array[int]) -> None:
        """encoded: as a file has them, each behind its length in 8 bytes. starts: where each string begins."""
        self._encoded, self._starts = encoded, starts

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> PackedTexts: ...

    def __getitem__(self, index: int | slice) -> str | PackedTexts:
        if isinstance(index, slice):
            return PackedTexts(self._encoded, self._starts[index])
        start = self._starts[index]
        return self._encoded[start : start + LENGTH.unpack_from(self._encoded, start - LENGTH.size)[0]].decode()

    def __repr__(self) -> str:
        return f"{len(self)} texts"
