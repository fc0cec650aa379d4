"""Files of documents to chunks of text; a file that an index has already is not read again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import msgspec

from lorica.data.digest import file_digest
from lorica.errors import DataError, RetrievalError, RowError
from lorica.names import visible
from lorica.retrieval.clean_text import clean_text
from lorica.retrieval.document_files import READERS, DocumentFile, list_documents, read_documents, reading
from lorica.retrieval.index_manifest import SplitSettings
from lorica.retrieval.parse_documents import ParserProcess
from lorica.retrieval.passages import Chunk, SourceFile
from lorica.retrieval.split_text import split_text
from lorica.retrieval.split_tokenizer import open_tokenizer
from lorica.retrieval.table_documents import COLUMNS, RawDocument

_LENGTHS = (8, 8192)
_MOST_TAGS = 100
_SKIP = "--bad-documents skip leaves such out and names them"

Progress = Callable[[int | None, str], AbstractContextManager[Callable[[int], None]]]
"""(number of units or None, their name) -> a context that gives a function to be told of units that are done."""


class BadDocument(msgspec.Struct, frozen=True):
    """A document or row that was left out, and why."""

    path: str
    line: int | None
    reason: str


class SourceReader:
    """Reads and splits. read_count, reused_count: of files; bad: what was left out; notes: for people."""

    def __init__(
        self,
        tokenizer: str,
        length: int,
        overlap: int,
        columns: Mapping[str, str],
        tags: Sequence[str],
        *,
        skip_bad: bool,
    ) -> None:
        """See `BuildOptions`. Raises RetrievalError for settings that are out of bounds."""
        _check(length, overlap, columns, tags)
        self._tokenizer = open_tokenizer(tokenizer)
        self._length, self._overlap = length, overlap
        self._columns = dict(columns)
        self._tags = tuple(sorted(map(visible, set(tags))))
        self._skip_bad = skip_bad
        self.read_count = self.reused_count = 0
        self.bad: list[BadDocument] = []
        self.notes: list[str] = []

    def settings(self, near_duplicates: bool) -> SplitSettings:
        """What an index says of how its documents were split."""
        return SplitSettings(
            self._tokenizer.digest, self._length, self._overlap, near_duplicates, self._columns, READERS
        )

    def read(self, paths: Sequence[Path], current: Iterable[SourceFile], progress: Progress) -> list[SourceFile]:
        """The documents among files and below folders, split, sorted by name. current: files of an index whose chunks
        are used again where a file has the same content. Raises DataError for one that cannot be used."""
        listing = list_documents(paths)
        if note := listing.note():
            self.notes.append(note)
        if not listing.files:
            raise RetrievalError(
                f"{', '.join(map(str, paths)) or 'nothing'}: holds no documents", fix="name files or folders of them"
            )
        reusable = {(file.digest, reading(file.name)): file for file in current if not file.skipped}
        files = []
        with ParserProcess() as parser, progress(len(listing.files), "files read") as advance:
            for document in listing.files:
                try:
                    files.append(self._read(document, reusable, parser))
                except DataError as error:
                    if not self._skip_bad:
                        raise _with_hint(error) from error
                    self._leave_out(error)
                advance(1)
        return files

    def _read(
        self, document: DocumentFile, reusable: Mapping[tuple[str, str], SourceFile], parser: ParserProcess
    ) -> SourceFile:
        digest = file_digest(document.path)
        same = reusable.get((digest, reading(document.name)))
        if same is not None:
            self.reused_count += 1
            return msgspec.structs.replace(same, name=document.name, tags=self._tags)
        bad_before = len(self.bad)
        chunks: list[Chunk] = []
        for raw in read_documents(document, self._columns, parser, self._leave_out_row):
            document_chunks = self._split(raw)
            if not document_chunks and raw.line:
                message = "its text is of characters that nobody sees alone"
                fix = "fill it, or remove the row"
                self._leave_out_row(RowError(message, path=document.path, line=raw.line, fix=fix))
            chunks.extend(document_chunks)
        if not chunks and len(self.bad) == bad_before:
            raise DataError("it holds no text", path=document.path, fix="fill it, or leave it out")
        self.read_count += 1
        return SourceFile(document.name, document.format, digest, self._tags, tuple(chunks), len(self.bad) - bad_before)

    def _split(self, raw: RawDocument) -> list[Chunk]:
        texts = split_text(clean_text(raw.text), self._tokenizer, length=self._length, overlap=self._overlap)
        title = clean_text(raw.title).replace("\n", " ")[:300]
        return [Chunk(text, raw.source or raw.line or "", title, raw.tags) for text in texts]

    def _leave_out_row(self, error: RowError) -> None:
        """Keep the reason of a row that is left out, or raise it."""
        if not self._skip_bad:
            raise error.as_data_error() from error
        self._leave_out(error.as_data_error())

    def _leave_out(self, error: DataError) -> None:
        reason = error.message.removeprefix(_location(error))
        self.bad.append(BadDocument(str(error.path), error.line, reason))


def _with_hint(error: DataError) -> DataError:
    if isinstance(error, RowError):
        error = error.as_data_error()
    message = error.message.removeprefix(_location(error))
    fix = f"{error.fix}; {_SKIP}" if error.fix else _SKIP
    return DataError(message, path=error.path, line=error.line, fix=fix)


def _location(error: DataError) -> str:
    return f"{error.path}:{error.line}: " if error.line is not None else f"{error.path}: "


def _check(length: int, overlap: int, columns: Mapping[str, str], tags: Sequence[str]) -> None:
    low, high = _LENGTHS
    if not low <= length <= high:
        raise RetrievalError(f"a length of {length} tokens; allowed: {low} to {high}", fix="--length 200")
    if not 0 <= overlap <= length // 2:
        raise RetrievalError(
            f"an overlap of {overlap} tokens; allowed: 0 to half of the length ({length // 2})",
            fix=f"--overlap {min(40, length // 2)}",
        )
    for name in columns:
        if name not in COLUMNS:
            raise RetrievalError(f"--column {name}=...: allowed are {', '.join(COLUMNS)}", fix="--column text=NAME")
    if len(tags) > _MOST_TAGS or not all(tag.strip() == tag and tag for tag in tags):
        raise RetrievalError(
            f"tags {list(tags)[:5]}; allowed: up to {_MOST_TAGS} texts without white space around them",
            fix="--tag chapter=1",
        )
