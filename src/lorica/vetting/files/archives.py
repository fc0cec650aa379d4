"""An adapter in a zip or tar archive: what is in it is listed first, and only the adapter's own files are unpacked.

Nothing is written under a name that the archive chooses: a member is copied to its last part only, into a private
folder, and counted while it is copied, whatever the archive says of its size.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, BinaryIO, Literal

import msgspec

from lorica.adapters.zip_files import directory_bytes
from lorica.file_signatures import Content, recognise

MAX_MEMBERS = 10_000
MAX_UNPACKED = 8 << 30
MAX_RATIO = 100  # of unpacked to packed bytes, above the first MAX_FREE bytes
MAX_FREE = 64 << 20
_MAX_DIRECTORY = 8 << 20
# A header of a tar archive that is longer than this, or that looks so, is made to exhaust its reader.
_MAX_TAR_HEADER = 64 << 10
_MAX_TAR_READS = 256
_CHUNK = 1 << 20

SUFFIXES = (
    ".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".7z", ".rar", ".tar.zst", ".gz", ".xz",
    ".bz2", ".zst",
)  # fmt: skip
_PACKED: dict[Content, Callable[..., Any]] = {Content.GZIP: gzip.open, Content.BZIP2: bz2.open, Content.XZ: lzma.open}
_EMPTY_ZIP = b"PK\x05\x06"
_NOT_READ = (Content.SEVEN_ZIP, Content.ZSTD)
DAMAGED = (
    zipfile.BadZipFile, tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError, NotImplementedError,
    RuntimeError, ValueError, OverflowError, struct.error, AttributeError, IndexError, KeyError, TypeError,
)  # fmt: skip
"""What the readers of the standard library raise for archives that are damaged or made to harm."""

MemberKind = Literal["file", "folder", "link", "special"]
Opener = Callable[[], IO[bytes]]


class ArchiveMember(msgspec.Struct, frozen=True):
    """One member: its name as the archive gives it, its unpacked bytes by its own account, whether it is encrypted."""

    name: str
    size: int
    entry_type: MemberKind
    encrypted: bool = False


class ArchiveBombError(Exception):
    """An archive that unpacks to far more than it is, or whose headers do."""


class TooManyMembersError(Exception):
    """An archive of too many members."""


def is_archive(archive_path: Path) -> bool:
    """Whether a file's name says that it is an archive; it is not opened."""
    return archive_path.name.lower().endswith(SUFFIXES)


def peek(archive_path: Path) -> list[str]:
    """The folders within an archive that hold an adapter ("" is its root), where that is known without unpacking
    it all: a zip archive, a tar archive that is not packed. Else, and for a damaged one, []."""
    try:
        with archive_path.open("rb") as archive_file:
            packed = recognise(archive_file.read(64))
        if packed in (None, Content.ZIP):
            return adapters_in([member for member, _ in walk(archive_path)])
    except (*DAMAGED, ArchiveBombError, TooManyMembersError):
        pass  # `unpack` says what is wrong with it
    return []


def adapters_in(members: list[ArchiveMember]) -> list[str]:
    """Folders that hold a config or weights of an adapter, without checkpoints of a run that is there itself."""
    folders = set()
    for member in members:
        folder, _, file_name = member.name.strip("/").rpartition("/")
        if member.entry_type != "folder" and file_name.lower().startswith(("adapter_config.json", "adapter_model.")):
            folders.add(folder.removeprefix("./").removesuffix("."))
    return sorted(
        folder
        for folder in folders
        if not any(folder != outer and (not outer or folder.startswith(f"{outer}/")) for outer in folders)
    )


def walk(archive_path: Path) -> Iterator[tuple[ArchiveMember, Opener]]:
    """Every member with a way to open it, which holds until the next one is asked for.

    Raises TooManyMembersError, ArchiveBombError, and what DAMAGED lists.
    """
    archive_size = archive_path.stat().st_size
    with archive_path.open("rb") as archive_file:
        first_bytes = archive_file.read(64)
    content = Content.ZIP if first_bytes.startswith(_EMPTY_ZIP) else recognise(first_bytes)
    if content in _NOT_READ:
        raise NotImplementedError(f"it is {content}")
    members = (
        _walk_zip(archive_path) if content is Content.ZIP else _walk_tar(archive_path, content, allowance(archive_size))
    )
    for number, member_and_opener in enumerate(members):
        if number >= MAX_MEMBERS:
            raise TooManyMembersError(f"more than {MAX_MEMBERS} members")
        yield member_and_opener


def allowance(archive_size: int) -> int:
    """How many bytes an archive of `archive_size` bytes may unpack to."""
    return min(MAX_UNPACKED, max(MAX_FREE, MAX_RATIO * archive_size))


def _walk_zip(archive_path: Path) -> Iterator[tuple[ArchiveMember, Opener]]:
    if directory_bytes(archive_path) > _MAX_DIRECTORY:
        raise TooManyMembersError(f"a list of members longer than {_MAX_DIRECTORY} bytes")
    with zipfile.ZipFile(archive_path) as archive:
        for info in archive.infolist():
            member_kind = _kind(stat.S_IFMT(info.external_attr >> 16), info.is_dir())
            member_name = info.orig_filename  # `filename` is already mended

            def opener(info: zipfile.ZipInfo = info) -> IO[bytes]:
                return archive.open(info)

            yield (ArchiveMember(member_name, info.file_size, member_kind, bool(info.flag_bits & 1)), opener)


def _kind(file_mode: int, is_folder: bool) -> MemberKind:
    if file_mode == stat.S_IFLNK:
        return "link"
    if file_mode not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "special"
    return "folder" if is_folder else "file"


def _walk_tar(archive_path: Path, content: Content | None, max_bytes: int) -> Iterator[tuple[ArchiveMember, Opener]]:
    if content is not None and content not in _PACKED:
        raise NotImplementedError(f"it is {content}")
    with contextlib.ExitStack() as stack:
        unpacked: Any = _PACKED[content](archive_path, "rb") if content is not None else archive_path.open("rb")
        # What is not packed cannot unpack to more than it is.
        guarded = _Guarded(
            stack.enter_context(unpacked), max_bytes if content is not None else archive_path.stat().st_size
        )
        archive = stack.enter_context(tarfile.TarFile(fileobj=guarded, mode="r"))
        while (info := archive.next()) is not None:
            guarded.reads = 0
            if info.size < 0:
                raise tarfile.ReadError("a member of negative size")
            member_kind: MemberKind = "special"
            if info.isreg() and not info.issparse():
                member_kind = "file"
            elif info.isdir() or info.issym() or info.islnk():
                member_kind = "folder" if info.isdir() else "link"

            def opener(info: tarfile.TarInfo = info) -> IO[bytes]:
                member_file = archive.extractfile(info)
                if member_file is None:
                    raise tarfile.ReadError("a member that is no file")
                return member_file

            guarded.copying = True
            yield ArchiveMember(info.name, info.size, member_kind), opener
            guarded.copying = False
        guarded.drain()  # so that a packed archive's own checksum is checked


class _Guarded(io.RawIOBase):
    """Stands between tarfile and an archive: tarfile believes the sizes that headers announce."""

    def __init__(self, archive_file: BinaryIO, max_bytes: int) -> None:
        self._file, self._most, self._reached = archive_file, max_bytes, 0
        self.reads = 0
        self.copying = False

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence != io.SEEK_SET:
            raise ValueError("only positions from the beginning")
        if offset > self._most:
            raise ArchiveBombError(f"more than {self._most} bytes unpacked")
        if offset < self._reached - 2 * tarfile.BLOCKSIZE:
            raise tarfile.ReadError("headers that lead back")
        return self._file.seek(offset)

    def read(self, byte_count: int | None = -1) -> bytes:
        if byte_count is None or byte_count < 0:
            raise tarfile.ReadError("a negative size")
        if not self.copying:
            self.reads += 1
            if byte_count > _MAX_TAR_HEADER or self.reads > _MAX_TAR_READS:
                raise ArchiveBombError("headers that are far longer than any file's name")
        chunk = self._file.read(byte_count)
        self._reached = max(self._reached, self._file.tell())
        if self._reached > self._most:
            raise ArchiveBombError(f"more than {self._most} bytes unpacked")
        if not self.copying and byte_count > tarfile.BLOCKSIZE and _DIGITS.search(chunk):
            raise ArchiveBombError("headers made to keep their reader busy")  # gh-121285, in Python before 3.11.10
        return chunk

    def drain(self) -> None:
        """Read to the end."""
        self.copying = True
        while self.read(_CHUNK):
            pass


_DIGITS = re.compile(rb"[0-9]{64}")
_DRIVE = re.compile(r"[A-Za-z]:")


def leads_out(member_name: str) -> bool:
    """Whether a member's name is absolute, climbs, or is no plain path."""
    return (
        not member_name
        or member_name.startswith("/")
        or "\\" in member_name
        or ".." in member_name.split("/")
        or _DRIVE.match(member_name) is not None
        or not member_name.isprintable()
    )


def copy_members(archive_path: Path, targets: dict[str, str], target_folder: Path) -> None:
    """Unpack members into a folder. targets: member's name -> plain file name.

    Of a name that is there twice, the first is taken. Raises ArchiveBombError when more comes out than `allowance`
    says, and what `walk` raises.
    """
    remaining = max_bytes = allowance(archive_path.stat().st_size)
    copied: set[str] = set()
    for member, opener in walk(archive_path):
        target = targets.get(member.name)
        if target is None or target in copied or member.entry_type != "file":
            continue
        with opener() as stream, (target_folder / target).open("xb") as target_file:
            while chunk := stream.read(_CHUNK):
                remaining -= len(chunk)
                if remaining < 0:
                    raise ArchiveBombError(f"more than {max_bytes} bytes unpacked")
                target_file.write(chunk)
        copied.add(target)
