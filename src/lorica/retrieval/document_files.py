"""The files of documents: which there are below what a user names, and what each holds, read by its suffix."""

from __future__ import annotations

import gzip
import os
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from lorica.data.files import SUFFIXES, FileFormat, text_chunks, unreadable
from lorica.errors import DataError, RowError
from lorica.names import closest_file, listed, visible
from lorica.retrieval.index_manifest import MANIFEST_NAME, is_index
from lorica.retrieval.parse_documents import ParserProcess
from lorica.retrieval.table_documents import RawDocument, read_table

READERS = 1
"""The version of what readers, cleaning and splitting make of a file: a change of theirs asks for a new build."""

MAX_BYTES = 256 * 1024 * 1024
"""Bytes of a file, also after it is decompressed."""

_FORMATS: dict[str, str] = {
    **dict.fromkeys((".txt", ".text", ".md", ".markdown", ".rst"), "text"),
    **dict.fromkeys((".html", ".htm", ".xhtml"), "html"),
    ".pdf": "pdf",
    **dict.fromkeys(SUFFIXES, "table"),
}
ALLOWED = ".txt, .md, .rst, .html, .pdf, and tables: .jsonl, .json, .csv, .tsv (these also with .gz), .parquet, .xlsx"


class DocumentFile(msgspec.Struct, frozen=True):
    """A file to read. name: its path below the folder that was named, "/" between, as `names.visible` writes it;
    format: text, html, pdf or table."""

    path: Path
    name: str
    format: str


class Listing(msgspec.Struct, frozen=True):
    """The files below what was named, sorted by name, and how many of each suffix are no documents."""

    files: tuple[DocumentFile, ...]
    others: dict[str, int]

    def note(self) -> str:
        """A sentence on what is not read; "" where all is."""
        counts = [f"{suffix or 'without a suffix'}: {count}" for suffix, count in sorted(self.others.items())]
        return f"files that are no documents, and not read: {listed(counts, 8)}" if counts else ""


def list_documents(paths: Sequence[Path]) -> Listing:
    """The documents among files and below folders (links followed, each folder once; hidden ones and
    indexes left out).

    Raises DataError for a path that is missing, a file whose suffix none reads, and two of one name."""
    files: dict[str, DocumentFile] = {}
    others: Counter[str] = Counter()
    for path in paths:
        if not path.exists():
            raise _missing(path)
        for file_path, name in _walk(path) if path.is_dir() else [(path, visible(path.name))]:
            file_format = _format(file_path) if file_path.is_file() else None
            if file_format is None and file_path == path:
                raise DataError("no document has this suffix", path=path, fix=f"allowed: {ALLOWED}")
            if file_format is None:
                others[file_path.suffix.lower() if file_path.is_file() else "broken links and devices"] += 1
            elif name in files and not files[name].path.samefile(file_path):
                raise DataError(
                    f"its name {name!r} is that of {files[name].path}, too",
                    path=file_path,
                    fix="name the folder that holds both, so that their names differ",
                )
            else:
                files[name] = DocumentFile(file_path, name, file_format)
    return Listing(tuple(files[name] for name in sorted(files)), dict(others))


def read_documents(
    file: DocumentFile, columns: Mapping[str, str], parser: ParserProcess, on_bad_row: Callable[[RowError], None]
) -> Iterator[RawDocument]:
    """The documents of a file; see `read_table` for tables. Raises DataError with file and, where known, line."""
    _check_size(file.path)
    if file.format == "table":
        return read_table(file.path, columns, on_bad_row)
    if file.format == "text":
        return iter([_read_text(file.path)])
    return iter([parser.parse(file.path, file.format)])


def _read_text(path: Path) -> RawDocument:
    text = "".join(text_chunks(path, FileFormat("text", path.name.lower().endswith(".gz"))))
    first = next((line for line in text.splitlines() if line.strip()), "")
    return RawDocument(text, title=first.lstrip("# ").strip() if first.startswith("#") else "")


def _check_size(path: Path) -> None:
    """Raises DataError for more than `MAX_BYTES`, before anything takes memory."""
    message = f"more than {MAX_BYTES // 2**20} MiB of text"
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DataError(message, path=path, fix="divide it into several files")
        if path.suffix.lower() != ".gz":
            return
        total = 0
        with gzip.open(path, "rb") as stream:
            while chunk := stream.read(1 << 20):
                total += len(chunk)
                if total > MAX_BYTES:
                    raise DataError(f"{message}, when decompressed", path=path, fix="is it a decompression bomb?")
    except (EOFError, zlib.error, OSError) as error:
        raise unreadable(path, 1, error) from error


def reading(name: str) -> str:
    """What of a file's name decides how it is read: "text", "text.gz", ".tsv"."""
    lower_name = name.lower()
    plain_name = lower_name.removesuffix(".gz")
    suffix = Path(plain_name).suffix
    file_format = _FORMATS.get(suffix, suffix)
    return (suffix if file_format == "table" else file_format) + lower_name[len(plain_name) :]


def _format(path: Path) -> str | None:
    return _FORMATS.get(Path(path.name.lower().removesuffix(".gz")).suffix)


def _walk(folder: Path) -> Iterator[tuple[Path, str]]:
    entered: set[tuple[int, int]] = set()
    for root, folder_names, file_names in os.walk(folder, followlinks=True):
        status = os.stat(root)
        if (status.st_dev, status.st_ino) in entered:
            folder_names.clear()
            continue
        entered.add((status.st_dev, status.st_ino))
        if MANIFEST_NAME in file_names and is_index(Path(root)):
            folder_names.clear()  # made of documents, and none itself
            continue
        folder_names[:] = sorted(name for name in folder_names if not name.startswith("."))
        for name in sorted(file_names):
            path = Path(root) / name
            if not name.startswith("."):
                yield path, visible(path.relative_to(folder).as_posix())


def _missing(path: Path) -> DataError:
    closest_name = closest_file(path)
    fix = f"did you mean {closest_name!r}?" if closest_name else "check the path"
    return DataError("there is no such file or folder of documents", path=path, fix=fix)
