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
_STORAGE_DTYPES = {f"torch.{kind}Storage": dtype for kind, dtype in _STORAGES.items()}
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


def read_torch_file(path: Path) -> TorchFile:
    """The tensors of a file by name, in its order. Nothing is imported or executed, and no tensor's value is read.

    Raises AdapterError (its message does not name the file) for a file that is damaged, of another kind, or that asks
    for anything but tensors.
    """
    builder = _Builder()
    with path.open("rb") as file:
        zipped = file.read(4) == b"PK\x03\x04"
    value, starts, big_endian = _read_zip(path, builder) if zipped else _read_old(path, builder)
    state, nested, left_out = _state_dict(value)
    tensors = {name: _stored(tensor, starts, big_endian) for name, tensor in state.items()}
    return TorchFile(tensors, "zip" if zipped else "old", nested, left_out)


def _stored(tensor: _Tensor, starts: dict[str, int], big_endian: bool) -> StoredTensor:
    start = starts[tensor.storage.key] + tensor.offset * (DTYPE_BITS[tensor.dtype] // 8)
    return StoredTensor(tensor.dtype, tensor.shape, start, tensor.strides, big_endian)


class _Builder:
    """What the pickle's calls make: descriptions of storages and of tensors in them."""

    def __init__(self) -> None:
        self.storages: dict[str, _Storage] = {}

    def read(self, file: io.BytesIO) -> Any:
        return read_pickle(file, NAMES, self._call, self._load)

    def _call(self, name: str, arguments: tuple[Any, ...]) -> Any:
        least, most = _CALLS.get(name, (1, 0))
        if not least <= len(arguments) <= most:
            raise refuse_pickle(f"calls {name} with {len(arguments)} arguments")
        if name == "torch.Size":
            return _checked_sizes(arguments[0], "a size")
        if name == "torch._utils._rebuild_parameter":
            if not isinstance(arguments[0], _Tensor):
                raise refuse_pickle("makes a parameter of something else than a tensor")
            _no_more(arguments[2])
            return arguments[0]
        storage, offset, shape, strides, *more = arguments
        if len(more) > 1:
            _no_more(more[1])  # backward hooks
        if name.endswith("v3"):
            dtype_name = more.pop(2)
            dtype = _DTYPES.get(dtype_name.text, "") if isinstance(dtype_name, Name) else ""
        else:
            dtype = storage.dtype if isinstance(storage, _Storage) else ""
        if len(more) > 2:
            _no_more(more[2])  # a conjugated or negated view
        return _tensor(storage, dtype, offset, _checked_sizes(shape, "a shape"), _checked_sizes(strides, "strides"))

    def _load(self, pid: Any) -> _Storage:
        if type(pid) is not tuple or len(pid) not in (5, 6) or pid[0] != "storage" or (len(pid) == 6 and pid[5]):
            raise refuse_pickle("holds a persistent id that is no storage's")
        _, storage_type, key, location, count = pid[:5]
        of_storage = isinstance(storage_type, Name) and (
            storage_type.text in _STORAGE_DTYPES or storage_type.text in _UNTYPED
        )
        if not of_storage or type(key) is not str or type(location) is not str or not _is_size(count):
            raise refuse_pickle("holds a persistent id that is no storage's")
        storage = _Storage(key, _STORAGE_DTYPES.get(storage_type.text, ""), count)
        if self.storages.setdefault(key, storage) != storage:
            raise refuse_pickle(f"describes the storage {short_text(key)} in two ways")
        return storage


def _tensor(storage: Any, dtype: str, offset: Any, shape: tuple[int, ...], strides: tuple[int, ...]) -> _Tensor:
    if not isinstance(storage, _Storage) or not dtype or (storage.dtype and storage.dtype != dtype):
        raise refuse_pickle("makes a tensor of what is no storage of a known type")
    if not _is_size(offset) or len(shape) != len(strides):
        raise refuse_pickle(f"makes a tensor of shape {short_text(shape)} with strides {short_text(strides)}")
    reach = strided_extent(shape, strides)
    if reach and (offset + reach) * (DTYPE_BITS[dtype] // 8) > storage.size:
        raise refuse_pickle(f"makes a tensor that reaches beyond its storage (shape {short_text(shape)})")
    return _Tensor(storage, dtype, offset if reach else 0, shape, strides)


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**48


def _checked_sizes(value: Any, value_name: str) -> tuple[int, ...]:
    if type(value) not in (tuple, list) or len(value) > MAX_DIMENSIONS or not all(map(_is_size, value)):
        raise refuse_pickle(f"makes a tensor with {value_name} that is none")
    return tuple(value)


def _no_more(value: Any) -> None:
    if value not in (None, {}):
        raise refuse_pickle("makes a tensor with hooks or marks, which change what it is")


def _state_dict(value: Any) -> tuple[dict[str, _Tensor], str, tuple[str, ...]]:
    """(tensors by name, the key they stood under, the keys beside it). Raises PickleError where there are none."""
    if not isinstance(value, dict):
        raise PickleError(f"holds a {type(value).__name__}, not tensors by name", fix=_STATE_DICT)
    if any(isinstance(item, _Tensor) for item in value.values()):
        return _all_tensors(value), "", ()
    inner = [key for key in _NESTED if isinstance(value.get(key), dict) and value[key]]
    inner = [key for key in inner if any(isinstance(item, _Tensor) for item in value[key].values())]
    if len(inner) != 1:
        keys = ", ".join(short_text(key) for key in list(value)[:5]) or "nothing"
        raise PickleError(f"holds no tensors by name; there is {keys}", fix=_STATE_DICT)
    beside = tuple(short_text(key) for key in value if key != inner[0])
    return _all_tensors(value[inner[0]]), inner[0], beside


def _all_tensors(value: dict[Any, Any]) -> dict[str, _Tensor]:
    for key, item in value.items():
        if type(key) is not str or not isinstance(item, _Tensor):
            raise PickleError(
                f"holds a {type(item).__name__} under {short_text(key, quoted=True)}, between its tensors",
                fix=_STATE_DICT,
            )
    return value


def _read_zip(path: Path, builder: _Builder) -> tuple[Any, dict[str, int], bool]:
    members = stored_members(path)
    pickles = [name for name in members if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(pickles) != 1:
        raise AdapterError(
            "is a zip archive, and not one that torch.save wrote (no data.pkl)", fix="unpack it, and name its folder"
        )
    prefix = pickles[0].removesuffix("data.pkl")
    if any(name.startswith((f"{prefix}code/", f"{prefix}constants.pkl")) for name in members):
        raise AdapterError("is a TorchScript program, not an adapter", fix=_STATE_DICT)

    def content(name: str, most: int) -> bytes:
        start, size = members[name]
        if size > most:
            raise AdapterError(f"its member {short_text(name)} has {size} bytes; allowed: {most}", fix=_AGAIN)
        with path.open("rb") as file:
            file.seek(start)
            return file.read(size)

    order = content(f"{prefix}byteorder", 16) if f"{prefix}byteorder" in members else b"little"
    if order not in (b"little", b"big"):
        raise AdapterError(f"its member byteorder says {short_text(order)}; allowed: little, big", fix=_AGAIN)
    value = builder.read(io.BytesIO(content(pickles[0], MAX_PICKLE_BYTES)))
    starts = {}
    for key, storage in builder.storages.items():
        member = members.get(f"{prefix}data/{key}")
        if member is None or member.size != storage.size:
            held = "is missing" if member is None else f"has {member.size} bytes, not {storage.size}"
            raise AdapterError(f"its storage {short_text(key)} {held}", fix=_AGAIN)
        starts[key] = member.start
    return value, starts, order == b"big"


def _read_old(path: Path, builder: _Builder) -> tuple[Any, dict[str, int], bool]:
    size = path.stat().st_size
    with path.open("rb") as file:
        head = io.BytesIO(file.read(MAX_PICKLE_BYTES))
        first = builder.read(head)
        if first != _MAGIC:
            content = f"holds a {type(first).__name__}"
            raise PickleError(f"is a pickle that torch.save did not write: it {content}", fix=_STATE_DICT)
        version = builder.read(head)
        if version != _VERSION:
            raise PickleError(f"is not of version {_VERSION} of torch.save, which is all that there was", fix=_AGAIN)
        builder.read(head)  # sizes of C's types on the machine that wrote it, which decide nothing
        value = builder.read(head)
        keys = builder.read(head)
        strange = type(keys) is not list or any(type(key) is not str for key in keys)
        if strange or sorted(keys) != sorted(builder.storages):
            raise PickleError("lists other storages than its tensors use", fix=_AGAIN)
        position = head.tell()
        starts = {}
        for key in keys:
            storage = builder.storages[key]
            file.seek(position)
            count = file.read(8)
            if len(count) < 8 or struct.unpack("<q", count)[0] != storage.count:
                raise PickleError(f"is cut short or damaged at its storage {short_text(key)}", fix=_AGAIN)
            starts[key] = position + 8
            position += 8 + storage.size
    if position != size:
        raise PickleError(f"has {size} bytes, and its tensors end at {position}", fix=_AGAIN)
    return value, starts, False
