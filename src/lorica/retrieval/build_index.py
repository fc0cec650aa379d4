"""Building and updating an index: read what changed, split, leave duplicates out, encode what is new, write, rename.

The index that results depends on the documents and settings alone: an update has the bytes of a build.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Sequence
from contextlib import nullcontext
from operator import attrgetter
from pathlib import Path

import msgspec
import numpy as np

from lorica.data.digest import bytes_digest
from lorica.data.write import atomic_file, sync_folder
from lorica.errors import RetrievalError
from lorica.locks import lock_folder
from lorica.retrieval.deduplicate import Deduplicated, deduplicate
from lorica.retrieval.dense_encoder import DenseEncoder, Vectors, open_encoder, stamped_encoder
from lorica.retrieval.encoded_passages import PREFIX, encode_passages
from lorica.retrieval.index_manifest import (
    FORMAT,
    MANIFEST_NAME,
    VERSION,
    EncoderStamp,
    FileStamp,
    IndexManifest,
    SplitSettings,
    data_digest,
    index_folder,
    read_manifest,
)
from lorica.retrieval.passage_store import DEFAULT_STORE, check_store, open_store, store_of, write_store
from lorica.retrieval.passages import IndexedPassage, SourceFile
from lorica.retrieval.read_folder import remove_unread
from lorica.retrieval.read_sources import BadDocument, Progress, SourceReader
from lorica.retrieval.split_tokenizer import DEFAULT_TOKENIZER

# Finished or not, and the manifest's own drafts.
_DATA_FILE = re.compile(r"(passages|vectors)-[0-9a-f]{16}\.(sqlite|npy|lancedb)|\.building-.*|\.index\.json\..*\.tmp")
_NAME_DIGITS = 16


class BuildOptions(msgspec.Struct, frozen=True):
    """How an index is built.

    tokenizer: what measures passages, as `open_tokenizer` takes it. length, overlap: of a passage, in its tokens.
    near_duplicates: keep them. columns: what columns of tables are called (`table_documents.COLUMNS`). encoder: for
    vectors, as `open_encoder` takes it, or one that is open; "" for none. tags: on all documents. skip_bad: leave
    documents and rows out that cannot be used, and name them, instead of an error. store: of `passage_store.STORES`; an
    update keeps that of the index."""

    tokenizer: str = DEFAULT_TOKENIZER
    length: int = 200
    overlap: int = 40
    near_duplicates: bool = False
    columns: dict[str, str] = {}
    encoder: DenseEncoder | str = ""
    tags: tuple[str, ...] = ()
    skip_bad: bool = False
    store: str = DEFAULT_STORE


class BuildResult(msgspec.Struct, frozen=True):
    """What a build or an update did. read: files that were read and split; reused: files that were not, being the same;
    removed: names of files that are gone. encoded: passages whose vectors were computed. unchanged: nothing was
    written."""

    manifest: IndexManifest
    folder: Path
    read: int
    reused: int
    removed: tuple[str, ...]
    encoded: int
    bad: tuple[BadDocument, ...]
    notes: tuple[str, ...]
    unchanged: bool = False


class _Current(msgspec.Struct, frozen=True):
    """The index that is there before an update."""

    manifest: IndexManifest
    files: list[SourceFile]
    rows: dict[str, int]  # id -> row of its vector
    vectors: Vectors | None


def build_index(
    folder: Path | str,
    subject: str,
    documents: Sequence[Path],
    options: BuildOptions | None = None,
    *,
    force: bool = False,
    progress: Progress | None = None,
) -> BuildResult:
    """Build a subject's index of files and folders of documents. force: in place of one that is there.

    Raises RetrievalError, DataError for a document that cannot be used, ResumeError while another process writes it."""
    index_path = index_folder(Path(folder), subject)
    with lock_folder(index_path, doing="building an index", fix="wait until it has ended"):
        _remove_unnamed(index_path)
        if (index_path / MANIFEST_NAME).exists() and not force:
            raise RetrievalError(
                f"{index_path}: there is an index of {subject!r} already",
                fix="change it with `lorica kb update`, or build it anew with --force",
            )
        return _IndexBuilder(index_path, subject, options or BuildOptions(), None, progress).run(documents)


def update_index(
    folder: Path | str,
    subject: str,
    documents: Sequence[Path],
    options: BuildOptions | None = None,
    *,
    add: bool = False,
    progress: Progress | None = None,
) -> BuildResult:
    """Bring a subject's index to what files and folders hold now. What is unchanged is neither read nor encoded again,
    what is gone goes. add: documents that are not named stay. options: must be those of the build.

    Raises what `build_index` raises, and RetrievalError where tokenizer, encoder or settings are others."""
    index_path = index_folder(Path(folder), subject)
    read_manifest(Path(folder), subject)  # before a lock makes a folder
    with lock_folder(index_path, doing="updating an index", fix="wait until it has ended"):
        _remove_unnamed(index_path)
        current = _open_current(Path(folder), subject)
        builder = _IndexBuilder(index_path, current.manifest.subject, options or BuildOptions(), current, progress)
        return builder.run(documents, add=add)


class _IndexBuilder:
    def __init__(
        self, index_path: Path, subject: str, options: BuildOptions, current: _Current | None, progress: Progress | None
    ) -> None:
        self._index_path = index_path
        self._subject = subject
        self._options = options
        self._current = current
        self._store = options.store if current is None else store_of(current.manifest)
        self._progress: Progress = progress or (lambda count, unit: nullcontext(lambda done: None))

    def run(self, documents: Sequence[Path], *, add: bool = False) -> BuildResult:
        options, current = self._options, self._current
        check_store(self._store)
        reader = SourceReader(
            options.tokenizer, options.length, options.overlap, options.columns, options.tags, skip_bad=options.skip_bad
        )
        settings = reader.settings(options.near_duplicates)
        if current is not None:
            _check_settings(self._index_path, current.manifest.splitting, settings)
        files = reader.read(documents, current.files if current else (), self._progress)
        named = {file.name for file in files}
        if current is not None and add:
            files = sorted(
                [*files, *(file for file in current.files if file.name not in named)], key=attrgetter("name")
            )
            named = {file.name for file in files}
        removed = tuple(file.name for file in current.files if file.name not in named) if current else ()
        if current is not None and current.manifest.documents == _documents_digest(files):
            if options.encoder:
                self._encoder(current.manifest.encoder)  # another one is refused, whatever there is to encode
            manifest, encoded, unchanged = current.manifest, 0, True
        else:
            with self._progress(None, "passages compared"):
                distinct = deduplicate(files, keep_near=options.near_duplicates)
            if not distinct.passages:
                raise RetrievalError(
                    f"{self._index_path}: no document is left to build an index of",
                    fix=f"name documents that can be used; to remove the index, delete the folder {self._index_path}",
                )
            stamp, vectors, encoded = self._encode(distinct.passages)
            manifest, unchanged = self._write(files, distinct, settings, stamp, vectors), False
        return BuildResult(
            manifest,
            self._index_path,
            reader.read_count,
            reader.reused_count,
            removed,
            encoded,
            tuple(reader.bad),
            tuple(reader.notes),
            unchanged,
        )

    def _encode(self, passages: Sequence[IndexedPassage]) -> tuple[EncoderStamp | None, Vectors | None, int]:
        """The encoder's stamp, the vectors [passages, dimension], and how many of them are new."""
        current = self._current
        if self._options.encoder == "" and (current is None or current.manifest.encoder is None):
            return None, None, 0
        rows = current.rows if current is not None and current.vectors is not None else {}
        new = [row for row, passage in enumerate(passages) if passage.id not in rows]
        stamp = current.manifest.encoder if current is not None else None
        encoder = self._encoder(stamp) if new or stamp is None or self._options.encoder else None
        if encoder is not None:
            stamp = EncoderStamp(encoder.digest, encoder.dimension, encoder.package)
        assert stamp is not None
        vectors = np.zeros((len(passages), stamp.dimension), dtype=np.float32)
        if current is not None and current.vectors is not None:
            for row, passage in enumerate(passages):
                if passage.id in rows:
                    vectors[row] = current.vectors[rows[passage.id]]
        encoded = 0
        if new and encoder is not None:
            with self._progress(len(new), "passages encoded") as advance:
                new_passages = [passages[row] for row in new]
                vectors[new], encoded = encode_passages(self._index_path, encoder, new_passages, advance)
        return stamp, vectors, encoded

    def _encoder(self, stamp: EncoderStamp | None) -> DenseEncoder:
        encoder = self._options.encoder
        if stamp is not None:
            return stamped_encoder(self._index_path, stamp, encoder)
        if self._current is not None:
            raise RetrievalError(
                f"{self._index_path}: was built without vectors",
                fix="leave --encoder out, or build it again: lorica kb build --force",
            )
        return open_encoder(encoder) if isinstance(encoder, str) else encoder

    def _write(
        self,
        files: Sequence[SourceFile],
        distinct: Deduplicated,
        settings: SplitSettings,
        stamp: EncoderStamp | None,
        vectors: Vectors | None,
    ) -> IndexManifest:
        """Write the data files under the names of their contents, then the manifest, then remove what it replaced."""
        draft = self._index_path / f".building-{secrets.token_hex(4)}"
        try:
            with self._progress(len(distinct.passages), "passages indexed") as advance:
                drafts = write_store(self._store, draft, files, distinct.passages, vectors, advance)
            stamps = [
                _named_by_content(path, stem) for path, stem in zip(drafts, ("passages", "vectors"), strict=False)
            ]
            sync_folder(self._index_path)
            manifest = IndexManifest(
                format=FORMAT,
                version=VERSION,
                subject=self._subject,
                splitting=settings,
                encoder=stamp,
                documents=_documents_digest(files),
                document_files=len(files),
                chunks=sum(len(file.chunks) for file in files),
                passages=len(distinct.passages),
                equal_chunks=distinct.equal_chunks,
                near_duplicates=distinct.near_duplicates,
                passages_file=stamps[0],
                vectors_file=stamps[1] if len(stamps) > 1 else None,
            ).stamped()
            with atomic_file(self._index_path / MANIFEST_NAME) as stream:
                stream.write(manifest.encoded())
            for encoded_file in self._index_path.glob(PREFIX + "*"):
                encoded_file.unlink()
        except OSError as error:
            raise RetrievalError(
                f"{self._index_path}: cannot be written ({error.strerror})", fix="free some space"
            ) from error
        finally:
            _remove_unnamed(self._index_path)
        return manifest


def _documents_digest(files: Sequence[SourceFile]) -> str:
    values = [[file.name, file.format, file.digest, file.tags, file.skipped] for file in files]
    return bytes_digest(json.dumps(values).encode())


def _open_current(folder: Path, subject: str) -> _Current:
    manifest = read_manifest(folder, subject)
    try:
        store = open_store(folder, subject, manifest)
    except FileNotFoundError as error:
        raise RetrievalError(f"{error.args[0]}: is missing", fix="build it again: lorica kb build --force") from error
    try:
        rows = {identity: row for row, identity in enumerate(store.ids())}
        return _Current(manifest, store.source_files(), rows, store.vectors)
    finally:
        store.close()


def _check_settings(index_path: Path, built: SplitSettings, wanted: SplitSettings) -> None:
    differences = [
        f"{field} is {getattr(wanted, field)!r} and was {getattr(built, field)!r}"
        for field in SplitSettings.__struct_fields__
        if getattr(built, field) != getattr(wanted, field)
    ]
    if differences:
        raise RetrievalError(
            f"{index_path}: was built with other settings: {'; '.join(differences)}",
            fix="use those, or build it again: lorica kb build --force",
        )


def _named_by_content(draft: Path, stem: str) -> FileStamp:
    """The draft, a file or a folder, on the disk and renamed after its digest."""
    files = sorted(draft.rglob("*")) if draft.is_dir() else [draft]
    for path in [*files, *([draft] if draft.is_dir() else [])]:
        sync_folder(path)  # a file is synced alike
    digest = data_digest(draft)
    name = f"{stem}-{digest.removeprefix('sha256:')[:_NAME_DIGITS]}{draft.suffix}"
    draft.replace(draft.with_name(name))
    return FileStamp(name, digest)


def _remove_unnamed(index_path: Path) -> None:
    """Remove the data files that the manifest does not name, and what killed builds left. A folder that somebody reads
    stays until the next build or update."""
    try:
        raw_bytes = (index_path / MANIFEST_NAME).read_bytes()
    except OSError:
        raw_bytes = b""
    for entry in index_path.iterdir():
        if not _DATA_FILE.fullmatch(entry.name) or entry.name.encode() in raw_bytes:
            continue
        if entry.is_dir():
            remove_unread(entry)
        else:
            entry.unlink(missing_ok=True)
