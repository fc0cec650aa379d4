"""Excel workbooks, streamed row by row; openpyxl is imported only when one is met."""

from __future__ import annotations

import datetime
import io
import re
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import ParseError

import msgspec

from lorica.data.column_mapping import EXACT
from lorica.data.column_names import fold_name
from lorica.data.files import FileFormat, open_checked
from lorica.data.table import Record, Table, TableOptions, check_names
from lorica.errors import DataError, MissingExtraError, RowError
from lorica.names import did_you_mean, listed

_DAMAGED = "the workbook is damaged or cut off"
_AGAIN = "copy or download it again"
_FAILURES = (OSError, EOFError, KeyError, ValueError, TypeError, zipfile.BadZipFile, zlib.error, ParseError)
_CHUNK = 1 << 20
_TAG = re.compile(rb"<(?:\w+:)?(row|mergeCell|f)\b([^>]*)>")
_LONGEST_TAG = 4096
_HIDDEN = re.compile(rb'\bhidden="(?:1|true)"')
_NUMBER = re.compile(rb'\br="(\d+)"')
_RANGE = re.compile(rb'\bref="([^"]+)"')
_MOST_SHOWN = 5


class _Marks(msgspec.Struct):
    """What a sheet says beside its values: hidden rows, merged ranges, and whether there are formulas."""

    hidden: list[int]
    merged: list[str]
    formulas: bool


def read_xlsx(path: Path, options: TableOptions) -> Table:
    """The `Table` of one sheet of a workbook; its "lines" are the sheet's row numbers.

    Raises DataError for a workbook with several sheets to choose from, merged cells or a damaged one; MissingExtraError
    without openpyxl.
    """
    open_checked(path, FileFormat("xlsx", False)).close()
    workbook = _load(path, values=True)
    sheet = _sheet(path, workbook, options.sheet)
    marks = _marks(path, sheet)
    if marks.merged:
        raise DataError(
            f"the cells {', '.join(marks.merged[:_MOST_SHOWN])} are merged: only the first of them holds the value",
            path=path,
            fix="unmerge them and fill each, or save the sheet as CSV",
        )
    formula_sheet = _load(path, values=False)[sheet.title] if marks.formulas else None
    numbered_rows = _numbered(path, sheet, formula_sheet)
    header_row, header_cells, _ = next(numbered_rows, (1, (), ()))
    header = ["" if cell.value is None else str(_plain(cell.value)) for cell in _trimmed(header_cells)]
    if not header:
        raise DataError("the sheet is empty", path=path, line=1, fix="check how it was made")
    check_names(path, header_row, header)

    def records(columns: Sequence[str]) -> Iterator[Record]:
        cell_indices = {name: header.index(name) for name in columns}
        for row_number, row_cells, formulas in numbered_rows:
            problem = _problem(path, row_number, row_cells, formulas, header)
            yield (
                row_number,
                problem
                or {
                    name: _plain(row_cells[index].value) if index < len(row_cells) else None
                    for name, index in cell_indices.items()
                },
            )

    return Table(path, tuple(header), header_row, False, records, tuple(_notes(path, workbook, sheet, marks)))


def _load(path: Path, *, values: bool) -> Any:
    try:
        import openpyxl
    except ImportError as error:
        raise MissingExtraError("openpyxl", extra="xlsx", needed_for=f"reading {path.name}") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of parts of a workbook that hold no values
            # From memory, where a workbook that nobody reads to its end leaves no file open.
            content = io.BytesIO(path.read_bytes())
            return openpyxl.load_workbook(content, read_only=True, data_only=values)
    except (*_FAILURES, openpyxl.utils.exceptions.InvalidFileException) as error:
        raise DataError(f"{_DAMAGED} ({error})", path=path, line=1, fix=_AGAIN) from error


def _sheet(path: Path, workbook: Any, sheet_name: str) -> Any:
    """The sheet that is named, or the only one that holds anything (hidden ones only if no other does)."""
    sheet_names = [sheet.title for sheet in workbook.worksheets]
    if sheet_name and sheet_name not in sheet_names:
        raise DataError(
            f"data.sheet={sheet_name}: there is no such sheet",
            path=path,
            fix=did_you_mean(
                sheet_name, sheet_names, key=fold_name, then=f"its sheets are: {', '.join(map(repr, sheet_names))}"
            ),
        )
    if sheet_name:
        return workbook[sheet_name]
    filled_sheets = [sheet for sheet in workbook.worksheets if next(_numbered(path, sheet), None)]
    if not filled_sheets:
        raise DataError("every sheet is empty", path=path, line=1, fix="check how it was made")
    visible_sheets = [sheet for sheet in filled_sheets if sheet.sheet_state == "visible"] or filled_sheets
    if len(visible_sheets) > 1:
        titles = [sheet.title for sheet in visible_sheets]
        raise DataError(
            f"{len(titles)} sheets hold something: {', '.join(map(repr, titles))}",
            path=path,
            fix=f"say which one: data.sheet='{titles[0]}'",
        )
    return visible_sheets[0]


def _numbered(path: Path, sheet: Any, formula_sheet: Any = None) -> Iterator[tuple[int, Sequence[Any], Sequence[Any]]]:
    """(row number, cells, cells of `formula_sheet`: the sheet with its formulas) of each row in which any cell holds
    something."""
    sheets = [sheet] if formula_sheet is None else [sheet, formula_sheet]
    for worksheet in sheets:
        worksheet.reset_dimensions()  # what a sheet says of its size may be wrong, and would cut it off
    row_iterators = [iter(worksheet.iter_rows()) for worksheet in sheets]
    row_number = 0
    while True:
        row_number += 1
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a date that is none has an error for its value
                sheet_rows = [next(worksheet, None) for worksheet in row_iterators]
        except _FAILURES as error:
            raise DataError(f"{_DAMAGED} ({error})", path=path, line=row_number, fix=_AGAIN) from error
        if sheet_rows[0] is None:
            return
        row_cells, formulas = sheet_rows[0], sheet_rows[-1] or ()
        if any(cell.value is not None for cell in (*row_cells, *formulas)):
            yield row_number, row_cells, formulas if formula_sheet is not None else ()


def _trimmed(row_cells: Sequence[Any]) -> Sequence[Any]:
    last_filled = max((number for number, cell in enumerate(row_cells, 1) if cell.value is not None), default=0)
    return row_cells[:last_filled]


def _problem(
    path: Path, row_number: int, row_cells: Sequence[Any], formula_cells: Sequence[Any], header: Sequence[str]
) -> RowError | None:
    """Why a row cannot be read: an error for a value, a formula without one, or a value beside the table."""
    for index, cell in enumerate(row_cells):
        column_name = repr(header[index]) if index < len(header) else f"number {index + 1}, which has no name"
        if cell.data_type == "e":
            message = f"the cell of the column {column_name} holds the error {cell.value}"
            return RowError(message, path=path, line=row_number, fix="mend the formula, or empty the cell")
        if cell.value is not None and index >= len(header):
            message = f"there is a value in the column {column_name}"
            return RowError(message, path=path, line=row_number, fix="name the column, or empty the cell")
        if cell.value is None and index < len(formula_cells) and formula_cells[index].data_type == "f":
            message = f"the cell of the column {column_name} holds a formula whose value was not saved"
            fix = "open the workbook in a spreadsheet program and save it, or put the value in the place of the formula"
            return RowError(message, path=path, line=row_number, fix=fix)
    return None


def _plain(cell_value: Any) -> Any:
    """A number that is whole, and kept its digits, as a whole number, a date as ISO text, everything else as it is."""
    if isinstance(cell_value, float) and cell_value.is_integer() and abs(cell_value) < EXACT:
        return int(cell_value)
    if isinstance(cell_value, datetime.datetime):
        return str(cell_value.date() if cell_value.time() == datetime.time() else cell_value)
    return str(cell_value) if isinstance(cell_value, datetime.date | datetime.time | datetime.timedelta) else cell_value


def _marks(path: Path, sheet: Any) -> _Marks:
    """Read from the sheet's own part of the archive, for openpyxl does not tell while it streams."""
    sheet_marks = _Marks([], [], False)
    try:
        with zipfile.ZipFile(path) as archive, archive.open(sheet._worksheet_path) as sheet_xml:
            previous_tail = b""
            while chunk := sheet_xml.read(_CHUNK):
                searched_bytes = previous_tail + chunk
                last_tag_end = 0
                for tag_match in _TAG.finditer(searched_bytes):
                    _mark(sheet_marks, tag_match[1], tag_match[2])
                    last_tag_end = tag_match.end()
                previous_tail = searched_bytes[max(last_tag_end, len(searched_bytes) - _LONGEST_TAG) :]
    except _FAILURES as error:
        raise DataError(f"{_DAMAGED} ({error})", path=path, line=1, fix=_AGAIN) from error
    return sheet_marks


def _mark(sheet_marks: _Marks, tag_name: bytes, attributes: bytes) -> None:
    if tag_name == b"f":
        sheet_marks.formulas = True
    elif tag_name == b"mergeCell" and (range_match := _RANGE.search(attributes)):
        sheet_marks.merged.append(range_match[1].decode())
    elif tag_name == b"row" and _HIDDEN.search(attributes) and (row_match := _NUMBER.search(attributes)):
        sheet_marks.hidden.append(int(row_match[1]))


def _notes(path: Path, workbook: Any, sheet: Any, sheet_marks: _Marks) -> Iterator[str]:
    unread = [worksheet.title for worksheet in workbook.worksheets if worksheet.title != sheet.title]
    if unread:
        yield f"{path}: the sheet {sheet.title!r} is read, not {', '.join(map(repr, unread[:_MOST_SHOWN]))}"
    if sheet_marks.hidden:
        hidden = listed(map(str, sheet_marks.hidden), _MOST_SHOWN)
        yield f"{path}: rows that are hidden in the sheet are read, too: {hidden}"
