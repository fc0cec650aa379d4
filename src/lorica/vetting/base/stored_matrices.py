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
        output_width, input_width = self.info.shape
        row_bytes = input_width * DTYPE_BITS[self.info.dtype] // 8
        row_numbers = range(0, output_width, max(1, output_width // max_rows))
        rows = []
        with TensorReader(self.file) as reader:
            for row_number in row_numbers[:max_rows]:
                row_start = self.info.start + row_number * row_bytes
                rows.append(
                    reader.read(TensorInfo(self.info.dtype, (1, input_width), row_start, row_start + row_bytes))[0]
                )
        return np.stack(rows)

    def whole(self) -> Floats:
        """All of it. Raises AdapterError when the file cannot be read."""
        with TensorReader(self.file) as reader:
            return reader.read(self.info)


def stored_matrices(folder: Path) -> dict[str, StoredMatrix]:
    """Path -> matrix, of every weight that is one; nothing of a base that cannot be read, which other checks name."""
    matrices: dict[str, StoredMatrix] = {}
    try:
        for weights_path, header in weight_headers(folder).items():
            for tensor_name, info in header.tensors.items():
                module_path, _, leaf = tensor_name.rpartition(".")
                if leaf == "weight" and len(info.shape) == 2 and info.dtype in READABLE and min(info.shape) > 0:
                    matrices[module_path] = StoredMatrix(weights_path, info)
    except (LoricaError, OSError):
        return {}
    return matrices
