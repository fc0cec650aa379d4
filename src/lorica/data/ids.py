"""Refusing duplicate ids in a stream of any length, with about 16 bytes of memory a row."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from lorica.errors import DataError

T = TypeVar("T")


class HashedIds:
    """64-bit hashes of texts, in an open-addressing table: 8 bytes a slot, filled between a half and three quarters.

    A text whose hash is already there was *perhaps* seen before; a text whose hash is not there certainly was not.
    """

    def __init__(self) -> None:
        self._slots = array("Q", [0]) * 1024
        self._used = 0

    def __len__(self) -> int:
        return self._used

    @property
    def nbytes(self) -> int:
        """Bytes of the table."""
        return len(self._slots) * self._slots.itemsize

    def add(self, id_text: str) -> bool:
        """Add `id_text`; False when its hash was there already."""
        if 4 * self._used >= 3 * len(self._slots):
            self._grow()
        if not self._insert(self._slots, hash(id_text) & 0xFFFF_FFFF_FFFF_FFFF or 1):
            return False
        self._used += 1
        return True

    @staticmethod
    def _insert(slots: array[int], id_hash: int) -> bool:
        slot_count = len(slots)
        slot_index = id_hash % slot_count
        while slots[slot_index]:
            if slots[slot_index] == id_hash:
                return False
            slot_index = slot_index + 1 if slot_index + 1 < slot_count else 0
        slots[slot_index] = id_hash
        return True

    def _grow(self) -> None:
        # Half as much again, not double: the table never holds more than two slots a text.
        larger_slots = array("Q", [0]) * (len(self._slots) * 3 // 2)
        for id_hash in self._slots:
            if id_hash:
                self._insert(larger_slots, id_hash)
        self._slots = larger_slots


def refuse_duplicates(
    items: Iterator[T],
    *,
    key: Callable[[T], tuple[str, int]],
    again: Callable[[], Iterator[T]],
    path: Path,
    unit: str = "on line",
) -> Iterator[T]:
    """Yield `items`; raise DataError, with both lines, at the second item with one id.

    key(item) is its (id, line). `again()` starts a second pass over the same items: when a hash repeats, the
    first bearer of the id is looked for there, so that two ids with one hash are never mistaken for
    duplicates. unit: what a line is called in the message.
    """
    used_ids = HashedIds()
    for item in items:
        row_id, line_number = key(item)
        if not used_ids.add(row_id):
            first_line = next((line for earlier_id, line in map(key, again()) if earlier_id == row_id), line_number)
            if first_line != line_number:
                message = f"the id was already used {unit} {first_line}"
                raise DataError(message, path=path, line=line_number, row_id=row_id, fix=ID_FIX)
        yield item


ID_FIX = "every row needs its own id: remove the duplicate, or map another column to the id"
