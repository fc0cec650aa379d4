"""An adapter's tensors as numpy arrays, without torch: every floating-point element type of safetensors.

BF16 is the upper half of a float32; the 8-bit types are looked up in tables of 256 values (OCP 8-bit floating point
specification for E4M3 and E5M2, the FNUZ variants of Graphcore and AMD, the microscaling E8M0). F64 is rounded to
float32, as loaders do: what float32 cannot hold becomes infinite.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

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
    code = np.arange(256)
    if dtype == "F8_E8M0":
        values = np.ldexp(1.0, code - 127)
        values[255] = np.nan
        scales: Floats = values.astype(np.float32)
        return scales
    exponent_bits, mantissa_bits, bias, fnuz = _EIGHT_BIT[dtype]
    exponent = (code >> mantissa_bits) & (2**exponent_bits - 1)
    mantissa = code & (2**mantissa_bits - 1)
    subnormal = exponent == 0
    fraction = np.where(subnormal, 0.0, 1.0) + mantissa / 2**mantissa_bits
    values = np.where(code >= 128, -1.0, 1.0) * np.ldexp(fraction, np.where(subnormal, 1, exponent) - bias)
    if fnuz:
        values[0x80] = np.nan
    elif dtype == "F8_E4M3":
        values[[0x7F, 0xFF]] = np.nan
    else:
        special = exponent == 2**exponent_bits - 1
        values[special] = np.where(mantissa[special] > 0, np.nan, np.where(code[special] >= 128, -np.inf, np.inf))
    table: Floats = values.astype(np.float32)
    return table


def decode_floats(raw: Bytes, dtype: str) -> Floats:
    """Little-endian bytes [n * size] -> float32 [n]; for F32 a view of the same memory.

    Raises AdapterError for an element type that is not floating point.
    """
    if dtype == "F32":
        return raw.view("<f4")
    if dtype == "BF16":
        wide = np.empty(raw.size // 2, np.uint32)
        np.left_shift(raw.view("<u2"), 16, out=wide, dtype=np.uint32, casting="unsafe")
        return wide.view(np.float32)
    if dtype in ("F16", "F64"):
        with np.errstate(over="ignore"):  # infinite is what float32 makes of it, and the checks say so
            return raw.view("<f2" if dtype == "F16" else "<f8").astype(np.float32)
    if dtype in READABLE:
        looked_up: Floats = _byte_table(dtype)[raw]
        return looked_up
    raise AdapterError(f"values of type {dtype} are not floating point", fix="save the adapter as F32, BF16 or F16")


class TensorReader:
    """A weights file, open for reading: `with TensorReader(path) as reader`. Memory is one block, reused.

    Arrays that `blocks` and `raw_blocks` yield are valid until the next one. Raises AdapterError when the file cannot
    be read or is shorter than its header says.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._buffer = bytearray()

    def __enter__(self) -> TensorReader:
        try:
            self._file = self._path.open("rb", buffering=0)
        except OSError as error:
            raise AdapterError(f"{self._path}: cannot be read ({error.strerror})") from error
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def raw_blocks(self, info: TensorInfo, most: int = BLOCK_VALUES) -> Iterator[Bytes]:
        """The tensor's bytes in order, in pieces of whole elements, at most `most` elements each."""
        size = most * max(DTYPE_BITS[info.dtype], 8) // 8
        self._seek(info.start)
        for start in range(info.start, info.stop, size):
            yield self._read(min(size, info.stop - start))

    def blocks(self, info: TensorInfo, most: int = BLOCK_VALUES) -> Iterator[Floats]:
        """The tensor's values in order, flat, at most `most` at a time."""
        for raw in self.raw_blocks(info, most):
            yield decode_floats(raw, info.dtype)

    def read(self, info: TensorInfo) -> Floats:
        """The whole tensor in its shape; the caller's own copy."""
        count = (info.stop - info.start) * 8 // DTYPE_BITS[info.dtype]
        for values in self.blocks(info, max(count, 1)):
            return values.reshape(info.shape).copy()
        return np.zeros(info.shape, np.float32)

    def _seek(self, position: int) -> None:
        try:
            self._file.seek(position)
        except OSError as error:
            raise AdapterError(f"{self._path}: cannot be read ({error.strerror})") from error

    def _read(self, size: int) -> Bytes:
        if len(self._buffer) < size:
            self._buffer = bytearray(size)
        view = memoryview(self._buffer)[:size]
        done = 0
        try:
            while done < size and (got := self._file.readinto(view[done:])):
                done += got
        except OSError as error:
            raise AdapterError(f"{self._path}: cannot be read ({error.strerror})") from error
        if done < size:
            raise AdapterError(f"{self._path}: ends before its last tensor", fix="fetch or save the file again")
        return np.frombuffer(view, np.uint8)


def read_array(weights: Path, info: TensorInfo) -> Floats:
    """One tensor of a safetensors file as float32, in its shape.

    Raises AdapterError for a type that is not floating point, or a file that cannot be read to the tensor's end.
    """
    with TensorReader(weights) as reader:
        return reader.read(info)
