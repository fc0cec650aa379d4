"""Tensors of a file that torch.save wrote (`adapter_model.bin`), found without torch and without running anything.

Since torch 1.6 it is a zip archive: `NAME/data.pkl` describes the tensors, `NAME/data/KEY` are the bytes of their
storages, `NAME/byteorder` says which byte of a number comes first. Before, it was five pickles in a row (a mark, a
version, facts of the machine, the tensors, the keys of the storages), and then each storage: its length, its bytes.
https://docs.pytorch.org/docs/stable/notes/serialization.html
"""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import msgspec

from lorica.adapters.header import DTYPE_BITS, MAX_DIMENSIONS
from lorica.adapters.json_document import short_text
from lorica.adapters.opcodes import Name, PickleError, read_pickle, refuse_pickle
from lorica.adapters.stored_tensors import StoredTensor, strided_extent
from lorica.adapters.zip_files import stored_members
from lorica.errors import AdapterError

MAX_PICKLE_BYTES = 64 << 20
_MAGIC, _VERSION = 0x1950A86A20F9469CFC6C, 1001
_AGAIN = "fetch or save the file again"
_STATE_DICT = "where it was made, save the adapter with PEFT's save_pretrained(..., safe_serialization=True)"
# Where trainers put the tensors in a file of more.
_NESTED = ("state_dict", "model", "model_state_dict", "module")

_STORAGES = {
    "Float": "F32", "Half": "F16", "BFloat16": "BF16", "Double": "F64", "Long": "I64", "Int": "I32", "Short": "I16",
    "Char": "I8", "Byte": "U8", "Bool": "BOOL", "ComplexFloat": "C64",
}  # fmt: skip
_STORAGE_DTYPES = {f"torch.{type_name}Storage": dtype for type_name, dtype in _STORAGES.items()}
_UNTYPED = ("torch.storage.UntypedStorage", "torch.UntypedStorage")
# Those that have no storage of their own; the others may be named as well.
_DTYPES = {
    "torch.uint16": "U16", "torch.uint32": "U32", "torch.uint64": "U64", "torch.float8_e4m3fn": "F8_E4M3",
    "torch.float8_e5m2": "F8_E5M2", "torch.float8_e4m3fnuz": "F8_E4M3FNUZ", "torch.float8_e5m2fnuz": "F8_E5M2FNUZ",
    "torch.float8_e8m0fnu": "F8_E8M0", "torch.float32": "F32", "torch.float16": "F16", "torch.bfloat16": "BF16",
    "torch.float64": "F64", "torch.int64": "I64", "torch.int32": "I32", "torch.int16": "I16", "torch.int8": "I8",
    "torch.uint8": "U8", "torch.bool": "BOOL", "torch.complex64": "C64",
}  # fmt: skip
_CALLS = {
    "torch._utils._rebuild_tensor": (4, 4),
    "torch._utils._rebuild_tensor_v2": (6, 7),
    "torch._utils._rebuild_tensor_v3": (7, 8),
    "torch._utils._rebuild_parameter": (3, 3),
    "torch.Size": (1, 1),
}
NAMES = frozenset({"collections.OrderedDict", *_CALLS, *_STORAGE_DTYPES, *_UNTYPED, *_DTYPES})
"""All that a file of torch.save may name. None of them is ever imported."""


class _Storage(msgspec.Struct, frozen=True):
    """dtype: "" where the storage is bytes that its tensors give a type. count: of elements."""

    key: str
    dtype: str
    count: int

    @property
    def size(self) -> int:
        return self.count * (DTYPE_BITS[self.dtype] // 8 if self.dtype else 1)


class _Tensor(msgspec.Struct, frozen=True):
    """A view of a storage. offset, strides: in elements of dtype."""

    storage: _Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class TorchFile(msgspec.Struct, frozen=True):
    """What a file holds. form: "zip" or "old". left_out: what stands beside the tensors, where they are nested."""

    tensors: dict[str, StoredTensor]
    form: str
    nested: str = ""
    left_out: tuple[str, ...] = ()


def read_torch_file(torch_path: Path) -> TorchFile:
    """The tensors of a file by name, in its order. Nothing is imported or executed, and no tensor's value is read.

    Raises AdapterError (its message does not name the file) for a file that is damaged, of another kind, or that asks
    for anything but tensors.
    """
    builder = _Builder()
    with torch_path.open("rb") as torch_file:
        zipped = torch_file.read(4) == b"PK\x03\x04"
    pickled_value, starts, big_endian = _read_zip(torch_path, builder) if zipped else _read_old(torch_path, builder)
    state_dict, nested, left_out = _state_dict(pickled_value)
    tensors = {}
    for name, tensor in state_dict.items():
        data_start = starts[tensor.storage.key] + tensor.offset * (DTYPE_BITS[tensor.dtype] // 8)
        tensors[name] = StoredTensor(tensor.dtype, tensor.shape, data_start, tensor.strides, big_endian)
    return TorchFile(tensors, "zip" if zipped else "old", nested, left_out)


class _Builder:
    """What the pickle's calls make: descriptions of storages and of tensors in them."""

    def __init__(self) -> None:
        self.storages: dict[str, _Storage] = {}

    def read(self, torch_file: io.BytesIO) -> Any:
        return read_pickle(torch_file, NAMES, self._call, self._load)

    def _call(self, callable_name: str, arguments: tuple[Any, ...]) -> Any:
        min_arguments, max_arguments = _CALLS.get(callable_name, (1, 0))
        if not min_arguments <= len(arguments) <= max_arguments:
            raise refuse_pickle(f"calls {callable_name} with {len(arguments)} arguments")
        if callable_name == "torch.Size":
            return _checked_sizes(arguments[0], "a size")
        if callable_name == "torch._utils._rebuild_parameter":
            if not isinstance(arguments[0], _Tensor):
                raise refuse_pickle("makes a parameter of something else than a tensor")
            _no_more(arguments[2])
            return arguments[0]
        storage, offset, tensor_shape, strides, *further_arguments = arguments
        if len(further_arguments) > 1:
            _no_more(further_arguments[1])  # backward hooks
        if callable_name.endswith("v3"):
            dtype_name = further_arguments.pop(2)
            element_type = _DTYPES.get(dtype_name.text, "") if isinstance(dtype_name, Name) else ""
        else:
            element_type = storage.dtype if isinstance(storage, _Storage) else ""
        if len(further_arguments) > 2:
            _no_more(further_arguments[2])  # a conjugated or negated view
        return _tensor(
            storage, element_type, offset, _checked_sizes(tensor_shape, "a shape"), _checked_sizes(strides, "strides")
        )

    def _load(self, persistent_id: Any) -> _Storage:
        if (
            type(persistent_id) is not tuple
            or len(persistent_id) not in (5, 6)
            or persistent_id[0] != "storage"
            or (len(persistent_id) == 6 and persistent_id[5])
        ):
            raise refuse_pickle("holds a persistent id that is no storage's")
        _, storage_type, storage_key, location, value_count = persistent_id[:5]
        of_storage = isinstance(storage_type, Name) and (
            storage_type.text in _STORAGE_DTYPES or storage_type.text in _UNTYPED
        )
        if not of_storage or type(storage_key) is not str or type(location) is not str or not _is_size(value_count):
            raise refuse_pickle("holds a persistent id that is no storage's")
        storage = _Storage(storage_key, _STORAGE_DTYPES.get(storage_type.text, ""), value_count)
        if self.storages.setdefault(storage_key, storage) != storage:
            raise refuse_pickle(f"describes the storage {short_text(storage_key)} in two ways")
        return storage


def _tensor(storage: Any, element_type: str, offset: Any, shape: tuple[int, ...], strides: tuple[int, ...]) -> _Tensor:
    if not isinstance(storage, _Storage) or not element_type or (storage.dtype and storage.dtype != element_type):
        raise refuse_pickle("makes a tensor of what is no storage of a known type")
    if not _is_size(offset) or len(shape) != len(strides):
        raise refuse_pickle(f"makes a tensor of shape {short_text(shape)} with strides {short_text(strides)}")
    needed_extent = strided_extent(shape, strides)
    if needed_extent and (offset + needed_extent) * (DTYPE_BITS[element_type] // 8) > storage.size:
        raise refuse_pickle(f"makes a tensor that reaches beyond its storage (shape {short_text(shape)})")
    return _Tensor(storage, element_type, offset if needed_extent else 0, shape, strides)


def _is_size(size_value: Any) -> bool:
    return type(size_value) is int and 0 <= size_value < 2**48


def _checked_sizes(values: Any, value_name: str) -> tuple[int, ...]:
    if type(values) not in (tuple, list) or len(values) > MAX_DIMENSIONS or not all(map(_is_size, values)):
        raise refuse_pickle(f"makes a tensor with {value_name} that is none")
    return tuple(values)


def _no_more(extra_arguments: Any) -> None:
    if extra_arguments not in (None, {}):
        raise refuse_pickle("makes a tensor with hooks or marks, which change what it is")


def _state_dict(state_value: Any) -> tuple[dict[str, _Tensor], str, tuple[str, ...]]:
    """(tensors by name, the key they stood under, the keys beside it). Raises PickleError where there are none."""
    if not isinstance(state_value, dict):
        raise PickleError(f"holds a {type(state_value).__name__}, not tensors by name", fix=_STATE_DICT)
    if _holds_tensors(state_value):
        return _all_tensors(state_value), "", ()
    nested_keys = [key for key in _NESTED if _holds_tensors(state_value.get(key))]
    if len(nested_keys) != 1:
        shown_keys = ", ".join(short_text(nested_key) for nested_key in list(state_value)[:5]) or "nothing"
        raise PickleError(f"holds no tensors by name; there is {shown_keys}", fix=_STATE_DICT)
    beside = tuple(short_text(nested_key) for nested_key in state_value if nested_key != nested_keys[0])
    return _all_tensors(state_value[nested_keys[0]]), nested_keys[0], beside


def _holds_tensors(container: Any) -> bool:
    return isinstance(container, dict) and any(isinstance(value, _Tensor) for value in container.values())


def _all_tensors(container: dict[Any, Any]) -> dict[str, _Tensor]:
    for tensor_key, value in container.items():
        if type(tensor_key) is not str or not isinstance(value, _Tensor):
            raise PickleError(
                f"holds a {type(value).__name__} under {short_text(tensor_key, quoted=True)}, between its tensors",
                fix=_STATE_DICT,
            )
    return container


def _read_zip(torch_path: Path, builder: _Builder) -> tuple[Any, dict[str, int], bool]:
    members = stored_members(torch_path)
    pickles = [name for name in members if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(pickles) != 1:
        raise AdapterError(
            "is a zip archive, and not one that torch.save wrote (no data.pkl)", fix="unpack it, and name its folder"
        )
    prefix = pickles[0].removesuffix("data.pkl")
    if any(member_name.startswith((f"{prefix}code/", f"{prefix}constants.pkl")) for member_name in members):
        raise AdapterError("is a TorchScript program, not an adapter", fix=_STATE_DICT)

    def content(member_name: str, max_bytes: int) -> bytes:
        member_start, member_size = members[member_name]
        if member_size > max_bytes:
            raise AdapterError(
                f"its member {short_text(member_name)} has {member_size} bytes; allowed: {max_bytes}", fix=_AGAIN
            )
        with torch_path.open("rb") as torch_file:
            torch_file.seek(member_start)
            return torch_file.read(member_size)

    byte_order = content(f"{prefix}byteorder", 16) if f"{prefix}byteorder" in members else b"little"
    if byte_order not in (b"little", b"big"):
        raise AdapterError(f"its member byteorder says {short_text(byte_order)}; allowed: little, big", fix=_AGAIN)
    pickled_value = builder.read(io.BytesIO(content(pickles[0], MAX_PICKLE_BYTES)))
    starts = {}
    for storage_key, storage in builder.storages.items():
        member = members.get(f"{prefix}data/{storage_key}")
        if member is None or member.size != storage.size:
            size_text = "is missing" if member is None else f"has {member.size} bytes, not {storage.size}"
            raise AdapterError(f"its storage {short_text(storage_key)} {size_text}", fix=_AGAIN)
        starts[storage_key] = member.start
    return pickled_value, starts, byte_order == b"big"


def _read_old(torch_path: Path, builder: _Builder) -> tuple[Any, dict[str, int], bool]:
    file_size = torch_path.stat().st_size
    with torch_path.open("rb") as torch_file:
        pickle_stream = io.BytesIO(torch_file.read(MAX_PICKLE_BYTES))
        magic_number = builder.read(pickle_stream)
        if magic_number != _MAGIC:
            content = f"holds a {type(magic_number).__name__}"
            raise PickleError(f"is a pickle that torch.save did not write: it {content}", fix=_STATE_DICT)
        version = builder.read(pickle_stream)
        if version != _VERSION:
            raise PickleError(f"is not of version {_VERSION} of torch.save, which is all that there was", fix=_AGAIN)
        builder.read(pickle_stream)  # sizes of C's types on the machine that wrote it, which decide nothing
        pickled_value = builder.read(pickle_stream)
        storage_keys = builder.read(pickle_stream)
        strange = type(storage_keys) is not list or any(type(storage_key) is not str for storage_key in storage_keys)
        if strange or sorted(storage_keys) != sorted(builder.storages):
            raise PickleError("lists other storages than its tensors use", fix=_AGAIN)
        position = pickle_stream.tell()
        starts = {}
        for storage_key in storage_keys:
            storage = builder.storages[storage_key]
            torch_file.seek(position)
            element_count = torch_file.read(8)
            if len(element_count) < 8 or struct.unpack("<q", element_count)[0] != storage.count:
                raise PickleError(f"is cut short or damaged at its storage {short_text(storage_key)}", fix=_AGAIN)
            starts[storage_key] = position + 8
            position += 8 + storage.size
    if position != file_size:
        raise PickleError(f"has {file_size} bytes, and its tensors end at {position}", fix=_AGAIN)
    return pickled_value, starts, False
