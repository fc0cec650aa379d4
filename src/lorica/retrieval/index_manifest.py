"""What an index is made of, in `index.json`: digests of documents, tokenizer, encoder, settings and data files.

The manifest is the only file that is replaced; it names the data files by their content, so that whoever reads it sees
one whole index, the old or the new.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

from lorica.adapters.json_document import read_capped
from lorica.data.digest import bytes_digest, file_digest
from lorica.errors import DataError, RetrievalError
from lorica.names import did_you_mean, subject_key, visible

MANIFEST_NAME = "index.json"
FORMAT = "lorica-index"
VERSION = 2
_MAX_BYTES = 1 << 20
_REBUILD = "build it again: lorica kb build --force ..."


class SplitSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How documents become passages. length, overlap: tokens of the tokenizer with this digest. columns: what the
    columns of tables are called, where that was said. readers: the version of Lorica's readers and splitting."""

    tokenizer: str
    length: int
    overlap: int
    near_duplicates: bool
    columns: dict[str, str]
    readers: int


class EncoderStamp(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The encoder of the vectors. package: the installed package that holds it, or "" for a folder."""

    digest: str
    dimension: int
    package: str


class FileStamp(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A data file of the index, or a folder of them: its name, which its content decides, and its digest."""

    name: str
    digest: str


class IndexManifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All that decides what an index answers. documents: a digest over the files' names, contents and tags.

    digest: over all other fields."""

    format: str
    version: int
    subject: str
    splitting: SplitSettings
    encoder: EncoderStamp | None
    documents: str
    document_files: int
    chunks: int
    passages: int
    equal_chunks: int
    near_duplicates: int
    passages_file: FileStamp
    vectors_file: FileStamp | None
    digest: str = ""

    def stamped(self) -> IndexManifest:
        """The same with its digest."""
        unstamped = msgspec.structs.replace(self, digest="")
        digest = bytes_digest(msgspec.json.encode(unstamped, order="sorted"))
        return msgspec.structs.replace(self, digest=digest)

    def encoded(self) -> bytes:
        """The bytes of the file."""
        return msgspec.json.format(msgspec.json.encode(self, order="sorted"), indent=2) + b"\n"

    def facts(self) -> dict[str, object]:
        """What it says of documents and passages, as values of JSON."""
        counts = ("digest", "chunks", "equal_chunks", "near_duplicates", "passages", "splitting", "encoder")
        named = {"subject": self.subject, "files": self.document_files}
        return named | {name: getattr(self, name) for name in counts}

    def data_files(self) -> list[FileStamp]:
        """The files beside the manifest."""
        return [self.passages_file] + ([self.vectors_file] if self.vectors_file else [])


def index_folder(folder: Path, subject: str) -> Path:
    """Where the index of a subject lies. Raises RetrievalError for a name that is none."""
    key = subject_key(subject)
    if not any(map(str.isalnum, key)) or "/" in key or visible(key) != key or len(key.encode()) > 200:
        raise RetrievalError(
            f"{visible(subject)[:100]!r} is no name of a subject; allowed: words of up to 200 bytes",
            fix="--subject algebra",
        )
    return folder / key


def is_index(folder: Path) -> bool:
    """Whether a folder holds an index of this or another version, whole or not."""
    try:
        return f'"format": "{FORMAT}"'.encode() in read_capped(folder / MANIFEST_NAME, _MAX_BYTES + 1)
    except OSError:
        return False


def list_subjects(folder: Path) -> list[str]:
    """The subjects (as `subject_key` writes them) that have an index in a folder; none where there is no folder."""
    if not folder.is_dir():
        return []
    return sorted(entry.name for entry in folder.iterdir() if (entry / MANIFEST_NAME).is_file())


def read_manifest(folder: Path, subject: str) -> IndexManifest:
    """The manifest of a subject's index. Raises RetrievalError for one that is missing, edited or foreign."""
    index_path = index_folder(folder, subject)
    manifest_path = index_path / MANIFEST_NAME
    try:
        raw_bytes = read_capped(manifest_path, _MAX_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise _no_index(folder, subject) from None
    except OSError as error:
        raise RetrievalError(f"{manifest_path}: cannot be read ({error.strerror})", fix="check its rights") from error
    manifest = _decode(manifest_path, raw_bytes)
    if subject_key(manifest.subject) != index_path.name:
        raise RetrievalError(
            f"{index_path}: holds the index of the subject {manifest.subject!r}, and is called {index_path.name!r}",
            fix=f"rename the folder to {subject_key(manifest.subject)!r}, or build one for this subject",
        )
    if manifest.stamped().digest != manifest.digest:
        raise RetrievalError(f"{manifest_path}: was edited: its digest is not that of its content", fix=_REBUILD)
    return manifest


def check_files(folder: Path, subject: str, manifest: IndexManifest) -> dict[str, Path]:
    """Name -> path of the data files, after their digests were found to be the manifest's.

    Raises FileNotFoundError for one that is missing, RetrievalError for one that was changed."""
    paths = {}
    for stamp in manifest.data_files():
        if Path(stamp.name).name != stamp.name:
            raise RetrievalError(f"{folder}: index.json names a file outside its folder: {stamp.name!r}", fix=_REBUILD)
        path = index_folder(folder, subject) / stamp.name
        try:
            digest = data_digest(path)
        except DataError as error:
            if not path.exists():
                raise FileNotFoundError(path) from None
            raise RetrievalError(error.message, fix=_REBUILD) from error
        if digest != stamp.digest:
            if not path.exists():  # a folder that an update removes just now
                raise FileNotFoundError(path)
            raise RetrievalError(
                f"{path}: was changed or cut off: its content is {digest[:19]}..., and was {stamp.digest[:19]}...",
                fix=_REBUILD,
            )
        paths[stamp.name] = path
    return paths


def data_digest(path: Path) -> str:
    """The digest of a data file, or of a folder of them: of all names and contents. Raises DataError where one cannot
    be read."""
    if not path.is_dir():
        return file_digest(path)
    entries = sorted(entry.relative_to(path) for entry in path.rglob("*") if not entry.is_dir())
    return bytes_digest(json.dumps([[entry.as_posix(), file_digest(path / entry)] for entry in entries]).encode())


def _decode(manifest_path: Path, raw_bytes: bytes) -> IndexManifest:
    if len(raw_bytes) > _MAX_BYTES:
        raise RetrievalError(f"{manifest_path}: is larger than {_MAX_BYTES // 2**20} MiB, so no manifest", fix=_REBUILD)
    try:
        values: Any = msgspec.json.decode(raw_bytes)
        header = (values.get("format"), values.get("version")) if isinstance(values, dict) else (None, None)
        if header == (FORMAT, VERSION):
            return msgspec.convert(values, IndexManifest)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise RetrievalError(f"{manifest_path}: is no manifest of an index: {error}", fix=_REBUILD) from error
    if header[0] == FORMAT:
        raise RetrievalError(
            f"{manifest_path}: was written in version {header[1]!r} of the format; this Lorica reads {VERSION}",
            fix=f"use the Lorica that wrote it, or {_REBUILD}",
        )
    raise RetrievalError(f"{manifest_path}: is no manifest of an index (format {header[0]!r})", fix=_REBUILD)


def _no_index(folder: Path, subject: str) -> RetrievalError:
    if not folder.is_dir():
        return RetrievalError(
            f"{folder}: there is no such folder, so it holds no index of the subject {subject!r}",
            fix=f"check the path, or build it: lorica kb build --subject {subject} --out {folder} DOCUMENTS",
        )
    names = list_subjects(folder)
    hint = did_you_mean(subject, names, key=subject_key, otherwise=f"subjects there: {', '.join(names) or 'none'};")
    return RetrievalError(
        f"{folder}: holds no index of the subject {subject!r}",
        fix=f"{hint} build it: lorica kb build --subject NAME --out {folder} DOCUMENTS",
    )
