"""What a pickle would import if somebody loaded it, told from its opcodes; nothing of it is ever executed.

https://docs.python.org/3/library/pickletools.html lists the opcodes. torch.save writes either a zip archive with a
`data.pkl`, or (before torch 1.6) several pickles in a row with the tensors' bytes after them.
"""

from __future__ import annotations

import pickletools
import struct
import zipfile
import zlib
from pathlib import Path
from typing import IO

import msgspec

from lorica.adapters.zip_files import directory_bytes

MAX_PICKLE_BYTES = 1 << 30
MAX_OPCODES = 2_000_000
MAX_IMPORTS = 200
_MAX_NAME_BYTES = 4_096
# A file of torch.save before 1.6 begins with three small pickles; the fourth describes the tensors.
_MAX_PICKLES = 5
_MAX_MEMBERS_BYTES = 4 << 20

# What torch.save needs to bring tensors back, and numpy's arrays and plain containers within.
HARMLESS = frozenset(
    {
        "collections.OrderedDict", "collections.defaultdict", "_codecs.encode",
        "torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor_v3",
        "torch._utils._rebuild_parameter", "torch._utils._rebuild_qtensor", "torch._utils._rebuild_sparse_tensor",
        "torch.Size", "torch.device", "torch.Tensor", "torch.nn.parameter.Parameter", "torch.serialization._get_layout",
        "torch.storage.UntypedStorage", "torch.storage.TypedStorage", "torch.UntypedStorage",
        *(f"torch.{dtype}Storage" for dtype in (
            "Float", "Half", "BFloat16", "Double", "Long", "Int", "Short", "Char", "Byte", "Bool", "ComplexFloat")),
        *(f"torch.{dtype}" for dtype in (
            "float16", "bfloat16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool",
            "float8_e4m3fn", "float8_e5m2")),
        "numpy.ndarray", "numpy.dtype",
        *(f"{core}.{name}" for core in ("numpy.core.multiarray", "numpy._core.multiarray")
          for name in ("_reconstruct", "scalar")),
        *(f"{module}.{name}" for module in ("builtins", "__builtin__")
          for name in ("set", "frozenset", "dict", "list", "tuple", "int", "float", "str", "bytes", "bytearray", "bool",
                       "complex", "slice", "range")),
    }
)  # fmt: skip

_ARGUMENTS = {opcode.code.encode("latin-1"): opcode.arg.n if opcode.arg else 0 for opcode in pickletools.opcodes}
_NAMES = {opcode.code.encode("latin-1"): opcode.name for opcode in pickletools.opcodes}
_LENGTHS = {-2: "<B", -3: "<i", -4: "<I", -5: "<Q"}  # pickletools.TAKEN_FROM_ARGUMENT1, 4, 4U, 8U
_LINE = -1  # pickletools.UP_TO_NEWLINE


class PickleScan(msgspec.Struct, frozen=True):
    """imports: "module.name" of all that loading would import, in order. complete: whether the scan came to the end.
    pickled: whether this is a pickle at all."""

    imports: tuple[str, ...]
    complete: bool
    pickled: bool

    @property
    def dangerous(self) -> tuple[str, ...]:
        """The imports that bringing tensors back does not need."""
        return tuple(import_name for import_name in self.imports if import_name not in HARMLESS)


class _EndOfScanError(Exception):
    pass


def scan_pickle(pickle_path: Path) -> PickleScan:
    """Scan a pickle, or a zip archive that torch.save wrote. Raises OSError when it cannot be read."""
    with pickle_path.open("rb") as pickle_file:
        if pickle_file.read(4) != b"PK\x03\x04":
            pickle_file.seek(0)
            return _scan(pickle_file)
    try:
        return _scan_zip(pickle_path)
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, ValueError, struct.error):
        return PickleScan((), complete=False, pickled=True)


def _scan_zip(archive_path: Path) -> PickleScan:
    imports: dict[str, None] = {}
    complete = directory_bytes(archive_path) <= _MAX_MEMBERS_BYTES
    if complete:
        with zipfile.ZipFile(archive_path) as archive:
            pickle_members = [info for info in archive.infolist() if info.filename.endswith(".pkl")]
            for info in pickle_members[:_MAX_PICKLES]:
                with archive.open(info) as pickle_file:
                    member_scan = _scan(pickle_file)
                imports |= dict.fromkeys(member_scan.imports)
                complete = complete and member_scan.complete
            complete = complete and 0 < len(pickle_members) <= _MAX_PICKLES
            if any("/code/" in f"/{info.filename}" for info in archive.infolist()):
                imports["TorchScript program"] = None
    return PickleScan(tuple(imports), complete, pickled=True)


def _scan(pickle_file: IO[bytes]) -> PickleScan:
    walk = _Walk(pickle_file)
    pickles = 0
    try:
        while pickles < _MAX_PICKLES and walk.next_pickle():
            pickles += 1
    except _EndOfScanError:
        # After the first pickles of an old torch file its tensors' bytes follow, which are none.
        complete = pickles >= 1 and not walk.beyond_limits
        return PickleScan(tuple(walk.imports), complete, pickled=pickles >= 1 or bool(walk.imports))
    return PickleScan(tuple(walk.imports), complete=True, pickled=pickles >= 1)


class _Walk:
    """A walk over opcodes that keeps no more than texts which may become an import's name."""

    def __init__(self, pickle_file: IO[bytes]) -> None:
        self.file = pickle_file
        self.imports: dict[str, None] = {}
        self.texts: list[str | None] = []  # what was pushed of late; None for anything that is no text
        self.memo: dict[int, str | None] = {}
        self.opcodes = 0
        self.read_bytes = 0

    @property
    def beyond_limits(self) -> bool:
        """Whether more may follow than is looked at."""
        within = self.opcodes <= MAX_OPCODES and len(self.imports) < MAX_IMPORTS
        return not within or self.read_bytes > MAX_PICKLE_BYTES

    def next_pickle(self) -> bool:
        """Walk one pickle; False where the file ends before it. Raises _EndOfScanError at bytes that are none."""
        is_first = True
        self.memo.clear()
        while opcode_byte := self.file.read(1):
            self.opcodes += 1
            if opcode_byte not in _ARGUMENTS or self.beyond_limits:
                raise _EndOfScanError
            opcode_name = _NAMES[opcode_byte]
            argument = self._argument(_ARGUMENTS[opcode_byte], lines=2 if opcode_name in ("GLOBAL", "INST") else 1)
            if opcode_name == "STOP":
                return True
            self._step(opcode_name, argument)
            is_first = False
        if is_first:
            return False
        raise _EndOfScanError

    def _argument(self, argument_size: int, *, lines: int) -> bytes:
        if argument_size == _LINE:
            return b"\n".join(self._line() for _ in range(lines))
        if argument_size < 0:
            length_format = _LENGTHS[argument_size]
            (argument_size,) = struct.unpack(length_format, self._exactly(struct.calcsize(length_format)))
            if argument_size < 0:
                raise _EndOfScanError
        if argument_size <= _MAX_NAME_BYTES:
            return self._exactly(argument_size)
        while argument_size:  # bytes of an array, or a text too long for a name: passed over
            argument_size -= len(self._exactly(min(argument_size, 1 << 20)))
        return b""

    def _line(self) -> bytes:
        line = self.file.readline(_MAX_NAME_BYTES)
        line_text = line[:-1]
        while not line.endswith(b"\n"):  # too long for a name: passed over
            self.read_bytes += len(line)
            if not line or self.read_bytes > MAX_PICKLE_BYTES:
                raise _EndOfScanError
            line_text, line = b"", self.file.readline(_MAX_NAME_BYTES)
        return line_text

    def _exactly(self, byte_count: int) -> bytes:
        self.read_bytes += byte_count
        chunk = self.file.read(byte_count) if self.read_bytes <= MAX_PICKLE_BYTES else b""
        if len(chunk) != byte_count:
            raise _EndOfScanError
        return chunk

    def _step(self, opcode_name: str, argument: bytes) -> None:
        if opcode_name in ("GLOBAL", "INST"):
            self._add_import(".".join(argument.decode("utf-8", "replace").split("\n")))
        elif opcode_name == "STACK_GLOBAL":
            module, attribute = self.texts[-2:] if len(self.texts) > 1 else (None, None)
            self._add_import(f"{module or '(hidden)'}.{attribute or '(hidden)'}")
        elif opcode_name.startswith("EXT"):
            self._add_import(f"copyreg extension {int.from_bytes(argument, 'little')}")
        elif opcode_name in ("MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT"):
            if len(self.memo) < MAX_OPCODES // 4:
                memo_index = len(self.memo) if opcode_name == "MEMOIZE" else _index(argument, text=opcode_name == "PUT")
                self.memo[memo_index] = self.texts[-1] if self.texts else None
        elif opcode_name in ("GET", "BINGET", "LONG_BINGET"):
            self._push(self.memo.get(_index(argument, text=opcode_name == "GET")))
        elif "UNICODE" in opcode_name or "STRING" in opcode_name:
            self._push(argument.decode("utf-8", "replace").strip("'\""))
        elif opcode_name not in ("PROTO", "FRAME", "MARK"):
            self._push(None)

    def _push(self, string_value: str | None) -> None:
        self.texts.append(string_value)
        if len(self.texts) > 64:
            del self.texts[:32]

    def _add_import(self, import_name: str) -> None:
        self.imports[import_name[:200]] = None
        self._push(None)


def _index(argument: bytes, *, text: bool) -> int:
    if not text:
        return int.from_bytes(argument, "little")
    return int(argument) if argument.isdigit() and len(argument) < 12 else -1
