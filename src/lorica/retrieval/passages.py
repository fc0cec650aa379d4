"""The data types of retrieval: what a file was split into, what an index holds, what a question gets."""

from __future__ import annotations

import msgspec

from lorica.data.digest import bytes_digest

ID_DIGITS = 16


class Passage(msgspec.Struct, frozen=True):
    """A passage that answers a question.

    id: the first hex digits of the text's SHA-256, whatever file it comes from; digest: all of it. source: the id of
    the row that it comes from, or the name of the document. score: of the index's mode (BM25, cosine, or the sum of
    reciprocal ranks); higher is better.
    """

    id: str
    text: str
    source: str
    score: float
    digest: str
    title: str = ""
    tags: tuple[str, ...] = ()


class Chunk(msgspec.Struct, frozen=True):
    """One chunk of a document, before duplicates are left out. source: a row's id; the line of a row without one; ""
    for the document's name."""

    text: str
    source: str | int = ""
    title: str = ""
    tags: tuple[str, ...] = ()


class SourceFile(msgspec.Struct, frozen=True):
    """A file of documents, split. format: which reader read it; digest: of its bytes; tags: those that the command line
    puts on all of it. skipped: rows of it that were left out."""

    name: str
    format: str
    digest: str
    tags: tuple[str, ...]
    chunks: tuple[Chunk, ...]
    skipped: int = 0


class IndexedPassage(msgspec.Struct, frozen=True):
    """A passage as the index holds it."""

    id: str
    text: str
    source: str
    title: str
    tags: tuple[str, ...]


def text_digest(text: str) -> str:
    """The SHA-256 of a passage's text, "sha256:<64 hex digits>"."""
    return bytes_digest(text.encode())


def passage_id(text: str) -> str:
    """The id of the passage with this text."""
    return text_digest(text).removeprefix("sha256:")[:ID_DIGITS]
