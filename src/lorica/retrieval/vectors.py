"""The vectors of an index: float32, of length 1, one row a passage, mapped from their file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lorica.errors import RetrievalError
from lorica.retrieval.dense_encoder import Vectors
from lorica.retrieval.index_manifest import IndexManifest

_BLOCK = 1 << 16  # rows that are multiplied together


def write_vectors(path: Path, vectors: Vectors) -> None:
    """Write vectors [passages, dimension]. Raises RetrievalError where the disk is full."""
    try:
        with path.open("xb") as stream:
            np.save(stream, np.ascontiguousarray(vectors, dtype="<f4"), allow_pickle=False)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise RetrievalError(f"{path}: cannot be written ({error.strerror})", fix="free some space") from error


def open_vectors(path: Path, manifest: IndexManifest) -> Vectors:
    """The vectors [passages, dimension] of an index, mapped. Raises FileNotFoundError, and RetrievalError where they do
    not fit the manifest."""
    try:
        vectors: Vectors = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise
    except (OSError, ValueError, EOFError) as error:
        raise RetrievalError(f"{path}: holds no vectors ({error})", fix="build the index again") from error
    dimension = manifest.encoder.dimension if manifest.encoder else 0
    if vectors.dtype != np.float32 or vectors.shape != (manifest.passages, dimension):
        raise RetrievalError(
            f"{path}: holds {vectors.dtype} {vectors.shape}, and index.json says float32 "
            f"({manifest.passages}, {dimension})",
            fix="build the index again",
        )
    return vectors


def nearest(
    vectors: Vectors,
    question: Vectors,
    count: int,
    numbers: Sequence[int] | None = None,
) -> list[tuple[int, float]]:
    """(number, cosine) of the rows of `vectors` [passages, dimension] nearest to `question` [dimension], best first,
    equal ones by number, which is the row's index plus 1. numbers: the only ones that are looked at."""
    rows = np.arange(len(vectors)) if numbers is None else np.asarray(numbers, dtype=np.int64) - 1
    if not len(rows):
        return []
    scores = np.concatenate(
        [
            (vectors[start : start + _BLOCK] if numbers is None else vectors[rows[start : start + _BLOCK]]) @ question
            for start in range(0, len(rows), _BLOCK)
        ]
    )
    threshold = np.partition(scores, -min(count, len(scores)))[-min(count, len(scores))]
    candidates = np.flatnonzero(scores >= threshold)
    order = candidates[np.lexsort((rows[candidates], -scores[candidates]))][:count]
    return [(int(rows[position]) + 1, float(scores[position])) for position in order]
