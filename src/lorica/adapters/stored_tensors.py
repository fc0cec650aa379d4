"""Tensors as they lie in somebody else's file: where their bytes are, in which order; and read from there.

    value(i, j, ...) = element at `start` + itemsize * (i * strides[0] + j * strides[1] + ...)

So a transposition is a change of two tuples, and no more than one tensor is in memory at a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

import msgspec
import numpy as np

from lorica.adapters.header import DTYPE_BITS, MAX_DIMENSIONS, MAX_TENSORS, TensorInfo
from lorica.errors import AdapterError

# Views may repeat a few values for ever (strides of 0): what is read and written may be so many times the file.
_FREE, _TIMES = 64 << 20, 4


class StoredTensor(msgspec.Struct, frozen=True, gc=False):
    """One tensor of a file. dtype: as safetensors calls it. start: the byte of its first element. strides: in elements.
    big_endian: whether its numbers stand with their high bytes first."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    strides: tuple[int, ...]
    big_endian: bool = False

    @property
    def itemsize(self) -> int:
        """Bytes of an element."""
        return DTYPE_BITS[self.dtype] // 8

    @property
    def count(self) -> int:
        """How many values it has."""
        return math.prod(self.shape)

    @property
    def extent(self) -> int:
        """How many elements of the file lie between its first and its last one, both counted."""
        return strided_extent(self.shape, self.strides)

    def transposed(self) -> StoredTensor:
        """A matrix [m, n] as [n, m]."""
        return msgspec.structs.replace(self, shape=self.shape[::-1], strides=self.strides[::-1])


def strided_extent(tensor_shape: Iterable[int], strides: Iterable[int]) -> int:
    """How many elements a view reaches over; 0 for an empty one."""
    dimension_sizes = tuple(tensor_shape)
    if 0 in dimension_sizes:
        return 0
    return 1 + sum((dimension - 1) * stride for dimension, stride in zip(dimension_sizes, strides, strict=True))


def contiguous_strides(tensor_shape: tuple[int, ...]) -> tuple[int, ...]:
    """The strides of a tensor whose values stand in order."""
    strides, next_stride = [], 1
    for dimension in reversed(tensor_shape):
        strides.append(next_stride)
        next_stride *= max(dimension, 1)
    return tuple(reversed(strides))


def of_header(tensor_info: TensorInfo) -> StoredTensor:
    """A tensor of a safetensors file."""
    return StoredTensor(tensor_info.dtype, tensor_info.shape, tensor_info.start, contiguous_strides(tensor_info.shape))


def check_budget(tensors: Iterable[StoredTensor], file_bytes: int) -> None:
    """Raise AdapterError for more tensors, dimensions or bytes than a file of this size has any reason to hold."""
    max_bytes = _FREE + _TIMES * file_bytes
    total_bytes = 0
    for number, tensor in enumerate(tensors, 1):
        if number > MAX_TENSORS:
            raise AdapterError(f"holds more than {MAX_TENSORS} tensors")
        if len(tensor.shape) > MAX_DIMENSIONS:
            raise AdapterError(f"holds a tensor of {len(tensor.shape)} dimensions; allowed: {MAX_DIMENSIONS}")
        total_bytes += tensor.itemsize * max(tensor.count, tensor.extent)
        if total_bytes > max_bytes:
            raise AdapterError(
                f"its tensors are views that unfold to more than {max_bytes} bytes, from a file of {file_bytes}",
                fix="where it was made, call .contiguous().clone() on its tensors and save them again",
            )


def read_stored(weights_file: BinaryIO, weights_path: Path, tensor: StoredTensor) -> bytes:
    """The tensor's values in order, little-endian. Raises AdapterError when the file has become shorter."""
    byte_count = tensor.extent * tensor.itemsize
    try:
        weights_file.seek(tensor.start)
        raw_bytes = weights_file.read(byte_count)
    except OSError as error:
        raise AdapterError(f"{weights_path}: cannot be read ({error.strerror})") from error
    if len(raw_bytes) != byte_count:
        raise AdapterError(f"{weights_path}: changed while it was read", fix="convert it again")
    if tensor.strides == contiguous_strides(tensor.shape) and not tensor.big_endian:
        return raw_bytes
    # A complex number is two numbers, each of which has its own order of bytes.
    components = 2 if tensor.dtype == "C64" else 1
    unit_dtype = np.dtype(f"{'>' if tensor.big_endian else '<'}u{tensor.itemsize // components}")
    flat_units = np.frombuffer(raw_bytes, unit_dtype).reshape(-1, components)
    byte_strides = [stride * tensor.itemsize for stride in tensor.strides]
    strided_view = np.lib.stride_tricks.as_strided(
        flat_units, (*tensor.shape, components), (*byte_strides, unit_dtype.itemsize), writeable=False
    )
    return strided_view.astype(unit_dtype.newbyteorder("<"), order="C").tobytes()
