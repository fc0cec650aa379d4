"""Where the passages and vectors of an index are kept: one interface, and the stores that implement it.

The embedded one is the default. Scores and order are the same in all, so that a subject may change its store when it
has outgrown one.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

from lorica.errors import MissingExtraError, RetrievalError
from lorica.names import did_you_mean
from lorica.retrieval.dense_encoder import Vectors
from lorica.retrieval.index_manifest import IndexManifest, check_files, index_folder
from lorica.retrieval.passages import IndexedPassage, SourceFile
from lorica.retrieval.vectors import open_vectors, write_vectors


@dataclass(frozen=True)
class StoreEntry:
    """module: with its `write_passages`, and its class that reads them, imported where it is used. suffix: of the file
    or folder of its passages. extra: the package that it needs, which the extra of that name installs."""

    module: str
    class_name: str
    suffix: str
    extra: str = ""


STORES = {
    "sqlite": StoreEntry("lorica.retrieval.sqlite_store", "SqliteStore", ".sqlite"),
    "lancedb": StoreEntry("lorica.retrieval.lance_store", "LanceStore", ".lancedb", extra="lancedb"),
}
DEFAULT_STORE = "sqlite"


class PassageStore(Protocol):
    """The passages of an index, opened for reading, numbered from 1 by their ids. May be used by several threads."""

    @property
    def vectors(self) -> Vectors | None:
        """[passages, dimension]; None where the index has none."""
        ...

    def rank_terms(self, question: str, count: int, tags: Sequence[str] = ()) -> list[tuple[int, float]]:
        """(number, BM25) of the passages that are nearest by their terms, best first, equal ones by their number.

        tags: all of which a passage must have. Which terms count says `lexical_tokens.telling_terms`."""
        ...

    def rank_vectors(self, question: Vectors, count: int, tags: Sequence[str] = ()) -> list[tuple[int, float]]:
        """(number, cosine) of the passages whose vectors are nearest to that of a question [dimension], best first,
        equal ones by their number. All are compared: none is missed."""
        ...

    def passages(self, numbers: Iterable[int]) -> list[IndexedPassage]:
        """The passages of these numbers, in their order."""
        ...

    def ids(self) -> list[str]:
        """The ids of all passages; the first is that of number 1."""
        ...

    def tag_counts(self) -> dict[str, int]:
        """Tag -> passages that have it."""
        ...

    def source_files(self) -> list[SourceFile]:
        """The files that the index was built from, with all their chunks."""
        ...

    def close(self) -> None:
        """Close its files."""
        ...


def check_store(name: str) -> None:
    """Raise RetrievalError for a name that is no store's, MissingExtraError for one whose package is not installed."""
    if name not in STORES:
        raise RetrievalError(
            f"there is no store {name!r}; allowed: {', '.join(STORES)}",
            fix=did_you_mean(name, STORES, otherwise="leave it out for the embedded one"),
        )
    extra = STORES[name].extra
    if extra and importlib.util.find_spec(extra) is None:
        raise MissingExtraError(extra, extra=extra, needed_for=f"the store {name}")


def write_store(
    name: str,
    draft: Path,
    files: Sequence[SourceFile],
    passages: Sequence[IndexedPassage],
    vectors: Vectors | None,
    advance: Callable[[int], None],
) -> list[Path]:
    """Write the data of an index as the store of this name has it: the paths of the passages, and of the vectors where
    those are apart.

    draft: where they go, each with its suffix. passages: sorted by id; the first has the number 1. vectors: [passages,
    dimension]. advance: is told of passages that are done. Raises RetrievalError where the disk is full."""
    passages_path = draft.with_suffix(STORES[name].suffix)
    importlib.import_module(STORES[name].module).write_passages(passages_path, files, passages, advance)
    if vectors is None:
        return [passages_path]
    vectors_path = draft.with_suffix(".npy")
    write_vectors(vectors_path, vectors)
    return [passages_path, vectors_path]


def open_store(folder: Path, subject: str, manifest: IndexManifest) -> PassageStore:
    """The passages of a subject's index, after every digest was found right. Raises FileNotFoundError for a file that
    is missing, RetrievalError for one that was changed, MissingExtraError."""
    name = store_of(manifest)
    check_store(name)
    check_files(folder, subject, manifest)
    files_folder, stamp = index_folder(folder, subject), manifest.vectors_file
    vectors = None if stamp is None else open_vectors(files_folder / stamp.name, manifest)
    store_type = getattr(importlib.import_module(STORES[name].module), STORES[name].class_name)
    return cast(PassageStore, store_type(files_folder / manifest.passages_file.name, manifest.passages, vectors))


def store_of(manifest: IndexManifest) -> str:
    """The name of the store that an index is kept in."""
    suffix = Path(manifest.passages_file.name).suffix
    return next((name for name, entry in STORES.items() if entry.suffix == suffix), DEFAULT_STORE)
