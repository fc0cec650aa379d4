"""All passages of an index, which no question gives."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from lorica.retrieval.index_manifest import read_manifest
from lorica.retrieval.passage_store import open_store
from lorica.retrieval.passages import IndexedPassage


def all_passages(folder: Path, subject: str) -> list[IndexedPassage]:
    """Every passage of a subject's index, by id."""
    manifest = read_manifest(folder, subject)
    with closing(open_store(folder, subject, manifest)) as store:
        return store.passages(range(1, manifest.passages + 1))
