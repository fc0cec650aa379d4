"""The table of formats: which module opens which kind of file."""

from __future__ import annotations

from pathlib import Path

from lorica.data.csv_table import read_csv
from lorica.data.files import file_format
from lorica.data.json_table import read_json
from lorica.data.parquet_table import read_parquet
from lorica.data.table import Table, TableOptions


def open_table(path: Path, options: TableOptions | None = None) -> Table:
    """Open the file of rows at `path` by its suffix, and by `options` where neither that nor its content tells.

    Raises DataError for a file that is missing, empty, of another kind than its suffix, or whose header is
    unusable; MissingExtraError for Parquet without pyarrow.
    """
    fmt = file_format(path)
    if fmt.kind == "parquet":
        return read_parquet(path)
    if fmt.kind in ("csv", "tsv"):
        return read_csv(path, fmt, options)
    return read_json(path, fmt)
