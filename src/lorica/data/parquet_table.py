"""Parquet, streamed in small batches; pyarrow is imported only when such a file is met."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lorica.data.files import FileFormat, open_checked
from lorica.data.pandas_index import range_indexes
from lorica.data.table import Record, Table
from lorica.errors import DataError, MissingExtraError
from lorica.names import utf8_path

_BATCH_ROWS = 1024
_DAMAGED = "the Parquet file is damaged or cut off"


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
                    for values in record_batch.to_pylist():
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
