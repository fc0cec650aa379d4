"""A base's matrices where they are stored, and rows or the whole of one as numbers. No torch, no loaded model."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import msgspec
import numpy as np

from lorica.adapters.arrays import READABLE, Floats, TensorReader
from lorica.adapters.header import DTYPE_BITS, TensorInfo
from lorica.errors import LoricaError
from lorica.gguf.file_header import is_gguf
from lorica.gguf.tensors import CheckpointTensor, stored_tensors
from lorica.models.weight_files import weight_headers


class StoredMatrix(Protocol):
    """One matrix [out, in] in a file."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(out, in)."""
        ...

    @property
    def bits(self) -> int:
        """Of a stored number."""
        ...

    def rows(self, max_rows: int) -> Floats:
        """At most so many rows, spread evenly. Raises LoricaError when the file cannot be read."""
        ...

    def whole(self) -> Floats:
        """All of it. Raises LoricaError when the file cannot be read."""
        ...


class _GgufMatrix(msgspec.Struct, frozen=True):
    """In the blocks of a GGUF file."""

    tensor: CheckpointTensor

    @property
    def shape(self) -> tuple[int, ...]:
        return self.tensor.shape

    @property
    def bits(self) -> int:
        block_type = self.tensor.tensor.block_type
        return 8 * block_type.size // block_type.weights

    def rows(self, max_rows: int) -> Floats:
        return self.tensor.rows(_spread_rows(self.tensor.shape[0], max_rows))

    def whole(self) -> Floats:
        return self.tensor.values()


class _SafetensorsMatrix(msgspec.Struct, frozen=True):
    """Floating point numbers in a safetensors file."""

    file: Path
    info: TensorInfo

    @property
    def shape(self) -> tuple[int, ...]:
        return self.info.shape

    @property
    def bits(self) -> int:
        return DTYPE_BITS[self.info.dtype]

    def rows(self, max_rows: int) -> Floats:
        output_width, input_width = self.info.shape
        row_bytes = input_width * self.bits // 8
        rows = []
        with TensorReader(self.file) as reader:
            for row_number in _spread_rows(output_width, max_rows):
                row_start = self.info.start + row_number * row_bytes
                rows.append(
                    reader.read(TensorInfo(self.info.dtype, (1, input_width), row_start, row_start + row_bytes))[0]
                )
        return np.stack(rows)

    def whole(self) -> Floats:
        with TensorReader(self.file) as reader:
            return reader.read(self.info)


def _spread_rows(row_count: int, max_rows: int) -> range:
    return range(0, row_count, max(1, row_count // max_rows))[:max_rows]


def stored_matrices(folder: Path) -> dict[str, StoredMatrix]:
    """Path -> matrix, of every weight that is one; nothing of a base that cannot be read, which other checks name."""
    matrices: dict[str, StoredMatrix] = {}
    try:
        if is_gguf(folder):
            return {
                tensor_name.removesuffix(".weight"): _GgufMatrix(stored)
                for tensor_name, stored in stored_tensors(folder).items()
                if len(stored.shape) == 2
            }
        for weights_path, header in weight_headers(folder).items():
            for tensor_name, info in header.tensors.items():
                module_path, _, leaf = tensor_name.rpartition(".")
                if leaf == "weight" and len(info.shape) == 2 and info.dtype in READABLE and min(info.shape) > 0:
                    matrices[module_path] = _SafetensorsMatrix(weights_path, info)
    except (LoricaError, OSError):
        return {}
    return matrices
