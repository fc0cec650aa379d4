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

    format: TableFormat
    gzipped: bool


def file_format(path: Path) -> FileFormat:
    """The format that the suffix of `path` stands for. Raises DataError for any other suffix."""
    name = path.name.lower()
    gzipped = name.endswith(".gz")
    suffix = Path(name.removesuffix(".gz")).suffix
    table_format = SUFFIXES.get(suffix)
    if table_format is None or (gzipped and table_format in ("parquet", "xlsx")):
        got = f"the suffix {suffix + ('.gz' if gzipped else '')!r}" if suffix or gzipped else "no suffix"
        raise DataError(f"cannot tell the format of this file: {got}", path=path, fix=f"use one of {_ALLOWED}")
    return FileFormat(table_format, gzipped)


def open_checked(path: Path, fmt: FileFormat) -> BinaryIO:
    """Open `path` for reading bytes (decompressed), after its first bytes were seen to agree with `fmt`.

    Raises DataError for a missing or empty file, a folder, and content of another kind than the suffix
    promises.
    """
    _require_file(path)
    try:
        with path.open("rb") as raw:
            head = raw.read(HEAD_BYTES)
        if not head:
            raise DataError("the file is empty", path=path, line=1, fix="check how it was made")
        if not fmt.gzipped:
            _refuse_other_kinds(path, fmt, head)
            return path.open("rb")
        if not head.startswith(b"\x1f\x8b"):
            fix = "remove .gz from its name, or compress it"
            _refuse_other_kinds(path, fmt, head)
            raise DataError("the suffix says gzip, the content is not gzip", path=path, line=1, fix=fix)
        with gzip.open(path, "rb") as inner:
            _refuse_other_kinds(path, fmt, inner.read(HEAD_BYTES))
        return cast(BinaryIO, gzip.open(path, "rb"))
    except READ_ERRORS as error:
        raise unreadable(path, 1, error) from error


def unreadable(path: Path, line: int, error: Exception) -> DataError:
    """The DataError for a read that failed at about `line`."""
    if isinstance(error, EOFError):
        return DataError("the gzip stream is cut off", path=path, line=line, fix="copy or download the file again")
    if isinstance(error, zlib.error | gzip.BadGzipFile):
        return DataError(
            f"the gzip stream is damaged ({error})",
            path=path,
            line=line,
            fix="copy or download the file again",
        )
    reason = getattr(error, "strerror", None) or error
    return DataError(f"the file cannot be read ({reason})", path=path, line=line)


def text_lines(path: Path, fmt: FileFormat) -> Iterator[str]:
    """The physical lines of a UTF-8 file, each with its line end, which is "\\n".

    Byte order marks at the file's beginning are dropped.

    A lone carriage return ends no line. Raises DataError with line and byte offset for anything but UTF-8
    text.
    """
    offset, number = 0, 0
    with open_checked(path, fmt) as file:
        while True:
            number += 1
            try:
                raw = file.readline(MAX_TEXT + 1)
            except READ_ERRORS as error:
                raise unreadable(path, number, error) from error
            if not raw:
                return
            if len(raw) > MAX_TEXT:
                raise DataError(
                    f"a line longer than {MAX_TEXT // 2**20} MiB",
                    path=path,
                    line=number,
                    fix="check the line ends",
                )
            if number == 1:
                raw, offset = _without_marks(raw)
            try:
                text = raw.decode("utf-8")
            except UnicodeDecodeError as error:
                raise _bad_byte(path, number, offset + error.start, raw[error.start]) from error
            if "\0" in text:
                raise _bad_byte(path, number, offset + raw.index(0), 0)
            offset += len(raw)
            yield text


def text_chunks(path: Path, fmt: FileFormat, size: int = 1 << 16) -> Iterator[str]:
    """The text of a UTF-8 file in pieces of about `size` characters, for formats whose lines may be of any
    length."""
    decoder = codecs.getincrementaldecoder("utf-8")("strict")
    offset, line, first = 0, 1, True
    with open_checked(path, fmt) as file:
        while True:
            try:
                raw = file.read(size)
            except READ_ERRORS as error:
                raise unreadable(path, line, error) from error
            if first:
                raw, offset = _without_marks(raw)
            first = False
            pending = len(decoder.getstate()[0])
            try:
                text = decoder.decode(raw, final=not raw)
            except UnicodeDecodeError as error:
                before = error.object[: error.start]
                at = offset - pending + error.start
                raise _bad_byte(path, line + before.count(b"\n"), at, error.object[error.start]) from error
            if "\0" in text:
                at = offset - pending + len(text[: text.index("\0")].encode())
                raise _bad_byte(path, line + text.count("\n", 0, text.index("\0")), at, 0)
            if not raw:
                return
            offset += len(raw)
            line += text.count("\n")
            yield text


def _without_marks(raw: bytes) -> tuple[bytes, int]:
    """The beginning of a file without its byte order marks (programs that add one to a file that has one leave two),
    and their length."""
    content = raw
    while content.startswith(codecs.BOM_UTF8):
        content = content.removeprefix(codecs.BOM_UTF8)
    return content, len(raw) - len(content)


def _require_file(path: Path) -> None:
    if path.is_file():
        return
    if path.is_dir():
        names = sorted(p.name for p in path.iterdir() if Path(p.name.lower().removesuffix(".gz")).suffix in SUFFIXES)
        fix = f"name a file in it, such as {names[0]!r}" if names else "name a file"
        raise DataError("this is a folder, not a file", path=path, fix=fix)
    if path.exists():
        raise DataError("this is not a regular file (rows may have to be read twice)", path=path, fix="save it first")
    siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    near = closest_file(path.name, siblings)
    where = "" if path.parent.is_dir() else f"; the folder {str(path.parent)!r} does not exist either"
    raise DataError(
        f"there is no such file{where}",
        path=path,
        fix=f"did you mean {near!r}?" if near else "check the path",
    )


def _refuse_other_kinds(path: Path, fmt: FileFormat, head: bytes) -> None:
    if fmt.format == "parquet" and head.startswith(b"PAR1"):
        return
    content = recognise(head)
    if fmt.format == "xlsx" and content is Content.ZIP:
        return
    if content is not None:
        fix = _FIXES.get(content, _OTHER_FIX)
        raise DataError(f"the suffix says {fmt.format}, the content is {content}", path=path, line=1, fix=fix)
    if fmt.format in ("parquet", "xlsx"):
        name = "Parquet" if fmt.format == "parquet" else "a workbook"
        raise DataError(f"the content is not {name}", path=path, line=1, fix="give it the suffix of what it is")
    if head.count(0) > max(4, len(head) // 4):
        fix = "convert it to UTF-8: iconv -f UTF-16LE -t UTF-8"
        raise DataError("the content looks like UTF-16 without its mark, or binary", path=path, line=1, fix=fix)


def _bad_byte(path: Path, line: int, offset: int, byte: int) -> DataError:
    if byte == 0:
        return DataError(
            f"a NUL byte at byte {offset}",
            path=path,
            line=line,
            fix="text must hold no NUL; check how it was made",
        )
    return DataError(
        f"byte 0x{byte:02X} at byte {offset} of the file is not UTF-8",
        path=path,
        line=line,
        fix="save the file as UTF-8, or convert it, e.g.: iconv -f WINDOWS-1252 -t UTF-8",
    )
