"""The SQLite file of an index: passages, an FTS5 table of their terms, tags, and the chunks of every document.

It is written anew whenever anything changed, in one order and one transaction, and copied by VACUUM INTO: equal
passages give equal bytes. Readers open it as immutable.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from pathlib import Path

from lorica.errors import RetrievalError
from lorica.retrieval.lexical_tokens import lexical_tokens
from lorica.retrieval.passages import Chunk, IndexedPassage, SourceFile

MAX_QUERY_TERMS = 128
"""Distinct terms of a question that are looked up: of more, those in the fewest passages."""

_SCHEMA = """
PRAGMA page_size = 4096;
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
CREATE TABLE files (number INTEGER PRIMARY KEY, name TEXT, format TEXT, digest TEXT, tags TEXT, skipped INTEGER);
CREATE TABLE passages (number INTEGER PRIMARY KEY, id TEXT, text TEXT, source TEXT, title TEXT, tags TEXT);
CREATE TABLE chunks (
    file INTEGER, position INTEGER, source, title TEXT, tags TEXT, passage INTEGER, text TEXT,
    PRIMARY KEY (file, position)
) WITHOUT ROWID;
CREATE TABLE tags (tag TEXT, passage INTEGER, PRIMARY KEY (tag, passage)) WITHOUT ROWID;
CREATE VIRTUAL TABLE terms USING fts5(tokens, content='', tokenize='ascii');
BEGIN;
"""


def write_store(
    store_path: Path,
    files: Sequence[SourceFile],
    passages: Sequence[IndexedPassage],
    advance: Callable[[int], None] = lambda count: None,
) -> None:
    """Write a new file. passages: sorted by id; the first has the number 1. advance: is told of passages that are done.

    Raises RetrievalError where the disk is full."""
    draft = store_path.with_name(store_path.name + ".draft")
    draft.unlink(missing_ok=True)
    try:
        with closing(sqlite3.connect(draft, isolation_level=None)) as connection:
            connection.executescript(_SCHEMA)
            _insert(connection, files, passages, advance)
            connection.execute("COMMIT")
            connection.execute("VACUUM INTO ?", (str(store_path),))
    except sqlite3.Error as error:
        fix = "use a Python whose SQLite has FTS5" if "fts5" in str(error) else "free some space"
        raise RetrievalError(f"{store_path}: cannot be written ({error})", fix=fix) from error
    finally:
        draft.unlink(missing_ok=True)


def _insert(
    connection: sqlite3.Connection,
    files: Sequence[SourceFile],
    passages: Sequence[IndexedPassage],
    advance: Callable[[int], None],
) -> None:
    numbers = {}
    for number, passage in enumerate(passages, 1):
        numbers[passage.text] = number
        columns = (number, passage.id, passage.text, passage.source, passage.title, json.dumps(passage.tags))
        connection.execute("INSERT INTO passages VALUES (?, ?, ?, ?, ?, ?)", columns)
        terms = " ".join(lexical_tokens(passage.text))
        connection.execute("INSERT INTO terms (rowid, tokens) VALUES (?, ?)", (number, terms))
        connection.executemany("INSERT INTO tags VALUES (?, ?)", [(tag, number) for tag in passage.tags])
        advance(1)
    for file_number, file in enumerate(files, 1):
        file_columns = (file_number, file.name, file.format, file.digest, json.dumps(file.tags), file.skipped)
        connection.execute("INSERT INTO files VALUES (?, ?, ?, ?, ?, ?)", file_columns)
        for position, chunk in enumerate(file.chunks):
            passage_number = numbers.get(chunk.text)
            own_text = chunk.text if passage_number is None else None  # of what was left out as a near-duplicate
            row = (file_number, position, chunk.source, chunk.title, json.dumps(chunk.tags), passage_number, own_text)
            connection.execute("INSERT INTO chunks VALUES (?, ?, ?, ?, ?, ?, ?)", row)
    connection.execute("INSERT INTO terms (terms) VALUES ('optimize')")


class PassageStore:
    """The file of an index, opened for reading. May be used by several threads."""

    def __init__(self, store_path: Path, passage_count: int) -> None:
        """Raises FileNotFoundError where it is gone, RetrievalError where it is no index's."""
        self.path = store_path
        self._passage_count = passage_count
        self._lock = threading.Lock()
        if not store_path.exists():
            raise FileNotFoundError(store_path)
        uri = f"{store_path.absolute().as_uri()}?mode=ro&immutable=1"
        try:
            self._connection = sqlite3.connect(uri, uri=True, check_same_thread=False)
            self._connection.execute("CREATE VIRTUAL TABLE temp.vocabulary USING fts5vocab(main, terms, row)")
        except sqlite3.Error as error:
            if not store_path.exists():  # since a moment: SQLite opens it at the first statement
                raise FileNotFoundError(store_path) from None
            raise self._broken(error) from error

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def rank_terms(self, question: str, count: int, tags: Sequence[str] = ()) -> list[tuple[int, float]]:
        """(number, BM25) of the passages that are nearest by their terms, best first, equal ones by their number.

        tags: all of which a passage must have. A term in more than half of the passages tells nothing and is looked up
        only where the question has no other."""
        terms = self._telling_terms(question)
        if not terms:
            return []
        match = " OR ".join(f'"{term}"' for term in terms)
        tagged = "".join(" AND rowid IN (SELECT passage FROM tags WHERE tag = ?)" for _ in tags)
        sql = f"SELECT rowid, -rank FROM terms WHERE terms MATCH ?{tagged} ORDER BY rank, rowid LIMIT ?"
        return [(number, score) for number, score in self._rows(sql, (match, *tags, count))]

    def tagged(self, tags: Sequence[str]) -> list[int]:
        """The numbers of the passages that have all of these tags, ascending."""
        sql = " INTERSECT ".join("SELECT passage FROM tags WHERE tag = ?" for _ in tags)
        return [number for (number,) in self._rows(sql + " ORDER BY 1", tuple(tags))]

    def passages(self, numbers: Iterable[int]) -> list[IndexedPassage]:
        """The passages of these numbers, in their order."""
        sql = "SELECT id, text, source, title, tags FROM passages WHERE number = ?"
        return [
            IndexedPassage(identity, text, source, title, tuple(json.loads(tags)))
            for number in numbers
            for identity, text, source, title, tags in self._rows(sql, (number,))
        ]

    def ids(self) -> list[str]:
        """The ids of all passages; the first is that of number 1."""
        return [identity for (identity,) in self._rows("SELECT id FROM passages ORDER BY number", ())]

    def tag_counts(self) -> dict[str, int]:
        """Tag -> passages that have it."""
        return dict(self._rows("SELECT tag, count(*) FROM tags GROUP BY tag ORDER BY tag", ()))

    def source_files(self) -> list[SourceFile]:
        """The files that the index was built from, with all their chunks."""
        chunks: dict[int, list[Chunk]] = {}
        sql = (
            "SELECT file, coalesce(chunks.text, passages.text), chunks.source, chunks.title, chunks.tags "
            "FROM chunks LEFT JOIN passages ON passages.number = chunks.passage ORDER BY file, position"
        )
        for file_number, text, source, title, tags in self._rows(sql, ()):
            chunks.setdefault(file_number, []).append(Chunk(text, source, title, tuple(json.loads(tags))))
        sql = "SELECT number, name, format, digest, tags, skipped FROM files ORDER BY number"
        return [
            SourceFile(name, form, digest, tuple(json.loads(tags)), tuple(chunks.get(number, ())), skipped)
            for number, name, form, digest, tags, skipped in self._rows(sql, ())
        ]

    def _telling_terms(self, question: str) -> list[str]:
        terms = json.dumps(list(dict.fromkeys(lexical_tokens(question))))
        sql = "SELECT term, doc FROM json_each(?) JOIN vocabulary ON term = value"
        counts: dict[str, int] = dict(self._rows(sql, (terms,)))
        rare = {term: count for term, count in counts.items() if 2 * count <= self._passage_count}
        usable = rare or counts
        return sorted(usable, key=lambda term: (usable[term], term))[:MAX_QUERY_TERMS]

    def _rows(self, sql: str, values: Sequence[object]) -> list[tuple]:  # type: ignore[type-arg]
        try:
            with self._lock:
                return self._connection.execute(sql, tuple(values)).fetchall()
        except (sqlite3.Error, ValueError) as error:
            raise self._broken(error) from error

    def _broken(self, error: Exception) -> RetrievalError:
        return RetrievalError(f"{self.path}: cannot be read as an index ({error})", fix="build the index again")
