"""LanceDB as the store of a subject that has outgrown the embedded one (extra `lancedb`).

A folder of Lance tables: passages with their terms, the counts of terms, and the chunks of every document; vectors
are the NumPy file of the embedded store, which is read ten times as fast as Lance compares all of them. Lance finds
candidates by its own BM25, with a boost for each term that makes up for its other weight of rare terms; their scores
are then computed here, in double precision, as the embedded store computes them. Lance names its files at random:
equal passages do not give equal bytes.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lorica.errors import MissingExtraError, RetrievalError
from lorica.retrieval.dense_encoder import Vectors
from lorica.retrieval.lexical_tokens import lexical_tokens, telling_terms
from lorica.retrieval.passages import Chunk, IndexedPassage, SourceFile
from lorica.retrieval.read_folder import hold_folder
from lorica.retrieval.vectors import nearest

_BATCH = 4096  # rows that are written together
_MARGIN = 32  # candidates beyond those that are asked for
_K1, _B = 1.2, 0.75  # of BM25, as in FTS5 and in Lance
_LEAST_WEIGHT = 1e-6  # of a term in more than half of the passages, as in FTS5
_ROUNDING = 1e-4  # of a score that was added up in single precision, relative
_LANCE_ERRORS = (RuntimeError, OSError, ValueError)  # what Lance raises, whatever the reason
# Terms are split at the spaces, and are as `lexical_tokens` makes them.
_PLAIN_TERMS = {
    "with_position": False,
    "base_tokenizer": "whitespace",
    "max_token_length": None,
    "lower_case": False,
    "stem": False,
    "remove_stop_words": False,
    "ascii_folding": False,
}


def write_passages(
    folder: Path, files: Sequence[SourceFile], passages: Sequence[IndexedPassage], advance: Callable[[int], None]
) -> None:
    """See `passage_store.write_store`."""
    lancedb, pa = _packages()
    from lancedb.index import FTS, BTree

    holders: Counter[str] = Counter()  # term -> passages that hold it
    occurrences: Counter[str] = Counter()  # term -> how often it stands in all of them
    try:
        database = lancedb.connect(folder)
        schema = _passage_schema(pa)
        batches = _passage_batches(pa, schema, passages, holders, occurrences, advance)
        table = database.create_table("passages", pa.RecordBatchReader.from_batches(schema, batches))
        table.create_index("terms", config=FTS(**_PLAIN_TERMS))
        table.create_index("number", config=BTree())
        terms = sorted(holders)
        columns = {"term": pa.array(terms, pa.string())}
        for name, counts in (("passages", holders), ("occurrences", occurrences)):
            columns[name] = pa.array([counts[term] for term in terms], pa.int64())
        database.create_table("terms", pa.table(columns)).create_index("term", config=BTree())
        database.create_table("files", pa.Table.from_pylist(_file_rows(files), _file_schema(pa)))
        schema, batches = _chunk_schema(pa), _chunk_batches(pa, files, passages)
        database.create_table("chunks", pa.RecordBatchReader.from_batches(schema, batches))
    except _LANCE_ERRORS as error:
        raise RetrievalError(f"{folder}: cannot be written ({error})", fix="free some space") from error


class LanceStore:
    """The tables of an index, opened for reading; they are not removed until it is closed. See `PassageStore`."""

    def __init__(self, path: Path, passage_count: int, vectors: Vectors | None) -> None:
        """Raises FileNotFoundError where they are gone, RetrievalError where they are no index's."""
        lancedb, _ = _packages()
        self.path = path
        self.vectors = vectors
        self._passage_count = passage_count
        self._held: int | None = hold_folder(path)
        try:
            database = lancedb.connect(path)
            self._tables = {name: database.open_table(name) for name in ("passages", "terms", "files", "chunks")}
            occurrences = self._read("terms", ["occurrences"])["occurrences"]
            self._mean_length = float(np.sum(occurrences.to_numpy())) / max(self._passage_count, 1)
        except BaseException as error:
            self.close()
            if isinstance(error, _LANCE_ERRORS):
                raise self._broken(error) from error
            raise

    def rank_terms(self, question: str, count: int, tags: Sequence[str] = ()) -> list[tuple[int, float]]:
        """See `PassageStore`. Lance is asked for more until what it found last is so much worse than the last that is
        wanted that no rounding could have kept a better one out."""
        weights = self._term_weights(question)
        limit = count + _MARGIN
        while weights:
            candidates = self._find(weights, limit, tags)
            bags = (Counter(terms.split(" ")) for terms in candidates["terms"].to_pylist())
            scores = [self._bm25(bag, weights) for bag in bags]
            pairs = zip(candidates["number"].to_pylist(), scores, strict=True)
            ranked = sorted(pairs, key=lambda pair: (-pair[1], pair[0]))
            if len(ranked) < limit or ranked[-1][1] < ranked[count - 1][1] * (1 - _ROUNDING):
                return ranked[:count]
            limit *= 4
        return []

    def rank_vectors(self, question: Vectors, count: int, tags: Sequence[str] = ()) -> list[tuple[int, float]]:
        """See `PassageStore`."""
        assert self.vectors is not None
        numbers = None
        if tags:
            numbers = sorted(self._read("passages", ["number"], _having(tags))["number"].to_pylist())
        return nearest(self.vectors, question, count, numbers)

    def passages(self, numbers: Iterable[int]) -> list[IndexedPassage]:
        """See `PassageStore`."""
        wanted = list(numbers)
        columns = ["number", "id", "text", "source", "title", "tags"]
        passages = {}
        for start in range(0, len(wanted), _BATCH):
            chosen = wanted[start : start + _BATCH]
            table = self._read("passages", columns, f"number IN ({', '.join(map(str, chosen))})", len(chosen))
            for row in table.to_pylist():
                number = row.pop("number")
                passages[number] = IndexedPassage(**{**row, "tags": tuple(row["tags"])})
        return [passages[number] for number in wanted]

    def ids(self) -> list[str]:
        """See `PassageStore`."""
        ids: list[str] = self._read("passages", ["number", "id"]).sort_by("number")["id"].to_pylist()
        return ids

    def tag_counts(self) -> dict[str, int]:
        """See `PassageStore`."""
        counts = Counter(tag for tags in self._read("passages", ["tags"])["tags"].to_pylist() for tag in tags)
        return dict(sorted(counts.items()))

    def source_files(self) -> list[SourceFile]:
        """See `PassageStore`."""
        texts = self._read("passages", ["number", "text"]).sort_by("number")["text"].to_pylist()
        chunks: dict[int, list[Chunk]] = {}
        table = self._read("chunks").sort_by([("file", "ascending"), ("position", "ascending")])
        names = ("file", "passage", "text", "source", "title", "tags")
        for file, passage, text, source, title, tags in zip(*(table[name].to_pylist() for name in names), strict=True):
            chunk = Chunk(texts[passage - 1] if text is None else text, json.loads(source), title, tuple(tags))
            chunks.setdefault(file, []).append(chunk)
        return [
            SourceFile(
                row["name"],
                row["format"],
                row["digest"],
                tuple(row["tags"]),
                tuple(chunks.get(number, ())),
                row["skipped"],
            )
            for number, row in enumerate(self._read("files").sort_by("name").to_pylist())
        ]

    def close(self) -> None:
        """Let go of the folder."""
        self.vectors = None
        held, self._held = self._held, None
        if held is not None:
            os.close(held)

    def _term_weights(self, question: str) -> dict[str, tuple[float, float]]:
        """Term -> its weight in BM25, and the boost that makes Lance's weight of it that."""
        terms = list(dict.fromkeys(lexical_tokens(question)))
        counts: dict[str, int] = {}
        for start in range(0, len(terms), _BATCH):
            texts = ", ".join(map(_quoted, terms[start : start + _BATCH]))
            rows = self._read("terms", ["term", "passages"], f"term IN ({texts})", _BATCH).to_pylist()
            counts |= {row["term"]: row["passages"] for row in rows}
        weights = {}
        for term in telling_terms(counts, self._passage_count):
            odds = (self._passage_count - counts[term] + 0.5) / (counts[term] + 0.5)
            weight = max(math.log(odds), _LEAST_WEIGHT)
            weights[term] = (weight, weight / math.log1p(odds))
        return weights

    def _find(self, weights: dict[str, tuple[float, float]], limit: int, tags: Sequence[str]) -> Any:
        """The best passages by Lance's own BM25, with their terms."""
        from lancedb.query import BooleanQuery, MatchQuery, Occur

        matches = [(Occur.SHOULD, MatchQuery(term, "terms", boost=boost)) for term, (_, boost) in weights.items()]
        try:
            query = self._tables["passages"].search(BooleanQuery(matches), query_type="fts")
            query = query.select(["number", "terms", "_score"]).limit(limit)
            return (query.where(_having(tags), prefilter=True) if tags else query).to_arrow()
        except _LANCE_ERRORS as error:
            raise self._broken(error) from error

    def _bm25(self, bag: Counter[str], weights: dict[str, tuple[float, float]]) -> float:
        norm = _K1 * (1 - _B + _B * bag.total() / self._mean_length)
        return sum(weight * bag[term] * (_K1 + 1) / (bag[term] + norm) for term, (weight, _) in weights.items())

    def _read(self, table: str, columns: Sequence[str] | None = None, where: str = "", limit: int | None = None) -> Any:
        try:
            query = self._tables[table].search()
            if columns is not None:
                query = query.select(list(columns))
            if where:
                query = query.where(where)
            return query.limit(limit).to_arrow()
        except _LANCE_ERRORS as error:
            raise self._broken(error) from error

    def _broken(self, error: Exception) -> RetrievalError:
        return RetrievalError(f"{self.path}: cannot be read as an index ({error})", fix="build the index again")


def _packages() -> tuple[Any, Any]:
    try:
        import lancedb
        import pyarrow as pa
    except ImportError as error:
        raise MissingExtraError("lancedb", extra="lancedb", needed_for="the store lancedb") from error
    return lancedb, pa


def _passage_schema(pa: Any) -> Any:
    texts = [pa.field(name, pa.string()) for name in ("id", "text", "source", "title", "terms")]
    return pa.schema([pa.field("number", pa.int64()), *texts, pa.field("tags", pa.list_(pa.string()))])


def _file_schema(pa: Any) -> Any:
    texts = [pa.field(name, pa.string()) for name in ("name", "format", "digest")]
    return pa.schema([*texts, pa.field("tags", pa.list_(pa.string())), pa.field("skipped", pa.int64())])


def _chunk_schema(pa: Any) -> Any:
    numbers = [pa.field(name, pa.int64()) for name in ("file", "position", "passage")]
    texts = [pa.field(name, pa.string()) for name in ("source", "title", "text")]
    return pa.schema([*numbers, *texts, pa.field("tags", pa.list_(pa.string()))])


def _passage_batches(
    pa: Any,
    schema: Any,
    passages: Sequence[IndexedPassage],
    holders: Counter[str],
    occurrences: Counter[str],
    advance: Callable[[int], None],
) -> Iterator[Any]:
    """The passages in batches, numbered from 1. holders, occurrences: their terms are counted there."""
    for start in range(0, len(passages), _BATCH):
        rows = passages[start : start + _BATCH]
        terms = [lexical_tokens(passage.text) for passage in rows]
        for passage_terms in terms:
            holders.update(set(passage_terms))
            occurrences.update(passage_terms)
        names = ("id", "text", "source", "title", "tags")
        columns = {name: [getattr(passage, name) for passage in rows] for name in names}
        columns["number"] = list(range(start + 1, start + 1 + len(rows)))
        columns["terms"] = [" ".join(passage_terms) for passage_terms in terms]
        arrays = {name: pa.array(values, schema.field(name).type) for name, values in columns.items()}
        yield pa.record_batch([arrays[name] for name in schema.names], schema=schema)
        advance(len(rows))


def _file_rows(files: Sequence[SourceFile]) -> list[dict[str, Any]]:
    return [{name: getattr(file, name) for name in ("name", "format", "digest", "tags", "skipped")} for file in files]


def _chunk_batches(pa: Any, files: Sequence[SourceFile], passages: Sequence[IndexedPassage]) -> Iterator[Any]:
    """The chunks of all files, in batches of a file; one that is a passage's text refers to it."""
    numbers = {passage.text: number for number, passage in enumerate(passages, 1)}
    for file_number, file in enumerate(files):
        rows = []
        for position, chunk in enumerate(file.chunks):
            number = numbers.get(chunk.text)
            own_text = chunk.text if number is None else None  # of what was left out as a near-duplicate
            row = {"file": file_number, "position": position, "passage": number, "text": own_text}
            rows.append({**row, "source": json.dumps(chunk.source), "title": chunk.title, "tags": list(chunk.tags)})
        yield pa.RecordBatch.from_pylist(rows, schema=_chunk_schema(pa))


def _having(tags: Sequence[str]) -> str:
    """Tags, all of which a passage must have, as SQL has it."""
    return " AND ".join(f"array_has(tags, {_quoted(tag)})" for tag in tags)


def _quoted(text: str) -> str:
    """A text as SQL has it."""
    return "'" + text.replace("'", "''") + "'"
