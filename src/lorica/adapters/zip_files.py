"""Zip archives that hold tensors (torch.save, numpy.savez): where each member's bytes lie, with nothing unpacked."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

from lorica.errors import AdapterError

MAX_DIRECTORY_BYTES = 32 << 20
_LOCAL_HEADER = 30
_CHUNK = 1 << 20
_DAMAGED = (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, ValueError, struct.error)


class Member(NamedTuple):
    """Where the bytes of a member stand in the archive's file."""

    start: int
    size: int


def directory_bytes(path: Path) -> int:
    """How long a zip archive says that its list of members is: zipfile reads all of it at once. Raises BadZipFile."""
    with path.open("rb") as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(max(0, size - 65_557))
        tail = file.read()
        at = tail.rfind(b"PK\x05\x06")
        if at < 0 or len(tail) - at < 22:
            raise zipfile.BadZipFile("the end of the archive is missing")
        (length,) = struct.unpack_from("<I", tail, at + 12)
        if tail[max(0, at - 20) : at].startswith(b"PK\x06\x07"):  # the 64-bit record's place
            (offset,) = struct.unpack_from("<Q", tail, at - 12)
            for start in {min(offset, size), max(0, size - len(tail) + at - 20 - 56)}:
                file.seek(start)
                record = file.read(56)
                if len(record) == 56 and record.startswith(b"PK\x06\x06"):
                    length = max(length, struct.unpack_from("<Q", record, 40)[0])
    return int(length)


def stored_members(path: Path) -> dict[str, Member]:
    """Name -> where its bytes lie, of an archive whose members are stored as they are.

    Raises AdapterError for a damaged archive, checksums included, for members that are compressed or encrypted, that
    share a name or overlap, and for a list of members that is too long.
    """
    try:
        if directory_bytes(path) > MAX_DIRECTORY_BYTES:
            raise AdapterError(f"lists more members than tensors need (over {MAX_DIRECTORY_BYTES} bytes)")
        with zipfile.ZipFile(path) as archive:
            infos = sorted(archive.infolist(), key=lambda info: info.header_offset)
            _check(infos, path.stat().st_size)
            return {info.filename: _locate(archive, info) for info in infos}
    except _DAMAGED as error:
        raise AdapterError(f"is a damaged zip archive ({error})", fix="fetch or save the file again") from None


def _check(infos: list[zipfile.ZipInfo], size: int) -> None:
    names: set[str] = set()
    end = 0
    for info in infos:
        shown = ascii(info.filename)[:100]
        if info.flag_bits & 1:
            raise AdapterError(f"its member {shown} is encrypted", fix="save the file again without a password")
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            raise AdapterError(
                f"its member {shown} is compressed, which torch.save and numpy.savez do not do",
                fix="save the file again with the tool that made it",
            )
        if info.filename in names:
            raise AdapterError(f"holds the member {shown} twice", fix="get the file from somebody you trust")
        names.add(info.filename)
        if info.header_offset < end or info.header_offset + _LOCAL_HEADER + info.file_size > size:
            raise AdapterError(
                f"its member {shown} overlaps another one, or the end", fix="get the file from somebody you trust"
            )
        end = info.header_offset + _LOCAL_HEADER + info.file_size


def _locate(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Member:
    assert archive.fp is not None  # it is open
    with archive.open(info) as member:  # compares the names, and reads past the member's own header
        start = archive.fp.tell()
        while member.read(_CHUNK):  # to its end, where its checksum is compared
            pass
    return Member(start, info.file_size)
