"""JSON Lines, and JSON arrays of objects, both streamed; duplicate keys, NaN and broken surrogates are refused."""

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
from lorica.errors import CellError, DataError, RowError
from lorica.names import first_repeated

_Record = tuple[int, dict[str, Any] | RowError]
_FRAME = "pandas writes rows by df.to_json(FILE, orient='records'), of .jsonl with lines=True, too"
_MOST_BAD = 1000  # so many records without one that can be read are no file of rows
# Where an object around the rows has them.
_LISTS = ("data", "rows", "examples", "records", "items", "questions")
_SPACE = re.compile(r"[ \t\r\n]*")
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def read_json(table_path: Path, table_format: FileFormat) -> Table:
    """The `Table` of .jsonl or .json. Raises DataError with file and line."""
    reading_notes: list[str] = []
    numbered_records = (
        _line_records(table_path, table_format)
        if table_format.format == "jsonl"
        else _array_records(table_path, table_format, reading_notes)
    )
    head_records: list[_Record] = []
    column_names: tuple[str, ...] | None = None
    for line_number, record in numbered_records:
        head_records.append((line_number, record))
        if not isinstance(record, RowError):
            column_names = tuple(record)
        if column_names is not None or len(head_records) == _MOST_BAD:
            break
    if not head_records:
        raise DataError("the file holds no rows", path=table_path, line=1, fix="check how it was made")
    if column_names is None:
        # Leaving such rows out would leave none.
        raise next(record for _, record in head_records if isinstance(record, RowError)).as_data_error()

    def records(columns: Sequence[str]) -> Iterator[Record]:
        return chain(head_records, numbered_records)

    return Table(table_path, column_names, head_records[-1][0], True, records, tuple(reading_notes))


def unique_keys(members: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of these members, for `json`. Raises ValueError for a key that is there twice."""
    values = dict(members)
    if len(values) != len(members):
        repeated_key = first_repeated(object_key for object_key, _ in members)
        raise ValueError(f"the key {repeated_key!r} appears twice in one object")
    return values


def _no_constant(constant_name: str) -> NoReturn:
    raise ValueError(f"{constant_name} is not JSON; write null for a missing value")


_DECODER = json.JSONDecoder(object_pairs_hook=unique_keys, parse_constant=_no_constant)


def _line_records(table_path: Path, table_format: FileFormat) -> Iterator[_Record]:
    for line_number, line_text in enumerate(text_lines(table_path, table_format), 1):
        stripped = line_text.strip()
        if not stripped:
            continue
        yield line_number, _line_record(table_path, line_number, stripped)


def _line_record(table_path: Path, line_number: int, line_text: str) -> dict[str, Any] | RowError:
    """The object of one line, or why there is none: lines are independent of each other."""
    try:
        return _checked(_DECODER.decode(line_text), line_text, _line_fix(line_text))
    except json.JSONDecodeError as error:
        position = f"{error.msg} at column {error.colno}"
        return RowError(f"not a JSON object: {position}", path=table_path, line=line_number, fix=_line_fix(line_text))
    except ValueError as error:
        fix = getattr(error, "fix", "mend the line")
        return RowError(str(error), path=table_path, line=line_number, fix=fix)
    except RecursionError:
        return RowError("JSON nested too deeply", path=table_path, line=line_number, fix="flatten the object")


def _line_fix(line_text: str) -> str:
    if line_text.startswith("\ufeff"):
        return "a byte order mark inside the file: files were joined; remove it"
    if line_text.startswith("["):
        return "this looks like a JSON array: give the file the suffix .json"
    if line_text == "{":
        return "each line must hold one whole object; a JSON array spread over lines has the suffix .json"
    return "each line of a .jsonl file must hold one whole JSON object"


def _checked(json_value: Any, source_text: str, fix: str) -> dict[str, Any]:
    """An object whose texts can be written. Raises CellError for anything else."""
    if not isinstance(json_value, dict):
        raise CellError(f"a JSON {_kind(json_value)} where an object {{...}} is expected", fix=fix)
    if json_value and all(isinstance(column, dict) and "0" in column for column in json_value.values()):
        raise CellError("the columns of a whole frame, where an object for each row is expected", fix=_FRAME)
    if _SURROGATE.search(source_text):
        try:
            json.dumps(json_value, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError as error:
            raise CellError(
                "half of a surrogate pair (\\uD800-\\uDFFF alone) is no character",
                fix="write the whole pair, or the character itself",
            ) from error
    return json_value


def _kind(json_value: Any) -> str:
    if json_value is None or isinstance(json_value, bool):
        return json.dumps(json_value)
    return "array" if isinstance(json_value, list) else "string" if isinstance(json_value, str) else "number"


class _Cursor:
    """A position in a stream of text chunks; buffers one chunk and the current element, never the whole file."""

    def __init__(self, table_path: Path, chunks: Iterator[str]) -> None:
        self.path = table_path
        self.line = 1
        self._chunks = chunks
        self._text = ""
        self._at = 0

    def _advance(self, new_position: int) -> None:
        self.line += self._text.count("\n", self._at, new_position)
        self._at = new_position

    def _more(self, needed_characters: int) -> bool:
        """Read on until at least `needed_characters` lie ahead; False when the file ended before anything came."""
        chunks_ahead = [self._text[self._at :]]
        characters_ahead = len(chunks_ahead[0])
        while characters_ahead < needed_characters:
            next_chunk = next(self._chunks, None)
            if next_chunk is None:
                break
            chunks_ahead.append(next_chunk)
            characters_ahead += len(next_chunk)
        self._text, self._at = "".join(chunks_ahead), 0
        return len(chunks_ahead) > 1

    def peek(self) -> str:
        """The next character that is not white space; "" at the end of the file."""
        while True:
            white_space = _SPACE.match(self._text, self._at)
            assert white_space is not None
            self._advance(white_space.end())
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more(1):
                return ""

    def skip(self) -> None:
        """Skip the character that `peek` returned."""
        self._advance(self._at + 1)

    def expect(self, *marks: str) -> str:
        """Skip the next character, which must be one of `marks`."""
        next_character = self.peek()
        if next_character not in marks or not next_character:
            found_text = repr(next_character) if next_character else "the end of the file"
            message = f"{found_text} where {' or '.join(map(repr, marks))} is expected"
            raise DataError(message, path=self.path, line=self.line, fix="is the file cut off?")
        self.skip()
        return next_character

    def element(self) -> tuple[Any, str]:
        """The JSON value that starts here, and its source text."""
        start_line = self.line
        while True:
            try:
                json_value, end_position = _DECODER.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                characters_ahead = len(self._text) - self._at
                error_line = start_line + self._text.count("\n", self._at, error.pos)
                if characters_ahead <= MAX_TEXT and self._more(2 * characters_ahead):
                    continue  # perhaps only cut by the chunk's end
                length_hint = f" (or it is longer than {MAX_TEXT // 2**20} MiB)" if characters_ahead > MAX_TEXT else ""
                message = f"broken JSON in the element that starts on line {start_line}: {error.msg}{length_hint}"
                fix = "the file must be one whole JSON array of objects (one object per line: .jsonl)"
                raise DataError(message, path=self.path, line=error_line, fix=fix) from error
            except ValueError as error:
                raise DataError(str(error), path=self.path, line=start_line, fix="mend the object") from error
            except RecursionError as error:
                raise DataError("JSON nested too deeply", path=self.path, line=start_line) from error
            source_text = self._text[self._at : end_position]
            self._advance(end_position)
            return json_value, source_text


def _array_records(table_path: Path, table_format: FileFormat, notes: list[str]) -> Iterator[_Record]:
    """The records of an array, or of the one list of objects inside an object, which is told in `notes`."""
    cursor = _Cursor(table_path, text_chunks(table_path, table_format))
    first_character = cursor.peek()
    if first_character == "":
        raise DataError("the file is empty", path=table_path, line=1, fix="check how it was made")
    list_name = _to_list(cursor) if first_character == "{" else ""
    if first_character != "[" and not list_name:
        message = f"a .json file of rows must be one array [{{...}}, ...]; this one begins with {first_character!r}"
        fix = (
            "one object per line: give it the suffix .jsonl; an array in an object: save it alone, or under 'data'; "
            f"{_FRAME}"
        )
        raise DataError(message, path=table_path, line=cursor.line, fix=fix)
    if list_name:
        notes.append(f"{table_path}: its rows are the list {list_name!r}, and what stands beside it is not read")
    yield from _elements(cursor)
    if list_name:
        _close_object(cursor, list_name)
    if cursor.peek():
        container = "object" if list_name else "array"
        raise DataError(
            f"text after the end of the {container}", path=table_path, line=cursor.line, fix=f"one {container} per file"
        )


def _elements(cursor: _Cursor) -> Iterator[_Record]:
    """The records of the array that starts here."""
    cursor.skip()
    if cursor.peek() == "]":
        cursor.skip()
        return
    while True:
        cursor.peek()
        line_number = cursor.line
        json_value, source_text = cursor.element()
        try:
            record = _checked(json_value, source_text, f"every element of the array must be an object; {_FRAME}")
            yield from ((line_number, flat_record) for flat_record in flatten_squad(record))
        except CellError as error:
            yield line_number, RowError(str(error), path=cursor.path, line=line_number, fix=error.fix)
        if cursor.expect(",", "]") == "]":
            return


def _to_list(cursor: _Cursor) -> str:
    """Go to the array of rows in the object that starts here, and give its name; "" where it has none. Raises DataError
    where another list may hold the rows."""
    cursor.skip()
    has_other_lists = False
    while cursor.peek() == '"':
        member_name = _member(cursor)
        if member_name in _LISTS and cursor.peek() == "[":
            if has_other_lists:
                raise _several_lists(cursor)
            return member_name
        has_other_lists |= _skip_value(cursor)
        if cursor.peek() != ",":
            break
        cursor.skip()
    return ""


def _close_object(cursor: _Cursor, list_name: str) -> None:
    """Skip the rest of the object behind the array `list_name`. Raises DataError where it may hold rows itself."""
    while cursor.expect(",", "}") == ",":
        is_repeated = _member(cursor) == list_name
        if _skip_value(cursor) or is_repeated:
            raise _several_lists(cursor)


def _member(cursor: _Cursor) -> str:
    cursor.peek()
    member_name, _ = cursor.element()
    cursor.expect(":")
    return str(member_name)


def _skip_value(cursor: _Cursor) -> bool:
    """Skip a value; whether it is a list that holds objects."""
    cursor.peek()
    json_value, _ = cursor.element()
    return isinstance(json_value, list) and any(isinstance(list_item, dict) for list_item in json_value)


def _several_lists(cursor: _Cursor) -> DataError:
    fix = "save the one with the rows alone, as [{...}, ...]"
    return DataError("the object holds several lists of objects", path=cursor.path, line=cursor.line, fix=fix)
