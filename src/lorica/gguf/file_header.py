"""The GGUF header (its specification stands in the repository ggml-org/ggml), read without a library.

    4 bytes   "GGUF"; 4 bytes: version, 2 or 3; everything is little-endian
    16 bytes  number of tensors, number of metadata entries
    entries   key (8 bytes of length, UTF-8), 4 bytes value type, value; arrays: element type, length, elements
    tensors   name, 4 bytes number of dimensions, 8 bytes for each (the innermost first), 4 bytes type, 8 bytes offset
    the rest  the tensors' blocks, each at the next multiple of `general.alignment` (32 where it is not stated)

Stricter than ggml and never more lenient: caps apply before anything is allocated, no key and no tensor is there twice,
and each tensor begins where the one before it ends.
"""

from __future__ import annotations

import math
import mmap
import os
import stat
import struct
from array import array
from functools import lru_cache
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from lorica.errors import ModelError
from lorica.file_signatures import HEAD_BYTES, LFS_FIX, Content, recognise
from lorica.gguf.block_types import BLOCK_TYPES, UNREAD_TYPES, BlockType
from lorica.gguf.packed_texts import LENGTH, PackedTexts

MAX_HEADER_BYTES = 256 * 1024 * 1024
MAX_ENTRIES = 16_384
MAX_TENSORS = 16_384
MAX_STRINGS = 1_000_000
"""In arrays of one file: the largest vocabularies have 262,144 tokens and twice as many merges."""
MAX_ARRAY_BYTES = 64 * 1024 * 1024
MAX_KEY_BYTES = 1_024
MAX_TEXT_BYTES = 4 * 1024 * 1024
MAX_TOKEN_BYTES = 65_536
MAX_DIMENSIONS = 4
MAX_DIMENSION = 1 << 40
MAX_ALIGNMENT = 1 << 20
DEFAULT_ALIGNMENT = 32
SUFFIX = ".gguf"

_SCALARS = {0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 10: "<u8", 11: "<i8", 12: "<f8"}
_BOOL, _STRING, _ARRAY = 7, 8, 9
_AGAIN = "download the file again"
_FIRST_VERSION, _LAST_VERSION = 2, 3

MetadataValue = int | float | bool | str | PackedTexts | npt.NDArray[np.generic]


class GgufTensor(msgspec.Struct, frozen=True):
    """One tensor of a file: shape in PyTorch's order (rows first), bytes start..stop of the file."""

    block_type: BlockType
    shape: tuple[int, ...]
    start: int
    stop: int


class GgufHeader(msgspec.Struct, frozen=True):
    """A checked header: metadata and tensors in the order of the file. data_start: the first byte behind it."""

    version: int
    metadata: dict[str, MetadataValue]
    tensors: dict[str, GgufTensor]
    data_start: int


def is_gguf(base_path: Path) -> bool:
    """Whether a base model's path is a GGUF file, by its name."""
    return base_path.suffix.lower() == SUFFIX and base_path.is_file()


def read_header(gguf_path: Path) -> GgufHeader:
    """Read and check the header of a GGUF file; read once as long as the file stays as it is.

    Raises ModelError naming the file and the first thing that is wrong with it. What is no regular file is never
    opened.
    """
    try:
        status = gguf_path.stat()
    except OSError as error:
        raise ModelError(f"{gguf_path}: cannot be read ({error.strerror})", fix="check path and permissions") from None
    return _read_once(gguf_path, (status.st_ino, status.st_mtime_ns, status.st_size), stat.S_ISREG(status.st_mode))


@lru_cache(maxsize=2)
def _read_once(gguf_path: Path, _stamp: tuple[int, int, int], is_regular: bool) -> GgufHeader:
    if not is_regular:
        raise ModelError(f"{gguf_path}: is no regular file", fix="give the path of a GGUF file")
    try:
        with gguf_path.open("rb") as gguf_file:
            first_bytes = gguf_file.read(HEAD_BYTES)
            _check_beginning(first_bytes)
            file_size = os.fstat(gguf_file.fileno()).st_size
            # Not closed by hand: frames of an error still hold parts of it.
            mapped = mmap.mmap(gguf_file.fileno(), 0, access=mmap.ACCESS_READ)
            return _parse(memoryview(mapped)[: min(file_size, MAX_HEADER_BYTES)], file_size)
    except OSError as error:
        raise ModelError(f"{gguf_path}: cannot be read ({error.strerror})", fix="check its permissions") from None
    except _BrokenError as error:
        raise ModelError(f"{gguf_path}: {error}", fix=error.fix) from None


class _BrokenError(Exception):
    """What is wrong with a file, without its name."""

    def __init__(self, reason: str, *, fix: str = _AGAIN) -> None:
        super().__init__(reason)
        self.fix = fix


def _check_beginning(first_bytes: bytes) -> None:
    if not first_bytes.startswith(b"GGUF"):
        content = recognise(first_bytes)
        if content is Content.LFS_POINTER:
            raise _BrokenError(f"is {content}", fix=LFS_FIX)
        raise _BrokenError(f"is {content}, not a GGUF file" if content else "does not begin with GGUF")
    if len(first_bytes) < 24:
        raise _BrokenError(f"is cut short: {len(first_bytes)} bytes; the smallest GGUF file has 24")
    (version,) = struct.unpack("<I", first_bytes[4:8])
    if not _FIRST_VERSION <= version <= _LAST_VERSION:
        swapped = int.from_bytes(first_bytes[4:8], "big")
        text = f"version {swapped}, big-endian" if _FIRST_VERSION <= swapped <= _LAST_VERSION else f"version {version}"
        raise _BrokenError(f"is GGUF of {text}; read are versions 2 and 3, little-endian", fix="convert it anew")


class _HeaderCursor:
    """Reads what stands in a buffer one after the other; nothing beyond its end."""

    def __init__(self, buffer: memoryview, position: int, *, truncated: bool) -> None:
        self.buffer, self.position = buffer, position
        self._end_reason = (
            f"has a header of more than {MAX_HEADER_BYTES} bytes" if truncated else "is cut short within its header"
        )
        self.strings_left = MAX_STRINGS

    def skip(self, byte_count: int) -> int:
        """Move on; returns where that began."""
        start = self.position
        if byte_count > len(self.buffer) - start:
            raise _BrokenError(self._end_reason)
        self.position = start + byte_count
        return start

    def uint32(self) -> int:
        start = self.skip(4)
        return int.from_bytes(self.buffer[start : start + 4], "little")

    def uint64(self) -> int:
        start = self.skip(8)
        return int.from_bytes(self.buffer[start : start + 8], "little")

    def text(self, subject: str, max_bytes: int) -> str:
        byte_count = self.uint64()
        if byte_count > max_bytes:
            raise _BrokenError(f"{subject} has {byte_count} bytes; allowed are {max_bytes}")
        start = self.skip(byte_count)
        return _decode(self.buffer[start : start + byte_count], subject)

    def texts(self, count: int, subject: str, max_bytes: int) -> PackedTexts:
        """As `text`, so many times; without a call for each, since vocabularies are large."""
        buffer, first = self.buffer, self.position
        position = first
        starts = array("I")  # a header has less than 2 ** 32 bytes
        try:
            for _ in range(count):
                (byte_count,) = LENGTH.unpack_from(buffer, position)
                if byte_count > max_bytes:
                    raise _BrokenError(f"{subject} has {byte_count} bytes; allowed are {max_bytes}")
                start = position + LENGTH.size
                position = start + byte_count
                str(buffer[start:position], "utf-8")
                starts.append(start - first)
        except UnicodeDecodeError:
            raise _BrokenError(f"{subject} is not UTF-8") from None
        except struct.error:
            raise _BrokenError(self._end_reason) from None
        self.skip(position - self.position)  # the last one may go beyond the end
        return PackedTexts(bytes(buffer[first:position]), starts)


def _decode(raw_bytes: memoryview, subject: str) -> str:
    try:
        return str(raw_bytes, "utf-8")
    except UnicodeDecodeError:
        raise _BrokenError(f"{subject} is not UTF-8") from None


def _parse(buffer: memoryview, file_size: int) -> GgufHeader:
    cursor = _HeaderCursor(buffer, 4, truncated=file_size > len(buffer))
    version, tensor_count, entry_count = cursor.uint32(), cursor.uint64(), cursor.uint64()
    for subject, count, most in (("tensors", tensor_count, MAX_TENSORS), ("entries", entry_count, MAX_ENTRIES)):
        if count > most:
            raise _BrokenError(f"announces {count} {subject}; allowed are {most}")
    metadata: dict[str, MetadataValue] = {}
    for _ in range(entry_count):
        key = cursor.text("a metadata key", MAX_KEY_BYTES)
        if key in metadata:
            raise _BrokenError(f"has the metadata key {_shown(key)} twice")
        metadata[key] = _value(cursor, _shown(key))
    tensor_entries = [_tensor_entry(cursor) for _ in range(tensor_count)]
    alignment = _alignment(metadata.get("general.alignment", DEFAULT_ALIGNMENT))
    data_start = _round_up(cursor.position, alignment)
    tensors: dict[str, GgufTensor] = {}
    expected_offset = 0
    for tensor_name, block_type, shape, offset in tensor_entries:
        if tensor_name in tensors:
            raise _BrokenError(f"has the tensor {_shown(tensor_name)} twice")
        if offset != expected_offset:
            raise _BrokenError(f"puts {_shown(tensor_name)} at offset {offset}; it must be at {expected_offset}")
        start = data_start + offset
        stop = start + math.prod(shape[:-1]) * block_type.row_bytes(shape[-1])
        if stop > file_size:
            raise _BrokenError(f"is cut short: {_shown(tensor_name)} ends at byte {stop} of {file_size}")
        tensors[tensor_name] = GgufTensor(block_type, shape, start, stop)
        expected_offset = _round_up(stop - data_start, alignment)
    data_end = data_start + expected_offset
    if tensors and file_size > data_end:
        raise _BrokenError(f"has {file_size - data_end} bytes behind its last tensor")
    return GgufHeader(version, metadata, tensors, data_start)


def _value(cursor: _HeaderCursor, subject: str) -> MetadataValue:
    value_type = cursor.uint32()
    if value_type == _ARRAY:
        return _array(cursor, subject)
    if value_type == _STRING:
        return cursor.text(subject, MAX_TEXT_BYTES)
    number = _numbers(cursor, value_type, 1, subject)[0]
    return bool(number) if value_type == _BOOL else number.item()


def _array(cursor: _HeaderCursor, subject: str) -> MetadataValue:
    element_type, length = cursor.uint32(), cursor.uint64()
    if element_type == _ARRAY:
        raise _BrokenError(f"{subject} is an array of arrays, which no model needs")
    if element_type != _STRING:
        return _numbers(cursor, element_type, length, subject)
    if length > cursor.strings_left:
        raise _BrokenError(f"{subject} makes it more than {MAX_STRINGS} strings")
    cursor.strings_left -= length
    return cursor.texts(length, f"a string of {subject}", MAX_TOKEN_BYTES)


def _numbers(cursor: _HeaderCursor, value_type: int, length: int, subject: str) -> npt.NDArray[np.generic]:
    scalar = "<u1" if value_type == _BOOL else _SCALARS.get(value_type)
    if scalar is None:
        raise _BrokenError(f"{subject} has the value type {value_type}; known are 0 to 12")
    dtype = np.dtype(scalar)
    if length > MAX_ARRAY_BYTES // dtype.itemsize:
        raise _BrokenError(f"{subject} has {length} elements; allowed are {MAX_ARRAY_BYTES // dtype.itemsize}")
    start = cursor.skip(length * dtype.itemsize)
    values = np.frombuffer(cursor.buffer, dtype, length, start).copy()  # the buffer is unmapped later
    if value_type == _BOOL:
        if (values > 1).any():
            raise _BrokenError(f"{subject} is neither true nor false")
        return values.astype(np.bool_)
    return values


def _tensor_entry(cursor: _HeaderCursor) -> tuple[str, BlockType, tuple[int, ...], int]:
    """Name, type, shape and offset. Sizes stay far below 2 ** 63: the file's own size limits them later."""
    tensor_name = cursor.text("a tensor's name", MAX_KEY_BYTES)
    dimension_count = cursor.uint32()
    if not 1 <= dimension_count <= MAX_DIMENSIONS:
        raise _BrokenError(f"{_shown(tensor_name)} has {dimension_count} dimensions; allowed are 1 to 4")
    dimensions = [cursor.uint64() for _ in range(dimension_count)]
    type_number, offset = cursor.uint32(), cursor.uint64()
    if not all(1 <= dimension <= MAX_DIMENSION for dimension in dimensions):
        raise _BrokenError(f"{_shown(tensor_name)} has the dimensions {dimensions}; each is 1 to {MAX_DIMENSION}")
    block_type = BLOCK_TYPES.get(type_number)
    if block_type is None:
        type_name = UNREAD_TYPES.get(type_number, f"number {type_number}")
        raise _BrokenError(
            f"{_shown(tensor_name)} is of type {type_name}; read are "
            f"{', '.join(known_type.name for known_type in BLOCK_TYPES.values())}",
            fix="quantize the model to one of these, such as Q4_K_M, or use its Hugging Face folder",
        )
    if dimensions[0] % block_type.weights:
        raise _BrokenError(
            f"{_shown(tensor_name)} has rows of {dimensions[0]} weights; a block of {block_type.name} holds "
            f"{block_type.weights}"
        )
    return tensor_name, block_type, tuple(reversed(dimensions)), offset


def _shown(name: str) -> str:
    """A name as a message can hold it, whatever is in it."""
    return repr(name if len(name) <= 80 else name[:77] + "...")


def _alignment(value: MetadataValue) -> int:
    if type(value) is not int or not 1 <= value <= MAX_ALIGNMENT or value & (value - 1):
        raise _BrokenError(f"general.alignment is {str(value)[:40]}; it must be a power of two up to {MAX_ALIGNMENT}")
    return value


def _round_up(position: int, alignment: int) -> int:
    return -(-position // alignment) * alignment
