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
    book = _load(path, values=True)
    sheet = _sheet(path, book, options.sheet)
    marks = _marks(path, sheet)
    if marks.merged:
        raise DataError(
            f"the cells {', '.join(marks.merged[:_MOST_SHOWN])} are merged: only the first of them holds the value",
            path=path,
            fix="unmerge them and fill each, or save the sheet as CSV",
        )
    written = _load(path, values=False)[sheet.title] if marks.formulas else None
    rows = _numbered(path, sheet, written)
    line, first, _ = next(rows, (1, (), ()))
    header = ["" if cell.value is None else str(_plain(cell.value)) for cell in _trimmed(first)]
    if not header:
        raise DataError("the sheet is empty", path=path, line=1, fix="check how it was made")
    check_names(path, line, header)

    def records(columns: Sequence[str]) -> Iterator[Record]:
        wanted = {name: header.index(name) for name in columns}
        for number, cells, formulas in rows:
            problem = _problem(path, number, cells, formulas, header)
            yield (
                number,
                problem or {name: _plain(cells[i].value) if i < len(cells) else None for name, i in wanted.items()},
            )

    return Table(tuple(header), line, False, records, tuple(_notes(path, book, sheet, marks)))


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


def _sheet(path: Path, book: Any, name: str) -> Any:
    """The sheet that is named, or the only one that holds anything (hidden ones only if no other does)."""
    names = [sheet.title for sheet in book.worksheets]
    if name and name not in names:
        raise DataError(
            f"data.sheet={name}: there is no such sheet",
            path=path,
            fix=did_you_mean(name, names, key=fold_name, then=f"its sheets are: {', '.join(map(repr, names))}"),
        )
    if name:
        return book[name]
    filled = [sheet for sheet in book.worksheets if next(_numbered(path, sheet), None)]
    if not filled:
        raise DataError("every sheet is empty", path=path, line=1, fix="check how it was made")
    shown = [sheet for sheet in filled if sheet.sheet_state == "visible"] or filled
    if len(shown) > 1:
        titles = [sheet.title for sheet in shown]
        raise DataError(
            f"{len(titles)} sheets hold something: {', '.join(map(repr, titles))}",
            path=path,
            fix=f"say which one: data.sheet='{titles[0]}'",
        )
    return shown[0]


def _numbered(path: Path, sheet: Any, written: Any = None) -> Iterator[tuple[int, Sequence[Any], Sequence[Any]]]:
    """(row number, cells, cells of `written`: the sheet with its formulas) of each row in which any cell holds
    something."""
    sheets = [sheet] if written is None else [sheet, written]
    for worksheet in sheets:
        worksheet.reset_dimensions()  # what a sheet says of its size may be wrong, and would cut it off
    row_iterators = [iter(worksheet.iter_rows()) for worksheet in sheets]
    number = 0
    while True:
        number += 1
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a date that is none has an error for its value
                rows = [next(worksheet, None) for worksheet in row_iterators]
        except _FAILURES as error:
            raise DataError(f"{_DAMAGED} ({error})", path=path, line=number, fix=_AGAIN) from error
        if rows[0] is None:
            return
        cells, formulas = rows[0], rows[-1] or ()
        if any(cell.value is not None for cell in (*cells, *formulas)):
            yield number, cells, formulas if written is not None else ()


def _trimmed(cells: Sequence[Any]) -> Sequence[Any]:
    end = max((i for i, cell in enumerate(cells, 1) if cell.value is not None), default=0)
    return cells[:end]


def _problem(
    path: Path, line: int, cells: Sequence[Any], written: Sequence[Any], header: Sequence[str]
) -> RowError | None:
    """Why a row cannot be read: an error for a value, a formula without one, or a value beside the table."""
    for i, cell in enumerate(cells):
        name = repr(header[i]) if i < len(header) else f"number {i + 1}, which has no name"
        if cell.data_type == "e":
            message = f"the cell of the column {name} holds the error {cell.value}"
            return RowError(message, path=path, line=line, fix="mend the formula, or empty the cell")
        if cell.value is not None and i >= len(header):
            message = f"there is a value in the column {name}"
            return RowError(message, path=path, line=line, fix="name the column, or empty the cell")
        if cell.value is None and i < len(written) and written[i].data_type == "f":
            message = f"the cell of the column {name} holds a formula whose value was not saved"
            fix = "open the workbook in a spreadsheet program and save it, or put the value in the place of the formula"
            return RowError(message, path=path, line=line, fix=fix)
    return None


def _plain(value: Any) -> Any:
    """A number that is whole as a whole number, a date as ISO text, everything else as it is."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, datetime.datetime):
        return str(value.date() if value.time() == datetime.time() else value)
    return str(value) if isinstance(value, datetime.date | datetime.time | datetime.timedelta) else value


def _marks(path: Path, sheet: Any) -> _Marks:
    """Read from the sheet's own part of the archive, for openpyxl does not tell while it streams."""
    marks = _Marks([], [], False)
    try:
        with zipfile.ZipFile(path) as archive, archive.open(sheet._worksheet_path) as xml:
            tail = b""
            while chunk := xml.read(_CHUNK):
                text = tail + chunk
                end = 0
                for match in _TAG.finditer(text):
                    _mark(marks, match[1], match[2])
                    end = match.end()
                tail = text[max(end, len(text) - _LONGEST_TAG) :]
    except _FAILURES as error:
        raise DataError(f"{_DAMAGED} ({error})", path=path, line=1, fix=_AGAIN) from error
    return marks


def _mark(marks: _Marks, tag: bytes, attributes: bytes) -> None:
    if tag == b"f":
        marks.formulas = True
    elif tag == b"mergeCell" and (area := _RANGE.search(attributes)):
        marks.merged.append(area[1].decode())
    elif tag == b"row" and _HIDDEN.search(attributes) and (number := _NUMBER.search(attributes)):
        marks.hidden.append(int(number[1]))


def _notes(path: Path, book: Any, sheet: Any, marks: _Marks) -> Iterator[str]:
    unread = [worksheet.title for worksheet in book.worksheets if worksheet.title != sheet.title]
    if unread:
        yield f"{path}: the sheet {sheet.title!r} is read, not {', '.join(map(repr, unread[:_MOST_SHOWN]))}"
    if marks.hidden:
        hidden = listed(map(str, marks.hidden), _MOST_SHOWN)
        yield f"{path}: rows that are hidden in the sheet are read, too: {hidden}"
