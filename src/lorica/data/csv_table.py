"""CSV and TSV, read strictly: every row as wide as the header, every quote closed, nothing that has two readings."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from lorica.data.files import MAX_TEXT, READ_ERRORS, FileFormat, open_checked, text_lines, unreadable
from lorica.data.quoting import (
    QUOTINGS,
    SETTINGS,
    Ambiguity,
    AmbiguityFinder,
    alternative_quotings,
    choose_quoting,
    parse_lines,
)
from lorica.data.table import Record, Table, TableOptions, check_names
from lorica.errors import DataError, RowError
from lorica.names import count_of

_Rows = Iterator[tuple[int, list[str] | RowError]]
DELIMITERS = {"comma": ",", "tab": "\t", "semicolon": ";", "pipe": "|"}
_NAMES = {mark: name for name, mark in DELIMITERS.items()}
_CHUNK = 1 << 20
_MARK = "\ufeff"  # a byte order mark


class Dialect(msgspec.Struct, frozen=True):
    """Delimiter and quoting of one file. strict: records that may be meant otherwise are refused. note: what a user
    should know of it."""

    delimiter: str
    quoting: str
    strict: bool
    named: bool = False  # the delimiter was set, not taken from the file's name
    note: str = ""


def find_dialect(table_path: Path, table_format: FileFormat, options: TableOptions) -> Dialect:
    """The dialect that the settings name, or that the file shows. Raises DataError where a file of tabs can be read in
    two ways."""
    is_set = options.delimiter != "auto"
    delimiter = DELIMITERS[options.delimiter] if is_set else "\t" if table_format.format == "tsv" else ","
    if options.quoting != "auto":
        return Dialect(delimiter, options.quoting, False, is_set)
    if delimiter != "\t" or not _opens_quotes(table_path, table_format):
        return Dialect(delimiter, "standard", True, is_set)
    previous = csv.field_size_limit(MAX_TEXT)
    try:
        quoting_choice = choose_quoting(text_lines(table_path, table_format), delimiter)
    finally:
        csv.field_size_limit(previous)
    if quoting_choice.ambiguity is not None:
        first_line = next(filter(str.strip, text_lines(table_path, table_format)))
        raise (None if is_set else _separated_otherwise(table_path, 1, first_line, delimiter)) or _ambiguous(
            table_path, quoting_choice.ambiguity
        )
    return Dialect(delimiter, quoting_choice.quoting, quoting_choice.quoting == "standard", is_set, quoting_choice.note)


def _opens_quotes(table_path: Path, table_format: FileFormat) -> bool:
    """Whether a cell of a file of tabs begins with a quote; without one, quotes are text whatever the quoting."""
    last_byte = b"\n"
    try:
        with open_checked(table_path, table_format) as byte_stream:
            while chunk := byte_stream.read(_CHUNK):
                searched_bytes = last_byte + chunk
                if b'\t"' in searched_bytes or b'\n"' in searched_bytes:
                    return True
                last_byte = chunk[-1:]
    except READ_ERRORS as error:
        raise unreadable(table_path, 1, error) from error
    return False


def read_csv(table_path: Path, table_format: FileFormat, options: TableOptions | None = None) -> Table:
    """The `Table` of a CSV (or, by `table_format`, TSV) file. Raises DataError with file and line."""
    dialect = find_dialect(table_path, table_format, options or TableOptions())
    raw_rows = _raw_rows(table_path, table_format, dialect)
    header_line, header = next(raw_rows, (1, None))
    if header is None:
        raise DataError("the file is empty", path=table_path, line=1, fix="check how it was made")
    assert not isinstance(header, RowError)  # the header is what other rows are held to
    _check_header(table_path, header_line, header, dialect)
    column_names = set(header)

    def records(columns: Sequence[str]) -> Iterator[Record]:
        indices = [(name, header.index(name)) for name in columns]
        for line, cells in raw_rows:
            if isinstance(cells, RowError):
                yield line, cells
            elif cells[0] in column_names or cells[0][:1] == _MARK:
                yield (
                    line,
                    _joined(table_path, line, cells, header) or {name: cells[index] for name, index in indices},
                )
            else:
                yield line, {name: cells[index] for name, index in indices}

    return Table(
        table_path,
        tuple(header),
        header_line,
        False,
        records,
        (f"{table_path}: {dialect.note}",) if dialect.note else (),
    )


def _raw_rows(table_path: Path, table_format: FileFormat, dialect: Dialect) -> _Rows:
    """(physical line where the record starts, cells) of each record; blank lines between records are passed
    over. A record that is not as wide as the first one is an error in the place of its cells."""
    record_lines: list[str] = []
    reader = csv.reader(
        _recorded(text_lines(table_path, table_format), record_lines),
        delimiter=dialect.delimiter,
        **QUOTINGS[dialect.quoting],
    )
    finder: AmbiguityFinder | None = None
    column_count = 0
    while True:
        start_line = reader.line_num + 1
        record_lines.clear()
        try:
            row_cells = _next_record(reader)
        except csv.Error as error:
            raise _unparsable(table_path, start_line, str(error), dialect, record_lines, column_count) from error
        if row_cells is None:
            break
        if not row_cells:
            if column_count == 1:
                # In a table of one column a blank line may be an empty value: nobody can tell.
                raise DataError(
                    "a blank line in a table of one column", path=table_path, line=start_line, fix="remove the line"
                )
            continue
        if not column_count:
            column_count = len(row_cells)
            finder = AmbiguityFinder(dialect.delimiter, record_lines, row_cells) if dialect.strict else None
        elif finder is not None and (finder.learns or len(record_lines) > 1 or '"' in record_lines[0]):
            _refuse(table_path, finder.check(start_line, record_lines, row_cells))
        yield (
            start_line,
            row_cells
            if len(row_cells) == column_count
            else _ragged(table_path, start_line, row_cells, column_count, dialect, record_lines),
        )
    _refuse(table_path, finder.finish() if finder else None)


def _recorded(source_lines: Iterator[str], record_lines: list[str]) -> Iterator[str]:
    for line_text in source_lines:
        record_lines.append(line_text)
        yield line_text


def _refuse(table_path: Path, ambiguity: Ambiguity | None) -> None:
    if ambiguity is not None:
        raise _ambiguous(table_path, ambiguity)


def _ambiguous(table_path: Path, ambiguity: Ambiguity) -> DataError:
    return DataError(ambiguity.message, path=table_path, line=ambiguity.line, fix=ambiguity.fix)


def _joined(table_path: Path, line: int, row_cells: list[str], header: list[str]) -> RowError | None:
    """Where another file begins inside this one. Raises DataError where its columns are others."""
    unmarked_cells = [row_cells[0].removeprefix(_MARK), *row_cells[1:]]
    fix = "the file seems to be joined of several: remove the line"
    if unmarked_cells == header:
        return RowError("the header stands here once more", path=table_path, line=line, fix=fix)
    if len(header) > 1 and sum(cell_text in header for cell_text in unmarked_cells) >= max(2, len(header) / 2):
        raise DataError(
            f"another header stands here: {', '.join(map(repr, unmarked_cells))}",
            path=table_path,
            line=line,
            fix="the file seems to be joined of several with other columns: read them one by one",
        )
    if row_cells[0].startswith(_MARK):
        return RowError("the row begins with a byte order mark", path=table_path, line=line, fix="remove the mark")
    return None


def _next_record(reader: Iterator[list[str]]) -> list[str] | None:
    # The limit belongs to the whole process: it is put back, so that other users of csv see no change.
    previous = csv.field_size_limit(MAX_TEXT)
    try:
        return next(reader, None)
    finally:
        csv.field_size_limit(previous)


def _check_header(table_path: Path, line: int, header: list[str], dialect: Dialect) -> None:
    if header[0].lower().startswith("sep=") and len("".join(header)) <= len("sep=;"):
        raise DataError(
            "the first line is a note to a spreadsheet program, no header",
            path=table_path,
            line=line,
            fix="remove the line (what it names as separator: data.delimiter)",
        )
    check_names(table_path, line, header)
    if dialect.strict and any(name.startswith(" ") and name.strip(" ")[:1] == '"' for name in header):
        message = "a name of the header begins with a space and a quote"
        raise DataError(message, path=table_path, line=line, fix=f"remove the spaces, or say: {SETTINGS['spaced']}")
    if not dialect.named:
        delimiters = [mark for mark in DELIMITERS.values() if mark != dialect.delimiter]
        likeliest = max(delimiters, key=lambda mark: sum(name.count(mark) for name in header))
        if sum(name.count(likeliest) for name in header) >= len(header):
            raise _other_delimiter(table_path, line, header, likeliest)


def _separated_otherwise(table_path: Path, line_number: int, header_line: str, delimiter: str) -> DataError | None:
    """Of the line of a header that is quoted as a whole: that another delimiter separates it."""
    for mark in DELIMITERS.values():
        header_rows = parse_lines([header_line], "standard", mark)
        if mark != delimiter and delimiter not in header_line and header_rows and len(header_rows[0]) > 1:
            return _other_delimiter(table_path, line_number, [header_line.strip()], mark)
    return None


def _other_delimiter(table_path: Path, line_number: int, header: list[str], delimiter: str) -> DataError:
    rename = {"\t": "name it .tsv, or say so: ", ",": "name it .csv, or say so: "}.get(delimiter, "say so: ")
    columns = count_of(len(header), "column")
    return DataError(
        f"the header is {columns}, {', '.join(map(repr, header))}: the file seems to be separated by {delimiter!r}",
        path=table_path,
        line=line_number,
        fix=f"{rename}data.delimiter={_NAMES[delimiter]}",
    )


def _ragged(
    table_path: Path,
    line_number: int,
    row_cells: list[str],
    column_count: int,
    dialect: Dialect,
    record_lines: list[str],
) -> RowError:
    message = f"{len(row_cells)} cells where the header has {column_count}; the row begins with {row_cells[0][:40]!r}"
    swallowed = sum(line_text.count(dialect.delimiter) == column_count - 1 for line_text in record_lines[1:])
    if swallowed and dialect.quoting != "none":
        raise DataError(
            f"{message}, and holds {len(record_lines)} lines of which {swallowed} are as wide as the header",
            path=table_path,
            line=line_number,
            fix=_quoting_fix(dialect, record_lines, column_count),
        )
    return RowError(message, path=table_path, line=line_number, fix=_quoting_fix(dialect, record_lines, column_count))


def _quoting_fix(dialect: Dialect, record_lines: list[str], column_count: int) -> str:
    """What makes a table of a row that is none, in the words of its format."""
    delimiters = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "pipes"}[dialect.delimiter]
    if dialect.quoting == "none":
        return f"a text without quotes holds no {delimiters} and no line breaks; or: {SETTINGS['standard']}"
    standard = f"put a text that holds {delimiters} or line breaks in double quotes, and double the quotes inside it"
    quoting_names = (
        alternative_quotings(record_lines, dialect.delimiter, column_count) if dialect.quoting == "standard" else []
    )
    return "; or: ".join([standard, *(SETTINGS[name] for name in quoting_names)])


def _unparsable(
    table_path: Path, line_number: int, reason: str, dialect: Dialect, record_lines: list[str], column_count: int
) -> DataError:
    if (
        not column_count
        and not dialect.named
        and (delimiter_error := _separated_otherwise(table_path, line_number, record_lines[0], dialect.delimiter))
    ):
        return delimiter_error
    settings = [SETTINGS[name] for name in alternative_quotings(record_lines, dialect.delimiter, column_count)]
    fix = "; or: ".join(["quotes inside a quoted text must be doubled", *settings])
    if "unexpected end of data" in reason:
        message = "a quote opened in this row is never closed"
    elif "field larger than" in reason:
        message = f"a cell of more than {MAX_TEXT // 2**20} MiB, or a quote that is never closed"
    elif "new-line character" in reason:
        message = "a carriage return outside quotes that ends no line (old Mac line ends?)"
        fix = "save the file with \\n or \\r\\n line ends"
    else:
        message = f"text after a closing quote ({reason})"
    return DataError(message, path=table_path, line=line_number, fix=fix)
