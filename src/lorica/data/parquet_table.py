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


def load_pyarrow(path: Path, doing: str) -> tuple[Any, Any]:
    """The modules (pyarrow, pyarrow.parquet). Raises MissingExtraError naming the extra when not
    installed."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError("pyarrow", extra="parquet", needed_for=f"{doing} {path.name}") from error
    return pyarrow, pyarrow.parquet


def read_parquet(path: Path) -> Table:
    """The `Table` of a Parquet file; its "lines" are row numbers, from 1."""
    open_checked(path, FileFormat("parquet", False)).close()
    pyarrow, parquet = load_pyarrow(path, "reading")
    failures = (pyarrow.ArrowException, OSError, UnicodeDecodeError)
    try:
        with utf8_path(path) as name, parquet.ParquetFile(name) as file:
            stored = tuple(file.schema_arrow.names)
            index = range_indexes(file.schema_arrow.metadata)
            count = file.metadata.num_rows
    except failures as error:
        raise DataError(f"{_DAMAGED} ({error})", path=path, line=1, fix="copy or download it again") from error
    index = {name: values for name, values in index.items() if name not in stored and len(values) == count}
    for name in stored:
        if stored.count(name) > 1:
            raise DataError(f"the column {name!r} appears twice", path=path, line=1, fix="rename or remove one")

    def records(columns: Sequence[str]) -> Iterator[Record]:
        line = 0
        try:
            # buffer_size makes pyarrow stream the column chunks instead of loading whole row groups.
            with utf8_path(path) as name, parquet.ParquetFile(name, buffer_size=1 << 20) as file:
                # Without any column, the rows could not be counted.
                needed = [name for name in columns if name not in index] or list(stored[:1])
                for batch in file.iter_batches(_BATCH_ROWS, columns=needed, use_threads=False):
                    for values in batch.to_pylist():
                        values |= {name: index[name][line] for name in columns if name in index}
                        line += 1
                        yield line, values
        except failures as error:
            fix = "copy or download it again"
            raise DataError(f"{_DAMAGED} ({error})", path=path, line=line + 1, fix=fix) from error

    notes = tuple(f"{path}: the column {name!r} is an index that pandas stored as a range" for name in index)
    return Table((*stored, *index), 1, False, records, notes)
