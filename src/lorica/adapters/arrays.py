"""An adapter's tensors as numpy arrays, without torch: every floating-point element type of safetensors.

BF16 is the upper half of a float32; the 8-bit types are looked up in tables of 256 values (OCP 8-bit floating point
specification for E4M3 and E5M2, the FNUZ variants of Graphcore and AMD, the microscaling E8M0). F64 is rounded to
float32, as loaders do: what float32 cannot hold becomes infinite.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lorica.adapters.header import DTYPE_BITS, TensorInfo
from lorica.errors import AdapterError

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

# Bits of exponent and mantissa, exponent bias, and whether the type is "finite, no negative zero".
_EIGHT_BIT = {
    "F8_E4M3": (4, 3, 7, False),
    "F8_E5M2": (5, 2, 15, False),
    "F8_E4M3FNUZ": (4, 3, 8, True),
    "F8_E5M2FNUZ": (5, 2, 16, True),
}
READABLE = ("BF16", "F16", "F32", "F64", *_EIGHT_BIT, "F8_E8M0")
# The largest finite value of each type: where values end up that did not fit.
LARGEST = {
    "BF16": 3.3895313892515355e38,
    "F16": 65504.0,
    "F32": 3.4028234663852886e38,
    "F8_E4M3": 448.0,
    "F8_E5M2": 57344.0,
    "F8_E4M3FNUZ": 240.0,
    "F8_E5M2FNUZ": 57344.0,
}
# So many values are decoded at once: 16 MiB as float32.
BLOCK_VALUES = 4 * 1024 * 1024


@functools.lru_cache(maxsize=8)
def _byte_table(dtype: str) -> Floats:
    """[256] the value of every byte."""
    byte_values = np.arange(256)
    if dtype == "F8_E8M0":
        byte_floats = np.ldexp(1.0, byte_values - 127)
        byte_floats[255] = np.nan
        return np.asarray(byte_floats, np.float32)
    exponent_bits, mantissa_bits, bias, fnuz = _EIGHT_BIT[dtype]
    exponent = (byte_values >> mantissa_bits) & (2**exponent_bits - 1)
    mantissa = byte_values & (2**mantissa_bits - 1)
    subnormal = exponent == 0
    fraction = np.where(subnormal, 0.0, 1.0) + mantissa / 2**mantissa_bits
    byte_floats = np.where(byte_values >= 128, -1.0, 1.0) * np.ldexp(fraction, np.where(subnormal, 1, exponent) - bias)
    if fnuz:
        byte_floats[0x80] = np.nan
    elif dtype == "F8_E4M3":
        byte_floats[[0x7F, 0xFF]] = np.nan
    else:
        special = exponent == 2**exponent_bits - 1
        byte_floats[special] = np.where(
            mantissa[special] > 0, np.nan, np.where(byte_values[special] >= 128, -np.inf, np.inf)
        )
    return np.asarray(byte_floats, np.float32)


def decode_floats(raw_bytes: Bytes, dtype: str) -> Floats:
    """Little-endian bytes [n * size] -> float32 [n]; for F32 a view of the same memory.

    Raises AdapterError for an element type that is not floating point.
    """
    if dtype == "F32":
        return raw_bytes.view("<f4")
    if dtype == "BF16":
        widened_bits = np.empty(raw_bytes.size // 2, np.uint32)
        np.left_shift(raw_bytes.view("<u2"), 16, out=widened_bits, dtype=np.uint32, casting="unsafe")
        return widened_bits.view(np.float32)
    if dtype in ("F16", "F64"):
        with np.errstate(over="ignore"):  # infinite is what float32 makes of it, and the checks say so
            return raw_bytes.view("<f2" if dtype == "F16" else "<f8").astype(np.float32)
    if dtype in READABLE:
        return np.asarray(_byte_table(dtype)[raw_bytes])
    raise AdapterError(f"values of type {dtype} are not floating point", fix="save the adapter as F32, BF16 or F16")


class TensorReader:
    """A weights file, open for reading: `with TensorReader(path) as reader`. Memory is one block, reused.

    Arrays that `blocks` and `raw_blocks` yield are valid until the next one. Raises AdapterError when the file cannot
    be read or is shorter than its header says.
    """

    def __init__(self, weights_path: Path) -> None:
        self._path = weights_path
        self._buffer = bytearray()

    def __enter__(self) -> TensorReader:
        try:
            self._file = self._path.open("rb", buffering=0)
        except OSError as error:
            raise AdapterError(f"{self._path}: cannot be read ({error.strerror})") from error
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def raw_blocks(self, tensor_info: TensorInfo, max_values: int = BLOCK_VALUES) -> Iterator[Bytes]:
        """The tensor's bytes in order, in pieces of whole elements, at most `max_values` elements each."""
        block_bytes = max_values * max(DTYPE_BITS[tensor_info.dtype], 8) // 8
        self._seek(tensor_info.start)
        for block_start in range(tensor_info.start, tensor_info.stop, block_bytes):
            yield self._read(min(block_bytes, tensor_info.stop - block_start))

    def blocks(self, tensor_info: TensorInfo, max_values: int = BLOCK_VALUES) -> Iterator[Floats]:
        """The tensor's values in order, flat, at most `max_values` at a time."""
        for raw_bytes in self.raw_blocks(tensor_info, max_values):
            yield decode_floats(raw_bytes, tensor_info.dtype)

    def read(self, tensor_info: TensorInfo) -> Floats:
        """The whole tensor in its shape; the caller's own copy."""
        value_count = (tensor_info.stop - tensor_info.start) * 8 // DTYPE_BITS[tensor_info.dtype]
        for block_values in self.blocks(tensor_info, max(value_count, 1)):
            return block_values.reshape(tensor_info.shape).copy()
        return np.zeros(tensor_info.shape, np.float32)

    def _seek(self, position: int) -> None:
        try:
            self._file.seek(position)
        except OSError as error:
            raise AdapterError(f"{self._path}: cannot be read ({error.strerror})") from error

    def _read(self, byte_count: int) -> Bytes:
        if len(self._buffer) < byte_count:
            self._buffer = bytearray(byte_count)
        buffer_view = memoryview(self._buffer)[:byte_count]
        bytes_read = 0
        try:
            while bytes_read < byte_count and (chunk_bytes := self._file.readinto(buffer_view[bytes_read:])):
                bytes_read += chunk_bytes
        except OSError as error:
            raise AdapterError(f"{self._path}: cannot be read ({error.strerror})") from error
        if bytes_read < byte_count:
            raise AdapterError(f"{self._path}: ends before its last tensor", fix="fetch or save the file again")
        return np.frombuffer(buffer_view, np.uint8)


def read_array(weights: Path, tensor_info: TensorInfo) -> Floats:
    """One tensor of a safetensors file as float32, in its shape.

    Raises AdapterError for a type that is not floating point, or a file that cannot be read to the tensor's end.
    """
    with TensorReader(weights) as reader:
        return reader.read(tensor_info)
