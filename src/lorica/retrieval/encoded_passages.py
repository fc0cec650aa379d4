"""Vectors that were computed before a build ended, so that one that is killed goes on where it was.

A file beside the index, a record for each passage: its id, its vector in float32, and a CRC-32 of both. What is torn or
damaged is computed again.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from lorica.errors import RetrievalError
from lorica.retrieval.dense_encoder import DenseEncoder, Vectors
from lorica.retrieval.passages import ID_DIGITS, IndexedPassage

PREFIX = ".encoded-"
_BATCH = 32  # passages between two writes
_CRC_BYTES = 4


def encode_passages(
    folder: Path, encoder: DenseEncoder, passages: Sequence[IndexedPassage], advance: Callable[[int], None]
) -> tuple[Vectors, int]:
    """Vectors [passages, dimension], and how many of them were computed now.

    folder: where the file of those that this encoder computed earlier is, and grows. advance: is told of passages that
    are done. Raises RetrievalError where the disk is full or a vector is not finite."""
    path = folder / (PREFIX + encoder.digest.removeprefix("sha256:")[:ID_DIGITS])
    earlier, whole_bytes = _read(path, encoder.dimension)
    vectors: Vectors = np.zeros((len(passages), encoder.dimension), dtype=np.float32)
    for row, passage in enumerate(passages):
        if passage.id in earlier:
            vectors[row] = earlier[passage.id]
    pending = [row for row, passage in enumerate(passages) if passage.id not in earlier]
    advance(len(passages) - len(pending))
    try:
        with path.open("ab") as stream:
            stream.truncate(whole_bytes)
            for start in range(0, len(pending), _BATCH):
                rows = pending[start : start + _BATCH]
                vectors[rows] = encoder.encode([passages[row].text for row in rows], advance)
                if not np.isfinite(vectors[rows]).all():
                    raise RetrievalError(
                        f"the encoder gave a passage of {rows[0]} to {rows[-1]} a vector that is not finite",
                        fix="use another encoder",
                    )
                stream.write(b"".join(_record(passages[row].id, vectors[row]) for row in rows))
                stream.flush()
    except OSError as error:
        raise RetrievalError(f"{path}: cannot be written ({error.strerror})", fix="free some space") from error
    return vectors, len(pending)


def _record(identity: str, vector: Vectors) -> bytes:
    body = identity.encode() + vector.astype("<f4").tobytes()
    return body + zlib.crc32(body).to_bytes(_CRC_BYTES, "little")


def _read(path: Path, dimension: int) -> tuple[dict[str, Vectors], int]:
    """Id -> vector of the records before the first that is torn or damaged, and their bytes."""
    try:
        content = path.read_bytes()
    except OSError:
        return {}, 0
    size = ID_DIGITS + 4 * dimension + _CRC_BYTES
    vectors: dict[str, Vectors] = {}
    for start in range(0, len(content) - size + 1, size):
        body, crc = content[start : start + size - _CRC_BYTES], content[start + size - _CRC_BYTES : start + size]
        if zlib.crc32(body) != int.from_bytes(crc, "little"):
            break
        vectors[body[:ID_DIGITS].decode("ascii", "replace")] = np.frombuffer(body[ID_DIGITS:], dtype="<f4")
    return vectors, len(vectors) * size
