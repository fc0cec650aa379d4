"""A table of any format: names, and records with the line each starts on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from lorica.errors import DataError, RowError

Record = tuple[int, Mapping[str, Any] | RowError]
"""(line, values by the file's own column names, or why this one record cannot be read)"""


def check_names(table_path: Path, line_number: int, column_names: Sequence[str]) -> None:
    """Raises DataError for a header with a column that has no name, or two of one name."""
    unnamed_columns = [number for number, name in enumerate(column_names, 1) if not name.strip()]
    if unnamed_columns:
        message = f"column {unnamed_columns[0]} of the header has no name"
        fix = "name it or remove it (pandas writes such a column for its index: use to_csv(index=False))"
        raise DataError(message, path=table_path, line=line_number, fix=fix)
    for column_name in column_names:
        if column_names.count(column_name) > 1:
            places = [str(number) for number, name in enumerate(column_names, 1) if name == column_name]
            raise DataError(
                f"the header names {column_name!r} more than once (columns {', '.join(places)})",
                path=table_path,
                line=line_number,
                fix="rename or remove all but one; a file without a header needs one as its first line",
            )


class TableOptions(msgspec.Struct, frozen=True):
    """How a file of rows is laid out, where its name and content do not say.

    quoting: of CSV and TSV: auto, standard, none, backslash or spaced. delimiter: of CSV and TSV: auto, comma, tab,
    semicolon or pipe. sheet: of a workbook; empty for the only one that holds rows.
    """

    quoting: str = "auto"
    delimiter: str = "auto"
    sheet: str = ""


class Table(msgspec.Struct, frozen=True):
    """An opened table.

    path: of its file. names: the header's columns; for JSON the keys of the first record. line: where the header (first
    record) is. open_names: records may hold other keys than `names` (JSON). records(columns): one pass over the rows;
    formats with a header yield exactly `columns`, which must be in `names`. It can be called once. notes: what a person
    should know about how it is read. in_memory: the records come from no file, and `line` counts them.
    """

    path: Path
    names: tuple[str, ...]
    line: int
    open_names: bool
    records: Callable[[Sequence[str]], Iterator[Record]]
    notes: tuple[str, ...] = ()
    in_memory: bool = False

    def error(self, message: str, *, fix: str) -> DataError:
        """The error for what is wrong with its header (first record)."""
        return DataError(message, path=self.path, line=self.line, fix=fix)

    def whole_records(self, columns: Sequence[str]) -> Iterator[tuple[int, Mapping[str, Any]]]:
        """As `records`, for files in which no record may be left out. Raises DataError at the first that cannot be
        read."""
        for line_number, record in self.records(columns):
            if isinstance(record, RowError):
                raise record.as_data_error()
            yield line_number, record
