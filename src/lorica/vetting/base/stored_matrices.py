"""A base's matrices where they are stored, and rows or the whole of one as numbers. No torch, no loaded model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from lorica.adapters.arrays import READABLE, Floats, TensorReader
from lorica.adapters.header import DTYPE_BITS, TensorInfo
from lorica.errors import LoricaError
from lorica.gguf.file_header import is_gguf
from lorica.gguf.tensors import CheckpointTensor, stored_tensors
from lorica.models.weight_files import weight_headers


@dataclass(frozen=True)
class StoredMatrix:
    """One matrix in a file. shape: (out, in). bits: of a stored number. read: gives these rows of it; it raises
    LoricaError when the file cannot be read."""

    shape: tuple[int, ...]
    bits: int
    read: Callable[[range], Floats]

    def rows(self, max_rows: int) -> Floats:
        """At most so many rows, spread evenly."""
        return self.read(range(0, self.shape[0], max(1, self.shape[0] // max_rows))[:max_rows])

    def whole(self) -> Floats:
        """All of it."""
        return self.read(range(self.shape[0]))


def stored_matrices(folder: Path) -> dict[str, StoredMatrix]:
    """Path -> matrix, of every weight that is one; nothing of a base that cannot be read, which other checks name."""
    matrices: dict[str, StoredMatrix] = {}
    try:
        if is_gguf(folder):
            return {
                tensor_name.removesuffix(".weight"): _gguf_matrix(tensor)
                for tensor_name, tensor in stored_tensors(folder).items()
                if len(tensor.shape) == 2
            }
        for weights_path, header in weight_headers(folder).items():
            for tensor_name, info in header.tensors.items():
                module_path, _, leaf = tensor_name.rpartition(".")
                if leaf == "weight" and len(info.shape) == 2 and info.dtype in READABLE and min(info.shape) > 0:
                    read_rows = partial(_safetensors_rows, weights_path, info)
                    matrices[module_path] = StoredMatrix(info.shape, DTYPE_BITS[info.dtype], read_rows)
    except (LoricaError, OSError):
        return {}
    return matrices


def _gguf_matrix(tensor: CheckpointTensor) -> StoredMatrix:
    block_type = tensor.tensor.block_type
    return StoredMatrix(tensor.shape, 8 * block_type.size // block_type.weights, tensor.rows)


def _safetensors_rows(weights_path: Path, info: TensorInfo, row_numbers: range) -> Floats:
    output_width, input_width = info.shape
    row_bytes = input_width * DTYPE_BITS[info.dtype] // 8
    with TensorReader(weights_path) as reader:
        if len(row_numbers) == output_width:
            return reader.read(info)
        starts = (info.start + row_number * row_bytes for row_number in row_numbers)
        rows = [TensorInfo(info.dtype, (1, input_width), start, start + row_bytes) for start in starts]
        return np.concatenate([reader.read(row) for row in rows])
