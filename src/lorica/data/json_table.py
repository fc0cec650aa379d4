"""JSON Lines, and JSON arrays of objects, both streamed; duplicate keys, NaN and broken surrogates are
refused."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NoReturn

from lorica.data.files import MAX_TEXT, FileFormat, text_chunks, text_lines
from lorica.data.squad import flatten_squad
from lorica.data.table import Record, Table
from lorica.errors import DataError, RowError

_Record = tuple[int, dict[str, Any] | RowError]
_MOST_BAD = 1000  # so many records without one that can be read are no file of rows
# Where an object around the rows has them.
_LISTS = ("data", "rows", "examples", "records", "items", "questions")
_SPACE = re.compile(r"[ \t\r\n]*")
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def read_json(path: Path, fmt: FileFormat) -> Table:
    """The `Table` of .jsonl or .json. Raises DataError with file and line."""
    notes: list[str] = []
    rows = _line_records(path, fmt) if fmt.format == "jsonl" else _array_records(path, fmt, notes)
    head: list[_Record] = []
    names: tuple[str, ...] | None = None
    for line, value in rows:
        head.append((line, value))
        if not isinstance(value, RowError):
            names = tuple(value)
        if names is not None or len(head) == _MOST_BAD:
            break
    if not head:
        raise DataError("the file holds no rows", path=path, line=1, fix="check how it was made")
    if names is None:
        raise next(value for _, value in head if isinstance(value, RowError))

    def records(columns: Sequence[str]) -> Iterator[Record]:
        return chain(head, rows)

    return Table(names, head[-1][0], True, records, tuple(notes))


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice!r} appears twice in one object")
    return values


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON; write null for a missing value")


_DECODER = json.JSONDecoder(object_pairs_hook=_unique_keys, parse_constant=_no_constant)


def _line_records(path: Path, fmt: FileFormat) -> Iterator[_Record]:
    for line, text in enumerate(text_lines(path, fmt), 1):
        stripped = text.strip()
        if not stripped:
            continue
        yield line, _line_record(path, line, stripped)


def _line_record(path: Path, line: int, text: str) -> dict[str, Any] | RowError:
    """The object of one line, or why there is none: lines are independent of each other."""
    try:
        return _checked(path, line, _DECODER.decode(text), text, _line_fix(text))
    except json.JSONDecodeError as error:
        position = f"{error.msg} at column {error.colno}"
        return RowError(f"not a JSON object: {position}", path=path, line=line, fix=_line_fix(text))
    except RowError as error:
        return error
    except ValueError as error:
        return RowError(str(error), path=path, line=line, fix="mend the line")
    except RecursionError:
        return RowError("JSON nested too deeply", path=path, line=line, fix="flatten the object")


def _line_fix(text: str) -> str:
    if text.startswith("\ufeff"):
        return "a byte order mark inside the file: files were joined; remove it"
    if text.startswith("["):
        return "this looks like a JSON array: give the file the suffix .json"
    if text == "{":
        return "each line must hold one whole object; a JSON array spread over lines has the suffix .json"
    return "each line of a .jsonl file must hold one whole JSON object"


def _checked(path: Path, line: int, value: Any, text: str, fix: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise RowError(f"a JSON {_kind(value)} where an object {{...}} is expected", path=path, line=line, fix=fix)
    if _SURROGATE.search(text):
        try:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError as error:
            raise RowError(
                "half of a surrogate pair (\\uD800-\\uDFFF alone) is no character",
                path=path,
                line=line,
                fix="write the whole pair, or the character itself",
            ) from error
    return value


def _kind(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return "array" if isinstance(value, list) else "string" if isinstance(value, str) else "number"


class _Cursor:
    """A position in a stream of text chunks; buffers one chunk and the current element, never the whole file."""

    def __init__(self, path: Path, chunks: Iterator[str]) -> None:
        self.path = path
        self.line = 1
        self._chunks = chunks
        self._text = ""
        self._at = 0

    def _advance(self, to: int) -> None:
        self.line += self._text.count("\n", self._at, to)
        self._at = to

    def _more(self, least: int) -> bool:
        """Read on until at least `least` characters lie ahead; False when the file ended before anything
        came."""
        ahead = [self._text[self._at :]]
        size = len(ahead[0])
        while size < least:
            chunk = next(self._chunks, None)
            if chunk is None:
                break
            ahead.append(chunk)
            size += len(chunk)
        self._text, self._at = "".join(ahead), 0
        return len(ahead) > 1

    def peek(self) -> str:
        """The next character that is not white space; "" at the end of the file."""
        while True:
            match = _SPACE.match(self._text, self._at)
            assert match is not None
            self._advance(match.end())
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more(1):
                return ""

    def skip(self) -> None:
        """Skip the character that `peek` returned."""
        self._advance(self._at + 1)

    def expect(self, *marks: str) -> str:
        """Skip the next character, which must be one of `marks`."""
        follow = self.peek()
        if follow not in marks or not follow:
            got = repr(follow) if follow else "the end of the file"
            raise DataError(
                f"{got} where {' or '.join(map(repr, marks))} is expected",
                path=self.path,
                line=self.line,
                fix="is the file cut off?",
            )
        self.skip()
        return follow

    def element(self) -> tuple[Any, str]:
        """The JSON value that starts here, and its source text."""
        start = self.line
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                ahead = len(self._text) - self._at
                at = start + self._text.count("\n", self._at, error.pos)
                if ahead <= MAX_TEXT and self._more(2 * ahead):
                    continue  # perhaps only cut by the chunk's end
                long = f" (or it is longer than {MAX_TEXT // 2**20} MiB)" if ahead > MAX_TEXT else ""
                raise DataError(
                    f"broken JSON in the element that starts on line {start}: {error.msg}{long}",
                    path=self.path,
                    line=at,
                    fix="the file must be one whole JSON array of objects (one object per line: .jsonl)",
                ) from error
            except ValueError as error:
                raise DataError(str(error), path=self.path, line=start, fix="mend the object") from error
            except RecursionError as error:
                raise DataError("JSON nested too deeply", path=self.path, line=start) from error
            text = self._text[self._at : end]
            self._advance(end)
            return value, text


def _array_records(path: Path, fmt: FileFormat, notes: list[str]) -> Iterator[_Record]:
    """The records of an array, or of the one list of objects inside an object, which is told in `notes`."""
    cursor = _Cursor(path, text_chunks(path, fmt))
    first = cursor.peek()
    if first == "":
        raise DataError("the file is empty", path=path, line=1, fix="check how it was made")
    name = _to_list(cursor) if first == "{" else ""
    if first != "[" and not name:
        raise DataError(
            f"a .json file of rows must be one array [{{...}}, ...]; this one begins with {first!r}",
            path=path,
            line=cursor.line,
            fix="one object per line: give it the suffix .jsonl; an array in an object: save it alone, or under 'data'",
        )
    if name:
        notes.append(f"{path}: its rows are the list {name!r}, and what stands beside it is not read")
    yield from _elements(cursor)
    if name:
        _close_object(cursor, name)
    if cursor.peek():
        container = "object" if name else "array"
        raise DataError(
            f"text after the end of the {container}", path=path, line=cursor.line, fix=f"one {container} per file"
        )


def _elements(cursor: _Cursor) -> Iterator[_Record]:
    """The records of the array that starts here."""
    cursor.skip()
    if cursor.peek() == "]":
        cursor.skip()
        return
    while True:
        cursor.peek()
        line = cursor.line
        value, text = cursor.element()
        try:
            record = _checked(cursor.path, line, value, text, "every element of the array must be an object")
            yield from ((line, flat) for flat in flatten_squad(record))
        except RowError as error:
            yield line, error
        if cursor.expect(",", "]") == "]":
            return


def _to_list(cursor: _Cursor) -> str:
    """Go to the array of rows in the object that starts here, and give its name; "" where it has none. Raises DataError
    where another list may hold the rows."""
    cursor.skip()
    has_other_lists = False
    while cursor.peek() == '"':
        name = _member(cursor)
        if name in _LISTS and cursor.peek() == "[":
            if has_other_lists:
                raise _several_lists(cursor)
            return name
        has_other_lists |= _skip_value(cursor)
        if cursor.peek() != ",":
            break
        cursor.skip()
    return ""


def _close_object(cursor: _Cursor, name: str) -> None:
    """Skip the rest of the object behind the array `name`. Raises DataError where it may hold rows itself."""
    while cursor.expect(",", "}") == ",":
        again = _member(cursor) == name
        if _skip_value(cursor) or again:
            raise _several_lists(cursor)


def _member(cursor: _Cursor) -> str:
    cursor.peek()
    name, _ = cursor.element()
    cursor.expect(":")
    return str(name)


def _skip_value(cursor: _Cursor) -> bool:
    """Skip a value; whether it is a list that holds objects."""
    cursor.peek()
    value, _ = cursor.element()
    return isinstance(value, list) and any(isinstance(item, dict) for item in value)


def _several_lists(cursor: _Cursor) -> DataError:
    return DataError(
        "the object holds several lists of objects",
        path=cursor.path,
        line=cursor.line,
        fix="save the one with the rows alone, as [{...}, ...]",
    )
