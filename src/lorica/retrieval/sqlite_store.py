"""The embedded store: an SQLite file of passages, an FTS5 table of their terms, tags, and the chunks of every document;
beside it vectors as a NumPy file.

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
from lorica.retrieval.dense_encoder import Vectors
from lorica.retrieval.lexical_tokens import lexical_tokens, telling_terms
from lorica.retrieval.passages import Chunk, IndexedPassage, SourceFile
from lorica.retrieval.vectors import nearest

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


def write_passages(
    store_path: Path,
    files: Sequence[SourceFile],
    passages: Sequence[IndexedPassage],
    advance: Callable[[int], None],
) -> None:
    """See `passage_store.write_store`."""
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


class SqliteStore:
    """The files of an index, opened for reading. May be used by several threads."""

    def __init__(self, store_path: Path, passage_count: int, vectors: Vectors | None) -> None:
        """Raises FileNotFoundError where it is gone, RetrievalError where it is no index's."""
        self.path = store_path
        self.vectors = vectors
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
        """Close the files."""
        self._connection.close()
        self.vectors = None

    def rank_terms(self, question: str, count: int, tags: Sequence[str] = ()) -> list[tuple[int, float]]:
        """See `PassageStore`."""
        words = json.dumps(list(dict.fromkeys(lexical_tokens(question))))
        sql = "SELECT term, doc FROM json_each(?) JOIN vocabulary ON term = value"
        terms = telling_terms(dict(self._rows(sql, (words,))), self._passage_count)
        if not terms:
            return []
        match = " OR ".join(f'"{term}"' for term in terms)
        tagged = "".join(" AND +rowid IN (SELECT passage FROM tags WHERE tag = ?)" for _ in tags)
        sql = f"SELECT rowid, -rank FROM terms WHERE terms MATCH ?{tagged} ORDER BY rank, rowid LIMIT ?"
        return [(number, score) for number, score in self._rows(sql, (match, *tags, count))]

    def rank_vectors(self, question: Vectors, count: int, tags: Sequence[str] = ()) -> list[tuple[int, float]]:
        """See `PassageStore`."""
        assert self.vectors is not None
        numbers = None
        if tags:
            sql = " INTERSECT ".join("SELECT passage FROM tags WHERE tag = ?" for _ in tags)
            numbers = [number for (number,) in self._rows(sql + " ORDER BY 1", tuple(tags))]
        return nearest(self.vectors, question, count, numbers)

    def passages(self, numbers: Iterable[int]) -> list[IndexedPassage]:
        """See `PassageStore`."""
        sql = "SELECT id, text, source, title, tags FROM passages WHERE number = ?"
        return [
            IndexedPassage(identity, text, source, title, tuple(json.loads(tags)))
            for number in numbers
            for identity, text, source, title, tags in self._rows(sql, (number,))
        ]

    def ids(self) -> list[str]:
        """See `PassageStore`."""
        return [identity for (identity,) in self._rows("SELECT id FROM passages ORDER BY number", ())]

    def tag_counts(self) -> dict[str, int]:
        """See `PassageStore`."""
        return dict(self._rows("SELECT tag, count(*) FROM tags GROUP BY tag ORDER BY tag", ()))

    def source_files(self) -> list[SourceFile]:
        """See `PassageStore`."""
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

    def _rows(self, sql: str, values: Sequence[object]) -> list[tuple]:  # type: ignore[type-arg]
        try:
            with self._lock:
                return self._connection.execute(sql, tuple(values)).fetchall()
        except (sqlite3.Error, ValueError) as error:
            raise self._broken(error) from error

    def _broken(self, error: Exception) -> RetrievalError:
        return RetrievalError(f"{self.path}: cannot be read as an index ({error})", fix="build the index again")
