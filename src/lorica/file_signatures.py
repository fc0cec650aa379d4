"""What the first bytes of a file say it is, to refuse what was saved or fetched as something else."""

from __future__ import annotations

from enum import StrEnum

HEAD_BYTES = 64
"""So many first bytes are enough for `recognise`."""

LFS_FIX = "fetch the file itself: run `git lfs pull` in its folder"


class Content(StrEnum):
    """Kinds of files that are found under a wrong name. The value completes "the file is ..."."""

    LFS_POINTER = "a Git LFS pointer, not the file itself"
    ZIP = "a zip archive (an .xlsx workbook is one, and so is what torch.save writes)"
    XLS = "an old Excel workbook (.xls)"
    PARQUET = "a Parquet file"
    ARROW = "an Arrow (Feather) file"
    GZIP = "gzip-compressed"
    BZIP2 = "bzip2-compressed"
    XZ = "xz-compressed"
    ZSTD = "zstd-compressed"
    SEVEN_ZIP = "a 7z archive"
    SQLITE = "an SQLite database"
    PDF = "a PDF document"
    HTML = "an HTML page (a download that went wrong?)"
    PICKLE = "a Python pickle"
    GGUF = "a GGUF file"
    UTF16 = "UTF-16 text"
    UTF32 = "UTF-32 text"


# Long enough that no text of a user begins so: a table's first column may well be called PAR1 or BZh.
_BEGINNINGS: tuple[tuple[bytes, Content], ...] = (
    (b"version https://git-lfs", Content.LFS_POINTER),
    (b"PK\x03\x04", Content.ZIP),
    (b"\xd0\xcf\x11\xe0", Content.XLS),
    (b"PAR1\x15", Content.PARQUET),
    (b"ARROW1\x00", Content.ARROW),
    (b"\x1f\x8b", Content.GZIP),
    *((b"BZh%d1AY&SY" % level, Content.BZIP2) for level in range(1, 10)),
    (b"\xfd7zXZ\x00", Content.XZ),
    (b"\x28\xb5\x2f\xfd", Content.ZSTD),
    (b"7z\xbc\xaf\x27\x1c", Content.SEVEN_ZIP),
    (b"SQLite format 3\x00", Content.SQLITE),
    (b"%PDF-", Content.PDF),
    *((b"\x80%c" % protocol, Content.PICKLE) for protocol in range(2, 6)),
    *((b"GGUF%c\x00\x00\x00" % version, Content.GGUF) for version in range(1, 4)),
    (b"\xff\xfe\x00\x00", Content.UTF32),  # before UTF-16, whose mark it begins with
    (b"\x00\x00\xfe\xff", Content.UTF32),
    (b"\xff\xfe", Content.UTF16),
    (b"\xfe\xff", Content.UTF16),
)
_HTML = (b"<!doctype html", b"<html")


def recognise(first_bytes: bytes) -> Content | None:
    """What a file that begins so is, or None for what may be text, JSON, safetensors or anything unknown."""
    for beginning, content in _BEGINNINGS:
        if first_bytes.startswith(beginning):
            return content
    return Content.HTML if first_bytes[:HEAD_BYTES].lstrip().lower().startswith(_HTML) else None
