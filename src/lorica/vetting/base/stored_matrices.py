"""A base's matrices where they are stored, and rows or the whole of one as numbers. No torch, no loaded model."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np

from lorica.adapters.arrays import READABLE, Floats, TensorReader
from lorica.adapters.header import DTYPE_BITS, TensorInfo
from lorica.errors import LoricaError
from lorica.models.weight_files import weight_headers


class StoredMatrix(msgspec.Struct, frozen=True):
    """One matrix [out, in] of floating point numbers in a file."""

    file: Path
    info: TensorInfo

    def rows(self, max_rows: int) -> Floats:
        """At most so many rows, spread evenly. Raises AdapterError when the file cannot be read."""
        out, into = self.info.shape
        size = into * DTYPE_BITS[self.info.dtype] // 8
        row_numbers = range(0, out, max(1, out // max_rows))
        rows = []
        with TensorReader(self.file) as reader:
            for row in row_numbers[:max_rows]:
                start = self.info.start + row * size
                rows.append(reader.read(TensorInfo(self.info.dtype, (1, into), start, start + size))[0])
        return np.stack(rows)

    def whole(self) -> Floats:
        """All of it. Raises AdapterError when the file cannot be read."""
        with TensorReader(self.file) as reader:
            return reader.read(self.info)


def stored_matrices(folder: Path) -> dict[str, StoredMatrix]:
    """Path -> matrix, of every weight that is one; nothing of a base that cannot be read, which other checks name."""
    matrices: dict[str, StoredMatrix] = {}
    try:
        for file, header in weight_headers(folder).items():
            for name, info in header.tensors.items():
                path, _, leaf = name.rpartition(".")
                if leaf == "weight" and len(info.shape) == 2 and info.dtype in READABLE and min(info.shape) > 0:
                    matrices[path] = StoredMatrix(file, info)
    except (LoricaError, OSError):
        return {}
    return matrices
