"""Embeddings of many texts, each computed once; what was computed before an interruption is on disk."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from lorica.adapters.member_folder import Doubles
from lorica.data.digest import bytes_digest
from lorica.data.write import atomic_file
from lorica.retrieval.dense_encoder import DenseEncoder

_TEXTS_A_FILE = 256


def embed_texts(
    texts: Sequence[str], encoder: DenseEncoder, folder: Path, advance: Callable[[int], None]
) -> dict[str, Doubles]:
    """Text -> [dimension]. folder: keeps every 256 embeddings as they are computed, in files that are named after the
    encoder and the texts; whoever calls removes them. advance: is told of texts that are done."""
    embeddings: dict[str, Doubles] = {}
    for start in range(0, len(texts), _TEXTS_A_FILE):
        chunk = texts[start : start + _TEXTS_A_FILE]
        digest = bytes_digest(json.dumps([encoder.digest, *chunk]).encode()).removeprefix("sha256:")
        path = folder / f"embeddings-{digest[:32]}.npy"
        vectors = _read(path, (len(chunk), encoder.dimension))
        if vectors is None:
            vectors = encoder.encode(chunk, advance).astype(np.float64)
            _write(path, vectors)
        else:
            advance(len(chunk))
        embeddings |= dict(zip(chunk, vectors, strict=True))
    return embeddings


def _read(path: Path, shape: tuple[int, int]) -> Doubles | None:
    """None for a file that is not there, or not of this shape: it is computed again."""
    try:
        vectors = np.load(io.BytesIO(path.read_bytes()), allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return vectors if vectors.shape == shape and vectors.dtype == np.float64 else None


def _write(path: Path, vectors: Doubles) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as stream:
        np.save(stream, vectors, allow_pickle=False)
