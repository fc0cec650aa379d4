"""The table of file formats: suffix -> the module that reads it."""

from __future__ import annotations

from pathlib import Path

from lorica.data.csv_table import read_csv
from lorica.data.files import file_format
from lorica.data.json_table import read_json
from lorica.data.parquet_table import read_parquet
from lorica.data.table import Table, TableOptions
from lorica.data.xlsx_table import read_xlsx
from lorica.errors import DataError


def open_table(path: Path, options: TableOptions | None = None) -> Table:
    """Open the file of rows at `path` by its suffix, and by `options` where neither that nor its content tells.

    Raises DataError for a file that is missing, empty, of another kind than its suffix, or whose header is
    unusable; MissingExtraError for Parquet without pyarrow and workbooks without openpyxl.
    """
    fmt = file_format(path)
    options = options or TableOptions()
    if fmt.format == "xlsx":
        return read_xlsx(path, options)
    if options.sheet:
        message = f"data.sheet={options.sheet}: the file is no workbook, and has no sheets"
        raise DataError(message, path=path, fix="leave data.sheet out")
    if fmt.format == "parquet":
        return read_parquet(path)
    if fmt.format in ("csv", "tsv"):
        return read_csv(path, fmt, options)
    return read_json(path, fmt)
