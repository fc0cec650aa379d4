"""Parquet, streamed in small batches; pyarrow is imported only when such a file is met."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lorica.data.files import FileFormat, open_checked
from lorica.data.pandas_index import range_indexes
from lorica.data.plain import to_plain_value
from lorica.data.table import Record, Table
from lorica.errors import DataError, MissingExtraError
from lorica.names import utf8_path

_BATCH_ROWS = 1024
_DAMAGED = "the Parquet file is damaged or cut off"
_AS_TEXT = "mend the value, or write the column as text in UTF-8"
# As Arrow writes types whose values Python has as a file of JSON would: nearly all columns are of them.
_PLAIN_TYPES = frozenset(
    {"string", "large_string", "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
     "halffloat", "float", "double", "null", "list<element: string>", "list<item: string>"}
)  # fmt: skip


def load_pyarrow(table_path: Path, doing: str) -> tuple[Any, Any]:
    """The modules (pyarrow, pyarrow.parquet). Raises MissingExtraError naming the extra when not installed."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError("pyarrow", extra="parquet", needed_for=f"{doing} {table_path.name}") from error
    return pyarrow, pyarrow.parquet


def read_parquet(table_path: Path) -> Table:
    """The `Table` of a Parquet file; its "lines" are row numbers, from 1."""
    open_checked(table_path, FileFormat("parquet", False)).close()
    pyarrow, parquet = load_pyarrow(table_path, "reading")
    failures = (pyarrow.ArrowException, OSError, UnicodeDecodeError)
    try:
        with utf8_path(table_path) as name, parquet.ParquetFile(name) as parquet_file:
            stored_names = tuple(parquet_file.schema_arrow.names)
            range_index = range_indexes(parquet_file.schema_arrow.metadata)
            row_count = parquet_file.metadata.num_rows
    except failures as error:
        raise DataError(f"{_DAMAGED} ({error})", path=table_path, line=1, fix="copy or download it again") from error
    range_index = {
        name: values for name, values in range_index.items() if name not in stored_names and len(values) == row_count
    }
    for name in stored_names:
        if stored_names.count(name) > 1:
            raise DataError(f"the column {name!r} appears twice", path=table_path, line=1, fix="rename or remove one")

    def records(columns: Sequence[str]) -> Iterator[Record]:
        row_number = 0
        try:
            # buffer_size makes pyarrow stream the column chunks instead of loading whole row groups.
            with utf8_path(table_path) as name, parquet.ParquetFile(name, buffer_size=1 << 20) as parquet_file:
                # Without any column, the rows could not be counted.
                needed = [name for name in columns if name not in range_index] or list(stored_names[:1])
                for record_batch in parquet_file.iter_batches(_BATCH_ROWS, columns=needed, use_threads=False):
                    for values in _plain_rows(record_batch, table_path, row_number):
                        values |= {name: range_index[name][row_number] for name in columns if name in range_index}
                        row_number += 1
                        yield row_number, values
        except failures as error:
            fix = "copy or download it again"
            raise DataError(f"{_DAMAGED} ({error})", path=table_path, line=row_number + 1, fix=fix) from error

    notes = tuple(
        f"{table_path}: the column {name!r} is an index that pandas stored as a range" for name in range_index
    )
    return Table(table_path, (*stored_names, *range_index), 1, False, records, notes)


def _plain_rows(record_batch: Any, table_path: Path, rows_before: int) -> list[dict[str, Any]]:
    """The rows of a batch as a file of JSON would hold them: decimals are numbers, dates and times texts, maps objects.

    rows_before: rows of the file before this batch. Raises DataError for a value that Python cannot hold.
    """
    try:
        rows: list[dict[str, Any]] = record_batch.to_pylist()
    except (ValueError, OverflowError) as error:
        raise _unreadable_value(record_batch, table_path, rows_before, error) from error
    for field in record_batch.schema:
        if str(field.type) in _PLAIN_TYPES:
            continue
        is_map = str(field.type).startswith("map<")
        for row_number, row in enumerate(rows, rows_before + 1):
            value = row[field.name]
            row[field.name] = to_plain_value(
                _object(value, table_path, row_number, field.name) if is_map and value is not None else value
            )
    return rows


def _object(members: list[tuple[Any, Any]], table_path: Path, row_number: int, column: str) -> dict[Any, Any]:
    """A map as an object. Raises DataError for a key that it has twice."""
    values = dict(members)
    if len(values) < len(members):
        message = f"the column {column!r} holds a map with a key twice"
        raise DataError(message, path=table_path, line=row_number, fix="give every value a key of its own")
    return values


def _unreadable_value(record_batch: Any, table_path: Path, rows_before: int, read_error: Exception) -> DataError:
    """The error for the first value of a batch that Python cannot hold: a date beyond the year 9999, no UTF-8."""
    for row_index in range(record_batch.num_rows):
        for column, values in zip(record_batch.schema.names, record_batch.columns, strict=True):
            try:
                values[row_index].as_py()
            except (ValueError, OverflowError) as error:
                message = f"the column {column!r} ({values.type}) holds a value that cannot be read: {error}"
                return DataError(message, path=table_path, line=rows_before + row_index + 1, fix=_AS_TEXT)
    message = f"a value cannot be read: {read_error}"
    return DataError(message, path=table_path, line=rows_before + 1, fix=_AS_TEXT)
