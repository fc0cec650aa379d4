"""JSON keys that the first record did not have: misspelt ones are refused, and those that nothing reads are listed."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from lorica.data.column_mapping import ColumnMapping, column_of, is_blank
from lorica.data.table import Table
from lorica.errors import RowError


class LateKeys:
    """Watches the keys of records that may bring new ones (JSON) for spellings of a column that is read.

    names: all keys so far that no record is read by, in the order of the file.
    """

    def __init__(self, mapping: ColumnMapping, table: Table) -> None:
        self._mapping, self._path = mapping, table.path
        unmapped_names = (
            name for name in mapping.schema.optional if name not in {**mapping.columns, **mapping.constants}
        )
        self._read = {
            column for value_name in unmapped_names for column in mapping.schema.columns_for(value_name)
        }.union(mapping.columns.values())
        self._all_keys: set[str] = set()
        self._suspects: dict[str, str] = {}
        self.names: list[str] = []
        self._learn(table.names)

    def _learn(self, record_keys: Collection[str]) -> None:
        for record_key in record_keys:
            if record_key in self._all_keys:
                continue
            self._all_keys.add(record_key)
            if (value_name := self._mapping.intended_name(record_key)) is not None:
                self._suspects[record_key] = value_name
            if record_key not in self._read:
                self.names.append(record_key)

    def check(self, record: Mapping[str, Any], line_number: int) -> None:
        """Raises RowError for a record that has a value under another spelling of a name, and none under the name."""
        if not record.keys() <= self._all_keys:
            self._learn(record.keys())
        for key, value_name in self._suspects.items():
            column = self._mapping.columns.get(value_name) or column_of(self._mapping.schema, value_name, record)
            if value_name in self._mapping.constants or is_blank(record.get(key)) or not is_blank(record.get(column)):
                continue
            message = f"the key {key!r} is not {column!r}, but looks meant to be"
            raise RowError(message, path=self._path, line=line_number, fix=f"spell it {column!r} in every record")
