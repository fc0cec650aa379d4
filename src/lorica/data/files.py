"""Opening users' files: the format by the suffix, checked against the content's first bytes, and strict UTF-8 text."""

from __future__ import annotations

import codecs
import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Literal, cast

import msgspec

from lorica.errors import DataError
from lorica.file_signatures import HEAD_BYTES, LFS_FIX, Content, recognise
from lorica.names import closest_file

MAX_TEXT = 16 * 1024 * 1024
"""Most bytes of one physical line, and most characters of one CSV cell or one element of a JSON array."""

TableFormat = Literal["csv", "tsv", "jsonl", "json", "parquet", "xlsx"]
TextFormat = Literal["text"]

SUFFIXES: dict[str, TableFormat] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".parquet": "parquet",
    ".xlsx": "xlsx",
    ".xlsm": "xlsx",
}
_ALLOWED = ".csv, .tsv, .jsonl, .ndjson, .json (each also with .gz), .parquet or .xlsx"

_UNPACK = "decompress it first, or compress it with gzip"
_FIXES = {
    Content.LFS_POINTER: LFS_FIX,
    Content.ZIP: "unzip it, or name it .xlsx if it is a workbook",
    Content.XLS: "save it as .xlsx without a password, or the sheet as CSV (UTF-8)",
    Content.PARQUET: "give it the suffix .parquet",
    Content.ARROW: "write it as Parquet or CSV",
    Content.GZIP: "add the suffix .gz to its name",
    Content.BZIP2: _UNPACK,
    Content.XZ: _UNPACK,
    Content.ZSTD: _UNPACK,
    Content.SEVEN_ZIP: _UNPACK,
    Content.HTML: "download the file itself",
    Content.UTF16: "convert it: iconv -f UTF-16 -t UTF-8, or save it as CSV UTF-8",
    Content.UTF32: "convert it: iconv -f UTF-32 -t UTF-8",
}
_OTHER_FIX = "export the table as CSV"
READ_ERRORS = (EOFError, zlib.error, OSError)
"""What reading a file, compressed or not, may raise; `unreadable` makes a DataError of it."""


class FileFormat(msgspec.Struct, frozen=True):
    """What the name of a file promises."""

    format: TableFormat | TextFormat
    gzipped: bool


def file_format(path: Path) -> FileFormat:
    """The format that the suffix of `path` stands for. Raises DataError for any other suffix."""
    file_name = path.name.lower()
    gzipped = file_name.endswith(".gz")
    suffix = Path(file_name.removesuffix(".gz")).suffix
    table_format = SUFFIXES.get(suffix)
    if table_format is None or (gzipped and table_format in ("parquet", "xlsx")):
        suffix_text = f"the suffix {suffix + ('.gz' if gzipped else '')!r}" if suffix or gzipped else "no suffix"
        raise DataError(f"cannot tell the format of this file: {suffix_text}", path=path, fix=f"use one of {_ALLOWED}")
    return FileFormat(table_format, gzipped)


def open_checked(path: Path, table_format: FileFormat) -> BinaryIO:
    """Open `path` for reading bytes (decompressed), after its first bytes were seen to agree with `table_format`.

    Raises DataError for a missing or empty file, a folder, and content of another kind than the suffix promises.
    """
    _require_file(path)
    try:
        with path.open("rb") as raw_file:
            head_bytes = raw_file.read(HEAD_BYTES)
        if not head_bytes:
            raise DataError("the file is empty", path=path, line=1, fix="check how it was made")
        if not table_format.gzipped:
            _refuse_other_kinds(path, table_format, head_bytes)
            return path.open("rb")
        if not head_bytes.startswith(b"\x1f\x8b"):
            fix = "remove .gz from its name, or compress it"
            _refuse_other_kinds(path, table_format, head_bytes)
            raise DataError("the suffix says gzip, the content is not gzip", path=path, line=1, fix=fix)
        with gzip.open(path, "rb") as decompressed:
            _refuse_other_kinds(path, table_format, decompressed.read(HEAD_BYTES))
        return cast(BinaryIO, gzip.open(path, "rb"))
    except READ_ERRORS as error:
        raise unreadable(path, 1, error) from error


def unreadable(path: Path, line_number: int, read_error: Exception) -> DataError:
    """The DataError for a read that failed at about `line_number`."""
    if isinstance(read_error, EOFError):
        return DataError(
            "the gzip stream is cut off", path=path, line=line_number, fix="copy or download the file again"
        )
    if isinstance(read_error, zlib.error | gzip.BadGzipFile):
        fix = "copy or download the file again"
        return DataError(f"the gzip stream is damaged ({read_error})", path=path, line=line_number, fix=fix)
    reason = getattr(read_error, "strerror", None) or read_error
    return DataError(f"the file cannot be read ({reason})", path=path, line=line_number)


def text_lines(path: Path, table_format: FileFormat) -> Iterator[str]:
    """The physical lines of a UTF-8 file, each with its line end, which is "\\n".

    Byte order marks at the file's beginning are dropped.

    A lone carriage return ends no line. Raises DataError with line and byte offset for anything but UTF-8 text.
    """
    byte_offset, line_number = 0, 0
    with open_checked(path, table_format) as byte_stream:
        while True:
            line_number += 1
            try:
                line_bytes = byte_stream.readline(MAX_TEXT + 1)
            except READ_ERRORS as error:
                raise unreadable(path, line_number, error) from error
            if not line_bytes:
                return
            if len(line_bytes) > MAX_TEXT:
                message = f"a line longer than {MAX_TEXT // 2**20} MiB"
                raise DataError(message, path=path, line=line_number, fix="check the line ends")
            if line_number == 1:
                line_bytes, byte_offset = _without_marks(line_bytes)
            try:
                line_text = line_bytes.decode("utf-8")
            except UnicodeDecodeError as error:
                raise _bad_byte(path, line_number, byte_offset + error.start, line_bytes[error.start]) from error
            if "\0" in line_text:
                raise _bad_byte(path, line_number, byte_offset + line_bytes.index(0), 0)
            byte_offset += len(line_bytes)
            yield line_text


def text_chunks(path: Path, table_format: FileFormat, chunk_size: int = 1 << 16) -> Iterator[str]:
    """The text of a UTF-8 file in pieces of about `chunk_size` characters, for formats whose lines may be of any
    length."""
    decoder = codecs.getincrementaldecoder("utf-8")("strict")
    byte_offset, line, is_first_chunk = 0, 1, True
    with open_checked(path, table_format) as byte_stream:
        while True:
            try:
                chunk = byte_stream.read(chunk_size)
            except READ_ERRORS as error:
                raise unreadable(path, line, error) from error
            if is_first_chunk:
                chunk, byte_offset = _without_marks(chunk)
            is_first_chunk = False
            pending = len(decoder.getstate()[0])
            try:
                chunk_text = decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                before = error.object[: error.start]
                error_offset = byte_offset - pending + error.start
                raise _bad_byte(path, line + before.count(b"\n"), error_offset, error.object[error.start]) from error
            if "\0" in chunk_text:
                error_offset = byte_offset - pending + len(chunk_text[: chunk_text.index("\0")].encode())
                raise _bad_byte(path, line + chunk_text.count("\n", 0, chunk_text.index("\0")), error_offset, 0)
            if not chunk:
                return
            byte_offset += len(chunk)
            line += chunk_text.count("\n")
            yield chunk_text


def _without_marks(raw_bytes: bytes) -> tuple[bytes, int]:
    """The beginning of a file without its byte order marks (programs that add one to a file that has one leave two),
    and their length."""
    content = raw_bytes
    while content.startswith(codecs.BOM_UTF8):
        content = content.removeprefix(codecs.BOM_UTF8)
    return content, len(raw_bytes) - len(content)


def _require_file(path: Path) -> None:
    if path.is_file():
        return
    if path.is_dir():
        file_names = sorted(
            stream.name for stream in path.iterdir() if Path(stream.name.lower().removesuffix(".gz")).suffix in SUFFIXES
        )
        fix = f"name a file in it, such as {file_names[0]!r}" if file_names else "name a file"
        raise DataError("this is a folder, not a file", path=path, fix=fix)
    if path.exists():
        raise DataError("this is not a regular file (rows may have to be read twice)", path=path, fix="save it first")
    closest_name = closest_file(path)
    folder_note = "" if path.parent.is_dir() else f"; the folder {str(path.parent)!r} does not exist either"
    raise DataError(
        f"there is no such file{folder_note}",
        path=path,
        fix=f"did you mean {closest_name!r}?" if closest_name else "check the path",
    )


def _refuse_other_kinds(path: Path, table_format: FileFormat, head_bytes: bytes) -> None:
    if table_format.format == "parquet" and head_bytes.startswith(b"PAR1"):
        return
    content = recognise(head_bytes)
    if table_format.format == "xlsx" and content is Content.ZIP:
        return
    if content is not None:
        fix = _FIXES.get(content, _OTHER_FIX)
        raise DataError(f"the suffix says {table_format.format}, the content is {content}", path=path, line=1, fix=fix)
    if table_format.format in ("parquet", "xlsx"):
        format_name = "Parquet" if table_format.format == "parquet" else "a workbook"
        raise DataError(f"the content is not {format_name}", path=path, line=1, fix="give it the suffix of what it is")
    if head_bytes.count(0) > max(4, len(head_bytes) // 4):
        # Of the two bytes of most characters the upper one is 0: the second in little-endian files.
        order = "LE" if head_bytes[1::2].count(0) >= head_bytes[::2].count(0) else "BE"
        fix = f"convert it to UTF-8: iconv -f UTF-16{order} -t UTF-8"
        raise DataError("the content looks like UTF-16 without its mark, or binary", path=path, line=1, fix=fix)


def _bad_byte(path: Path, line_number: int, byte_offset: int, byte_value: int) -> DataError:
    if byte_value == 0:
        return DataError(
            f"a NUL byte at byte {byte_offset}",
            path=path,
            line=line_number,
            fix="text must hold no NUL; check how it was made",
        )
    message = f"byte 0x{byte_value:02X} at byte {byte_offset} of the file is not UTF-8"
    fix = "save the file as UTF-8, or convert it, e.g.: iconv -f WINDOWS-1252 -t UTF-8"
    return DataError(message, path=path, line=line_number, fix=fix)
