"""The safetensors header (https://huggingface.co/docs/safetensors), read and written without the library.

    8 bytes   little-endian length N of the JSON text
    N bytes   {"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, ...}, padded with spaces
    the rest  the tensors' bytes, without gaps

Reading is stricter than the library and never more lenient: caps apply before anything is parsed, a key may
not be given twice, and every byte of the file belongs to exactly one tensor.
"""

from __future__ import annotations

import contextlib
import gc
import json
import math
import os
import stat
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Literal

import msgspec

from lorica.errors import AdapterError
from lorica.file_signatures import HEAD_BYTES, LFS_FIX, Content, recognise

MAX_HEADER_BYTES = 16 * 1024 * 1024
MAX_TENSORS = 100_000
_LARGE_HEADER = 1024 * 1024
MAX_DIMENSIONS = 16
MAX_NAME_LENGTH = 2_048
MAX_INTEGER = 2**63 - 1
# The library sets no bound. PEFT writes {"format": "pt"}; a header is no place to hide a megabyte in.
MAX_METADATA_BYTES = 1024 * 1024
# Counted before parsing, so that a small file cannot make the parser build millions of objects: what
# MAX_TENSORS tensors need, with room for metadata.
_MOST = {b"{": 3 * MAX_TENSORS, b"[": 3 * MAX_TENSORS, b'"': 12 * MAX_TENSORS, b",": 10 * MAX_TENSORS}

# Bits per element of every element type the format knows.
DTYPE_BITS = {
    "BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8,
    "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32, "F64": 64, "I64": 64, "U64": 64, "C64": 64,
}  # fmt: skip

_CONVERT = "convert it to safetensors where it was made; of an adapter, `lorica convert` reads it"
_FIXES = {
    Content.LFS_POINTER: LFS_FIX,
    Content.ZIP: _CONVERT,
    Content.PICKLE: f"pickles are never loaded; {_CONVERT}",
    Content.GGUF: "use the PEFT adapter it was converted from",
    Content.GZIP: "unpack it first",
    Content.SEVEN_ZIP: "unpack it first",
    Content.HTML: "download the file itself",
    Content.UTF16: "save it as UTF-8",
    Content.UTF32: "save it as UTF-8",
}


class TensorInfo(msgspec.Struct, frozen=True, gc=False):
    """One tensor of a file. `start` and `stop` are byte positions counted from the beginning of the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


class Header(msgspec.Struct, frozen=True):
    """A checked header: tensors by name in the order of the file's bytes, and the file's own notes."""

    tensors: dict[str, TensorInfo]
    metadata: dict[str, str]


Problem = Literal[
    "unreadable", "special", "foreign", "empty", "short", "length", "too large", "truncated", "not UTF-8", "not JSON",
    "nested", "duplicate", "too many", "metadata", "oversized metadata", "name", "entry", "dtype", "shape", "size",
    "overlap", "hole", "trailing",
]  # fmt: skip


class HeaderError(AdapterError):
    """A file that is not safetensors, or a broken one. problem: which rule it breaks. reason: the message without the
    file. content: what it is instead, where its first bytes tell."""

    def __init__(
        self,
        problem: Problem,
        reason: str,
        *,
        weights_path: Path | None = None,
        fix: str = "",
        content: Content | None = None,
    ) -> None:
        super().__init__(
            f"{weights_path}: {reason}" if weights_path else reason, fix=fix or "fetch or save the file again"
        )
        self.problem = problem
        self.reason = reason
        self.content = content


def foreign_format(first_bytes: bytes) -> tuple[str, str] | None:
    """(what it is, what to do) when a file begins like something that is neither safetensors nor JSON."""
    content = recognise(first_bytes)
    return None if content is None else (content, _fix(content))


def _fix(content: Content) -> str:
    return _FIXES.get(content, "fetch or save the file again")


def read_header(weights_path: Path) -> Header:
    """Read and check the header of a safetensors file; the tensors themselves are not read.

    Raises HeaderError, an AdapterError, naming the file and the first thing that is wrong with it. Something that is
    no regular file is never opened.
    """
    try:
        if not stat.S_ISREG(weights_path.stat().st_mode) and not weights_path.is_dir():
            raise HeaderError("special", "is a pipe, a device or a socket, not a file")
        with weights_path.open("rb") as weights_file:
            return _read(weights_file, os.fstat(weights_file.fileno()).st_size)
    except OSError as error:
        raise HeaderError("unreadable", f"cannot be read ({error.strerror})", weights_path=weights_path) from error
    except HeaderError as error:
        raise HeaderError(
            error.problem, error.reason, weights_path=weights_path, fix=error.fix, content=error.content
        ) from None


def _read(weights_file: BinaryIO, file_size: int) -> Header:
    head_bytes = weights_file.read(HEAD_BYTES)
    # The length in front may look like another format: 640 is a pickle's first two bytes.
    content = None if head_bytes[4:9] == b"\0\0\0\0{" else recognise(head_bytes)
    if content is not None:
        raise HeaderError("foreign", f"is {content}", fix=_fix(content), content=content)
    if file_size < 8:
        raise HeaderError(
            "short" if file_size else "empty", f"has {file_size} bytes; a safetensors file has at least 8"
        )
    (length,) = struct.unpack("<Q", head_bytes[:8])
    if length > MAX_HEADER_BYTES:
        raise HeaderError(
            "too large" if length <= file_size - 8 else "length",
            f"announces a header of {length} bytes; allowed: {MAX_HEADER_BYTES} (not a safetensors file?)",
        )
    if length > file_size - 8:
        raise HeaderError("truncated", f"is cut short: {file_size} bytes cannot hold a header of {length} bytes")
    weights_file.seek(8)
    header_text = weights_file.read(length)
    if len(header_text) != length:
        raise HeaderError("unreadable", "became shorter while it was read")
    with _collector_paused(length > _LARGE_HEADER):
        return _check_entries(_parse(header_text), data_start=8 + length, file_size=file_size)


@contextlib.contextmanager
def _collector_paused(is_large: bool) -> Iterator[None]:
    # The collector's passes over a hundred thousand new objects, none of them garbage, would take half of the time.
    paused = is_large and gc.isenabled()
    if paused:
        gc.disable()
    try:
        yield
    finally:
        if paused:
            gc.enable()


def _parse(header_text: bytes) -> dict[str, Any]:
    """Header bytes -> JSON object, refusing what Python's parser lets through and the library does not."""
    try:
        decoded = header_text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise HeaderError("not UTF-8", f"header is not UTF-8 (byte {error.start})") from None
    if not decoded.startswith("{"):
        raise HeaderError("not JSON", "header does not begin with '{'")
    for syntax_mark, max_count in _MOST.items():
        if header_text.count(syntax_mark) > max_count:
            raise HeaderError(
                "too many",
                f"header holds more than {max_count} times {syntax_mark.decode()!r} (over {MAX_TENSORS} tensors?)",
            )
    try:
        parsed = json.loads(
            decoded.rstrip(" "),
            object_pairs_hook=_no_duplicates,
            parse_int=_parse_integer,
            parse_float=_no_number,
            parse_constant=_no_number,
        )
    except RecursionError:
        raise HeaderError("nested", "header is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise HeaderError("not JSON", f"header is not JSON: {error.msg} at character {error.pos}") from None
    assert isinstance(parsed, dict)  # it begins with "{" and was parsed
    return parsed


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        keys: set[str] = set()
        duplicate_key = next(key for key, _ in pairs if key in keys or keys.add(key))  # type: ignore[func-returns-value]
        raise HeaderError("duplicate", f"header gives the key {_short(duplicate_key)} twice")
    return values


def _parse_integer(digits: str) -> int:
    if len(digits) < 19 and digits[0] != "-":
        return int(digits)
    if digits.startswith("-") or len(digits) > 19 or int(digits) > MAX_INTEGER:
        raise HeaderError("entry", f"header holds the number {_short(digits)}; allowed: 0 to 2^63 - 1")
    return int(digits)


def _no_number(digits: str) -> Any:
    raise HeaderError("entry", f"header holds the number {_short(digits)}; allowed: whole numbers")


def _check_entries(parsed: dict[str, Any], *, data_start: int, file_size: int) -> Header:
    metadata = parsed.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise HeaderError("metadata", "header's __metadata__ is not an object of texts")
    metadata_bytes = sum(_encoded_bytes(text) for metadata_item in metadata.items() for text in metadata_item)
    if metadata_bytes > MAX_METADATA_BYTES:
        raise HeaderError(
            "oversized metadata", f"header's __metadata__ holds {metadata_bytes} bytes; allowed: {MAX_METADATA_BYTES}"
        )
    if len(parsed) > MAX_TENSORS:
        raise HeaderError("too many", f"header lists {len(parsed)} tensors; allowed: {MAX_TENSORS}")
    tensors = [(name, _parse_entry(name, value, data_start)) for name, value in parsed.items()]
    tensors.sort(key=lambda named_tensor: (named_tensor[1].start, named_tensor[1].stop, named_tensor[0]))
    position = data_start
    for tensor_name, tensor_info in tensors:
        if tensor_info.start != position:
            problem = "overlaps another tensor" if tensor_info.start < position else "leaves unused bytes before it"
            raise HeaderError(
                "overlap" if tensor_info.start < position else "hole",
                f"tensor {_short(tensor_name)} {problem} (at byte {tensor_info.start}, expected {position})",
            )
        position = tensor_info.stop
    if position > file_size:
        raise HeaderError("truncated", f"is cut short: {file_size} bytes, its tensors end at byte {position}")
    if position < file_size:
        raise HeaderError("trailing", f"has {file_size - position} bytes after its last tensor")
    return Header(dict(tensors), metadata)


def _parse_entry(tensor_name: str, entry_value: Any, data_start: int) -> TensorInfo:
    shown_name = repr(tensor_name) if len(tensor_name) < 100 and tensor_name.isascii() else _short(tensor_name)
    _encoded_bytes(tensor_name)
    if not _is_sound(tensor_name):
        raise HeaderError("name", f"tensor name {shown_name} is empty, too long or holds control characters or '..'")
    if not isinstance(entry_value, dict) or set(entry_value) != {"dtype", "shape", "data_offsets"}:
        raise HeaderError("entry", f"tensor {shown_name} is not described by exactly dtype, shape and data_offsets")
    element_type, shape, offsets = entry_value["dtype"], entry_value["shape"], entry_value["data_offsets"]
    if not isinstance(element_type, str) or element_type not in DTYPE_BITS:
        raise HeaderError("dtype", f"tensor {shown_name} has the unknown dtype {_short(element_type)}")
    for field_label, numbers in (("shape", shape), ("data_offsets", offsets)):
        # `type(...) is int`: True is an int to Python and not to the format.
        if not isinstance(numbers, list) or not set(map(type, numbers)) <= {int}:
            raise HeaderError("entry", f"tensor {shown_name}: {field_label} is not a list of whole numbers")
    if len(shape) > MAX_DIMENSIONS:
        raise HeaderError("shape", f"tensor {shown_name} has {len(shape)} dimensions; allowed: {MAX_DIMENSIONS}")
    if len(offsets) != 2 or offsets[0] > offsets[1]:
        raise HeaderError("entry", f"tensor {shown_name}: data_offsets {_short(offsets)} is not [start, stop]")
    element_bits = DTYPE_BITS[element_type]
    for dimension in shape:
        # A dimension of 0 must not hide an overflow in the others.
        element_bits *= max(dimension, 1)
        if element_bits > MAX_INTEGER:
            raise HeaderError("shape", f"tensor {shown_name}: shape {_short(shape)} is too large")
    element_bits = 0 if 0 in shape else element_bits
    if element_bits % 8 or element_bits // 8 != offsets[1] - offsets[0]:
        entry_bytes = offsets[1] - offsets[0]
        raise HeaderError(
            "size",
            f"tensor {shown_name}: {element_type} {_short(shape)} takes {element_bits / 8:g} bytes, not {entry_bytes}",
        )
    return TensorInfo(element_type, tuple(shape), data_start + offsets[0], data_start + offsets[1])


def _is_sound(tensor_name: str) -> bool:
    # Neither a module nor a parameter has an empty name, so that ".." is no part of a dotted path.
    return 0 < len(tensor_name) <= MAX_NAME_LENGTH and tensor_name.isprintable() and ".." not in tensor_name


def _encoded_bytes(metadata_text: str) -> int:
    try:
        return len(metadata_text.encode("utf-8"))
    except UnicodeEncodeError:
        raise HeaderError("name", f"header holds the broken text {_short(metadata_text)} (a lone surrogate)") from None


def _short(shown_value: object) -> str:
    ascii_text = ascii(shown_value)
    return ascii_text if len(ascii_text) <= 120 else ascii_text[:117] + "..."


def header_bytes(
    tensors: Mapping[str, tuple[str, tuple[int, ...]]], metadata: Mapping[str, str]
) -> tuple[bytes, list[str]]:
    """The length and JSON text that open a file, and the order in which the tensors' bytes must follow.

    tensors: name -> (dtype, shape). Keys are sorted; the whole is padded to 8 bytes and wide elements come
    first, so that every tensor is aligned. Equal input gives equal bytes. Raises ValueError for an unknown
    dtype and for a name that the reader refuses.
    """
    for tensor_name, (element_type, _) in tensors.items():
        if not _is_sound(tensor_name):
            raise ValueError(
                f"tensor name {_short(tensor_name)} is empty, too long or holds control characters or '..'"
            )
        if tensor_name == "__metadata__":
            raise ValueError("tensor name '__metadata__' is the header's own")
        if element_type not in DTYPE_BITS:
            raise ValueError(
                f"tensor {tensor_name!r} has the unknown dtype {element_type!r}; allowed: {', '.join(DTYPE_BITS)}"
            )
    tensor_order = sorted(tensors, key=lambda tensor_name: (-DTYPE_BITS[tensors[tensor_name][0]], tensor_name))
    entries: dict[str, Any] = {}
    position = 0
    for tensor_name in tensor_order:
        element_type, tensor_shape = tensors[tensor_name]
        data_end = position + byte_count(element_type, tensor_shape)
        entries[tensor_name] = {
            "data_offsets": [position, data_end],
            "dtype": element_type,
            "shape": list(tensor_shape),
        }
        position = data_end
    if metadata:
        entries["__metadata__"] = dict(metadata)
    header_text = json.dumps(entries, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    header_text += b" " * (-len(header_text) % 8)
    return struct.pack("<Q", len(header_text)) + header_text, tensor_order


def byte_count(element_type: str, tensor_shape: tuple[int, ...]) -> int:
    """How many bytes a tensor takes. Raises ValueError when it would end within a byte."""
    element_bits = DTYPE_BITS[element_type] * math.prod(tensor_shape)
    if element_bits % 8:
        raise ValueError(f"a tensor {element_type} {list(tensor_shape)} does not end at a byte boundary")
    return element_bits // 8
