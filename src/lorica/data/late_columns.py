"""JSON keys that the first record did not have: misspelt ones are refused, and those that nothing reads are listed."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from lorica.data.column_mapping import ColumnMapping, column_of, is_blank
from lorica.errors import RowError


class LateKeys:
    """Watches the keys of records that may bring new ones (JSON) for spellings of a column that is read.

    names: all keys so far that no record is read by, in the order of the file.
    """

    def __init__(self, mapping: ColumnMapping, first: Collection[str]) -> None:
        self._mapping = mapping
        free = (name for name in mapping.schema.optional if name not in {**mapping.columns, **mapping.constants})
        self._read = {column for name in free for column in mapping.schema.columns_for(name)}.union(
            mapping.columns.values()
        )
        self._all_keys: set[str] = set()
        self._suspects: dict[str, str] = {}
        self.names: list[str] = []
        self._learn(first)

    def _learn(self, keys: Collection[str]) -> None:
        for key in keys:
            if key in self._all_keys:
                continue
            self._all_keys.add(key)
            if (name := self._mapping.intended_name(key)) is not None:
                self._suspects[key] = name
            if key not in self._read:
                self.names.append(key)

    def check(self, record: Mapping[str, Any], *, path: Path, line: int) -> None:
        """Raises RowError for a record that has a value under another spelling of a name, and none under the name."""
        if not record.keys() <= self._all_keys:
            self._learn(record.keys())
        for key, name in self._suspects.items():
            column = self._mapping.columns.get(name) or column_of(self._mapping.schema, name, record)
            if name in self._mapping.constants or is_blank(record.get(key)) or not is_blank(record.get(column)):
                continue
            raise RowError(
                f"the key {key!r} is not {column!r}, but looks meant to be",
                path=path,
                line=line,
                fix=f"spell it {column!r} in every record",
            )
