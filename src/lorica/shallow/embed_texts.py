"""Embeddings of many texts, each computed once; what was computed before an interruption is on disk."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from lorica.data.digest import bytes_digest
from lorica.data.write import atomic_file
from lorica.retrieval.dense_encoder import DenseEncoder, Vectors

_TEXTS_A_FILE = 256


class RememberingEncoder:
    """A `DenseEncoder` that computes a text once: fitting, measuring and all folds of a training share their texts."""

    def __init__(self, encoder: DenseEncoder) -> None:
        self._encoder = encoder
        self._embeddings: dict[str, Vectors] = {}
        self.digest, self.dimension, self.package = encoder.digest, encoder.dimension, encoder.package

    def encode(self, texts: Sequence[str], advance: Callable[[int], None] = lambda count: None) -> Vectors:
        """See `DenseEncoder`."""
        for text in texts:
            if text not in self._embeddings:
                (self._embeddings[text],) = self._encoder.encode([text])
            advance(1)
        return np.stack([self._embeddings[text] for text in texts])

    def unknown_share(self, text: str) -> float:
        """See `DenseEncoder`."""
        return self._encoder.unknown_share(text)

    def missing(self, texts: Sequence[str]) -> list[str]:
        """Those that were not computed yet."""
        return [text for text in texts if text not in self._embeddings]

    def compute(self, texts: Sequence[str], folder: Path, advance: Callable[[int], None]) -> None:
        """Compute texts, or read them from `folder`, which keeps every 256 of them as they are computed, in files that
        are named after the encoder and the texts; whoever calls removes them. advance: is told of texts that are
        done."""
        for start in range(0, len(texts), _TEXTS_A_FILE):
            chunk = texts[start : start + _TEXTS_A_FILE]
            digest = bytes_digest(json.dumps([self.digest, *chunk]).encode()).removeprefix("sha256:")
            path = folder / f"embeddings-{digest[:32]}.npy"
            vectors = _read(path, (len(chunk), self.dimension))
            if vectors is None:
                vectors = self._encoder.encode(chunk, advance)
                _write(path, vectors)
            else:
                advance(len(chunk))
            self._embeddings |= dict(zip(chunk, vectors, strict=True))


def _read(path: Path, shape: tuple[int, int]) -> Vectors | None:
    """None for a file that is not there, or not of this shape: it is computed again."""
    try:
        vectors: Vectors = np.load(io.BytesIO(path.read_bytes()), allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return vectors if vectors.shape == shape and vectors.dtype == np.float32 else None


def _write(path: Path, vectors: Vectors) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as stream:
        np.save(stream, vectors, allow_pickle=False)
