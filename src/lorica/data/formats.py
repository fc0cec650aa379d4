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


def open_table(table_path: Path, options: TableOptions | None = None) -> Table:
    """Open the file of rows at `table_path` by its suffix, and by `options` where neither that nor its content tells.

    Raises DataError for a file that is missing, empty, of another kind than its suffix, or whose header is
    unusable; MissingExtraError for Parquet without pyarrow and workbooks without openpyxl.
    """
    table_format = file_format(table_path)
    options = options or TableOptions()
    if table_format.format == "xlsx":
        return read_xlsx(table_path, options)
    if options.sheet:
        message = f"data.sheet={options.sheet}: the file is no workbook, and has no sheets"
        raise DataError(message, path=table_path, fix="leave data.sheet out")
    if table_format.format == "parquet":
        return read_parquet(table_path)
    if table_format.format in ("csv", "tsv"):
        return read_csv(table_path, table_format, options)
    return read_json(table_path, table_format)


def open_unconfigured(table_path: Path, options: TableOptions | None = None) -> Table:
    """As `open_table`, of a file that no key of `data` is for: what is unusual about it must be changed there."""
    try:
        return open_table(table_path, options)
    except DataError as error:
        if any(key in error.fix for key in ("data.delimiter", "data.quoting", "data.sheet")):
            error.fix = "no setting is for this file: save it as CSV with commas, or as a workbook of one sheet"
        raise
