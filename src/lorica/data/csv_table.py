"""CSV and TSV, read strictly: every row as wide as the header, every quote closed, no guessing of
dialects."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from lorica.data.files import MAX_TEXT, FileFormat, text_lines
from lorica.data.table import Record, Table
from lorica.errors import DataError, RowError

_Rows = Iterator[tuple[int, list[str]]]


def read_csv(path: Path, fmt: FileFormat) -> Table:
    """The `Table` of a CSV (or, by `fmt`, TSV) file. Raises DataError with file and line."""
    rows = raw_rows(path, fmt)
    line, header = next(rows, (1, None))
    if header is None:
        raise DataError("the file is empty", path=path, line=1, fix="check how it was made")
    _check_header(path, line, header, fmt)

    def records(columns: Sequence[str]) -> Iterator[Record]:
        places = [(name, header.index(name)) for name in columns]
        for number, cells in rows:
            if len(cells) == len(header):
                yield number, {name: cells[place] for name, place in places}
            else:
                yield number, _ragged(path, number, cells, len(header))

    return Table(tuple(header), line, False, records)


def raw_rows(path: Path, fmt: FileFormat) -> _Rows:
    """(physical line where the record starts, cells) of each record; blank lines between records are passed
    over."""
    reader = csv.reader(text_lines(path, fmt), delimiter="\t" if fmt.kind == "tsv" else ",", strict=True)
    width = 0
    while True:
        start = reader.line_num + 1
        try:
            cells = _next_record(reader)
        except csv.Error as error:
            raise _unparsable(path, start, str(error)) from error
        if cells is None:
            return
        if cells:
            width = width or len(cells)
            yield start, cells
        elif width == 1:
            # In a table of one column a blank line may be an empty value: nobody can tell.
            raise DataError("a blank line in a table of one column", path=path, line=start, fix="remove the line")


def _next_record(reader: Iterator[list[str]]) -> list[str] | None:
    # The limit belongs to the whole process: it is put back, so that other users of csv see no change.
    previous = csv.field_size_limit(MAX_TEXT)
    try:
        return next(reader, None)
    finally:
        csv.field_size_limit(previous)


def _check_header(path: Path, line: int, header: list[str], fmt: FileFormat) -> None:
    blank = [i for i, name in enumerate(header, 1) if not name.strip()]
    if blank:
        raise DataError(
            f"column {blank[0]} of the header has no name",
            path=path,
            line=line,
            fix="name it or remove it (pandas writes such a column for its index: use to_csv(index=False))",
        )
    for name in header:
        if header.count(name) > 1:
            places = [str(i) for i, other in enumerate(header, 1) if other == name]
            raise DataError(
                f"the header names {name!r} more than once (columns {', '.join(places)})",
                path=path,
                line=line,
                fix="rename or remove all but one",
            )
    other = "," if fmt.kind == "tsv" else next((c for c in "\t;|" if c in header[0]), "")
    if len(header) == 1 and other and other in header[0]:
        fix = "name it .tsv" if other == "\t" else "name it .csv" if other == "," else "save it separated by commas"
        raise DataError(
            f"the header is one column, {header[0]!r}: the file seems to be separated by {other!r}",
            path=path,
            line=line,
            fix=fix,
        )


def _ragged(path: Path, line: int, cells: list[str], width: int) -> RowError:
    return RowError(
        f"{len(cells)} cells where the header has {width}; the row begins with {cells[0][:40]!r}",
        path=path,
        line=line,
        fix="put a text that holds commas or line breaks in double quotes, and double the quotes inside it",
    )


def _unparsable(path: Path, line: int, reason: str) -> DataError:
    fix = "quotes inside a quoted text must be doubled"
    if "unexpected end of data" in reason:
        message = "a quote opened in this row is never closed"
    elif "field larger than" in reason:
        message = f"a cell of more than {MAX_TEXT // 2**20} MiB, or a quote that is never closed"
    elif "new-line character" in reason:
        message = "a carriage return outside quotes that ends no line (old Mac line ends?)"
        fix = "save the file with \\n or \\r\\n line ends"
    else:
        message = f"text after a closing quote ({reason})"
    return DataError(message, path=path, line=line, fix=fix)
