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


class ZipMember(NamedTuple):
    """Where the bytes of a member stand in the archive's file."""

    start: int
    size: int


def directory_bytes(archive_path: Path) -> int:
    """How long a zip archive says that its list of members is: zipfile reads all of it at once. Raises BadZipFile."""
    with archive_path.open("rb") as archive_file:
        file_size = archive_file.seek(0, io.SEEK_END)
        archive_file.seek(max(0, file_size - 65_557))
        archive_tail = archive_file.read()
        record_offset = archive_tail.rfind(b"PK\x05\x06")
        if record_offset < 0 or len(archive_tail) - record_offset < 22:
            raise zipfile.BadZipFile("the end of the archive is missing")
        (length,) = struct.unpack_from("<I", archive_tail, record_offset + 12)
        locator_64 = archive_tail[max(0, record_offset - 20) : record_offset]
        if locator_64.startswith(b"PK\x06\x07"):
            (offset,) = struct.unpack_from("<Q", archive_tail, record_offset - 12)
            for record_start in {
                min(offset, file_size),
                max(0, file_size - len(archive_tail) + record_offset - 20 - 56),
            }:
                archive_file.seek(record_start)
                record = archive_file.read(56)
                if len(record) == 56 and record.startswith(b"PK\x06\x06"):
                    length = max(length, struct.unpack_from("<Q", record, 40)[0])
    return int(length)


def stored_members(archive_path: Path) -> dict[str, ZipMember]:
    """Name -> where its bytes lie, of an archive whose members are stored as they are.

    Raises AdapterError for a damaged archive, checksums included, for members that are compressed or encrypted, that
    share a name or overlap, and for a list of members that is too long.
    """
    try:
        if directory_bytes(archive_path) > MAX_DIRECTORY_BYTES:
            raise AdapterError(f"lists more members than tensors need (over {MAX_DIRECTORY_BYTES} bytes)")
        with zipfile.ZipFile(archive_path) as archive:
            member_infos = sorted(archive.infolist(), key=lambda member_info: member_info.header_offset)
            _check(member_infos, archive_path.stat().st_size)
            return {member_info.filename: _locate(archive, member_info) for member_info in member_infos}
    except _DAMAGED as error:
        raise AdapterError(f"is a damaged zip archive ({error})", fix="fetch or save the file again") from None


def _check(member_infos: list[zipfile.ZipInfo], file_size: int) -> None:
    member_names: set[str] = set()
    previous_end = 0
    for info in member_infos:
        shown_name = ascii(info.filename)[:100]
        if info.flag_bits & 1:
            raise AdapterError(f"its member {shown_name} is encrypted", fix="save the file again without a password")
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            raise AdapterError(
                f"its member {shown_name} is compressed, which torch.save and numpy.savez do not do",
                fix="save the file again with the tool that made it",
            )
        if info.filename in member_names:
            raise AdapterError(f"holds the member {shown_name} twice", fix="get the file from somebody you trust")
        member_names.add(info.filename)
        if info.header_offset < previous_end or info.header_offset + _LOCAL_HEADER + info.file_size > file_size:
            raise AdapterError(
                f"its member {shown_name} overlaps another one, or the end", fix="get the file from somebody you trust"
            )
        previous_end = info.header_offset + _LOCAL_HEADER + info.file_size


def _locate(archive: zipfile.ZipFile, member_info: zipfile.ZipInfo) -> ZipMember:
    assert archive.fp is not None  # it is open
    with archive.open(member_info) as member:  # compares the names, and reads past the member's own header
        data_start = archive.fp.tell()
        while member.read(_CHUNK):  # to its end, where its checksum is compared
            pass
    return ZipMember(data_start, member_info.file_size)
