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


def find_dialect(path: Path, fmt: FileFormat, options: TableOptions) -> Dialect:
    """The dialect that the settings name, or that the file shows. Raises DataError where a file of tabs can be read in
    two ways."""
    named = options.delimiter != "auto"
    delimiter = DELIMITERS[options.delimiter] if named else "\t" if fmt.format == "tsv" else ","
    if options.quoting != "auto":
        return Dialect(delimiter, options.quoting, False, named)
    if delimiter != "\t" or not _opens_quotes(path, fmt):
        return Dialect(delimiter, "standard", True, named)
    previous = csv.field_size_limit(MAX_TEXT)
    try:
        choice = choose_quoting(text_lines(path, fmt), delimiter)
    finally:
        csv.field_size_limit(previous)
    if choice.ambiguity is not None:
        first = next(filter(str.strip, text_lines(path, fmt)))
        raise (None if named else _separated_otherwise(path, 1, first, delimiter)) or _ambiguous(path, choice.ambiguity)
    return Dialect(delimiter, choice.quoting, choice.quoting == "standard", named, choice.note)


def _opens_quotes(path: Path, fmt: FileFormat) -> bool:
    """Whether a cell of a file of tabs begins with a quote; without one, quotes are text whatever the quoting."""
    last = b"\n"
    try:
        with open_checked(path, fmt) as file:
            while chunk := file.read(_CHUNK):
                text = last + chunk
                if b'\t"' in text or b'\n"' in text:
                    return True
                last = chunk[-1:]
    except READ_ERRORS as error:
        raise unreadable(path, 1, error) from error
    return False


def read_csv(path: Path, fmt: FileFormat, options: TableOptions | None = None) -> Table:
    """The `Table` of a CSV (or, by `fmt`, TSV) file. Raises DataError with file and line."""
    dialect = find_dialect(path, fmt, options or TableOptions())
    rows = _raw_rows(path, fmt, dialect)
    line, header = next(rows, (1, None))
    if header is None:
        raise DataError("the file is empty", path=path, line=1, fix="check how it was made")
    assert not isinstance(header, RowError)  # the header is what other rows are held to
    _check_header(path, line, header, dialect)
    names = set(header)

    def records(columns: Sequence[str]) -> Iterator[Record]:
        indices = [(name, header.index(name)) for name in columns]
        for number, cells in rows:
            if isinstance(cells, RowError):
                yield number, cells
            elif cells[0] in names or cells[0][:1] == _MARK:
                yield number, _joined(path, number, cells, header) or {name: cells[index] for name, index in indices}
            else:
                yield number, {name: cells[index] for name, index in indices}

    return Table(tuple(header), line, False, records, (f"{path}: {dialect.note}",) if dialect.note else ())


def _raw_rows(path: Path, fmt: FileFormat, dialect: Dialect) -> _Rows:
    """(physical line where the record starts, cells) of each record; blank lines between records are passed
    over. A record that is not as wide as the first one is an error in the place of its cells."""
    lines: list[str] = []
    reader = csv.reader(
        _recorded(text_lines(path, fmt), lines), delimiter=dialect.delimiter, **QUOTINGS[dialect.quoting]
    )
    finder: AmbiguityFinder | None = None
    width = 0
    while True:
        start = reader.line_num + 1
        lines.clear()
        try:
            cells = _next_record(reader)
        except csv.Error as error:
            raise _unparsable(path, start, str(error), dialect, lines, width) from error
        if cells is None:
            break
        if not cells:
            if width == 1:
                # In a table of one column a blank line may be an empty value: nobody can tell.
                raise DataError("a blank line in a table of one column", path=path, line=start, fix="remove the line")
            continue
        if not width:
            width = len(cells)
            finder = AmbiguityFinder(dialect.delimiter, lines, cells) if dialect.strict else None
        elif finder is not None and (finder.learns or len(lines) > 1 or '"' in lines[0]):
            _refuse(path, finder.check(start, lines, cells))
        yield start, cells if len(cells) == width else _ragged(path, start, cells, width, dialect, lines)
    _refuse(path, finder.finish() if finder else None)


def _recorded(texts: Iterator[str], lines: list[str]) -> Iterator[str]:
    for text in texts:
        lines.append(text)
        yield text


def _refuse(path: Path, ambiguity: Ambiguity | None) -> None:
    if ambiguity is not None:
        raise _ambiguous(path, ambiguity)


def _ambiguous(path: Path, ambiguity: Ambiguity) -> DataError:
    return DataError(ambiguity.message, path=path, line=ambiguity.line, fix=ambiguity.fix)


def _joined(path: Path, line: int, cells: list[str], header: list[str]) -> RowError | None:
    """Where another file begins inside this one. Raises DataError where its columns are others."""
    bare = [cells[0].removeprefix(_MARK), *cells[1:]]
    fix = "the file seems to be joined of several: remove the line"
    if bare == header:
        return RowError("the header stands here once more", path=path, line=line, fix=fix)
    if len(header) > 1 and sum(cell in header for cell in bare) >= max(2, len(header) / 2):
        raise DataError(
            f"another header stands here: {', '.join(map(repr, bare))}",
            path=path,
            line=line,
            fix="the file seems to be joined of several with other columns: read them one by one",
        )
    if cells[0].startswith(_MARK):
        return RowError("the row begins with a byte order mark", path=path, line=line, fix="remove the mark")
    return None


def _next_record(reader: Iterator[list[str]]) -> list[str] | None:
    # The limit belongs to the whole process: it is put back, so that other users of csv see no change.
    previous = csv.field_size_limit(MAX_TEXT)
    try:
        return next(reader, None)
    finally:
        csv.field_size_limit(previous)


def _check_header(path: Path, line: int, header: list[str], dialect: Dialect) -> None:
    if header[0].lower().startswith("sep=") and len("".join(header)) <= len("sep=;"):
        raise DataError(
            "the first line is a note to a spreadsheet program, no header",
            path=path,
            line=line,
            fix="remove the line (what it names as separator: data.delimiter)",
        )
    check_names(path, line, header)
    if dialect.strict and any(name.startswith(" ") and name.strip(" ")[:1] == '"' for name in header):
        message = "a name of the header begins with a space and a quote"
        raise DataError(message, path=path, line=line, fix=f"remove the spaces, or say: {SETTINGS['spaced']}")
    if not dialect.named:
        delimiters = [mark for mark in DELIMITERS.values() if mark != dialect.delimiter]
        likeliest = max(delimiters, key=lambda mark: sum(name.count(mark) for name in header))
        if sum(name.count(likeliest) for name in header) >= len(header):
            raise _other_delimiter(path, line, header, likeliest)


def _separated_otherwise(path: Path, line: int, header: str, delimiter: str) -> DataError | None:
    """Of the line of a header that is quoted as a whole: that another delimiter separates it."""
    for mark in DELIMITERS.values():
        rows = parse_lines([header], "standard", mark)
        if mark != delimiter and delimiter not in header and rows and len(rows[0]) > 1:
            return _other_delimiter(path, line, [header.strip()], mark)
    return None


def _other_delimiter(path: Path, line: int, header: list[str], delimiter: str) -> DataError:
    rename = {"\t": "name it .tsv, or say so: ", ",": "name it .csv, or say so: "}.get(delimiter, "say so: ")
    columns = "one column" if len(header) == 1 else f"{len(header)} columns"
    return DataError(
        f"the header is {columns}, {', '.join(map(repr, header))}: the file seems to be separated by {delimiter!r}",
        path=path,
        line=line,
        fix=f"{rename}data.delimiter={_NAMES[delimiter]}",
    )


def _ragged(path: Path, line: int, cells: list[str], width: int, dialect: Dialect, lines: list[str]) -> RowError:
    message = f"{len(cells)} cells where the header has {width}; the row begins with {cells[0][:40]!r}"
    swallowed = sum(text.count(dialect.delimiter) == width - 1 for text in lines[1:])
    if swallowed and dialect.quoting != "none":
        raise DataError(
            f"{message}, and holds {len(lines)} lines of which {swallowed} are as wide as the header",
            path=path,
            line=line,
            fix=_quoting_fix(dialect, lines, width),
        )
    return RowError(message, path=path, line=line, fix=_quoting_fix(dialect, lines, width))


def _quoting_fix(dialect: Dialect, lines: list[str], width: int) -> str:
    """What makes a table of a row that is none, in the words of its format."""
    marks = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "pipes"}[dialect.delimiter]
    if dialect.quoting == "none":
        return f"a text without quotes holds no {marks} and no line breaks; or: {SETTINGS['standard']}"
    standard = f"put a text that holds {marks} or line breaks in double quotes, and double the quotes inside it"
    dialects = alternative_quotings(lines, dialect.delimiter, width) if dialect.quoting == "standard" else []
    return "; or: ".join([standard, *(SETTINGS[name] for name in dialects)])


def _unparsable(path: Path, line: int, reason: str, dialect: Dialect, lines: list[str], width: int) -> DataError:
    if not width and not dialect.named and (error := _separated_otherwise(path, line, lines[0], dialect.delimiter)):
        return error
    settings = [SETTINGS[name] for name in alternative_quotings(lines, dialect.delimiter, width)]
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
    return DataError(message, path=path, line=line, fix=fix)
