"""Kernels of a processor that is none: compiled by a cross compiler, called in a process that qemu emulates.

Memory is not shared: what a call's pointers point to is copied there, and tensors are copied back. A pointer is a
number within the memory of a tensor or an array that was asked for its address since the emulation began; arrays and
structures may hold pointers in turn.
"""

from __future__ import annotations

import ctypes
import shutil
import struct
import subprocess
import tempfile
from bisect import bisect_right, insort
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from lorica.models.compiled import build, library

TARGET = "emulated-neon"
_NAME_ENDING = "neon"
_COMPILER, _EMULATOR = "aarch64-linux-gnu-gcc", "qemu-aarch64"
_NUMBER, _FRACTION, _ADDRESS, _PARALLEL = range(4)  # kinds of arguments, as in emulated_processor.c
_NAME_BYTES = 64


def _why_not() -> str:
    missing = [program for program in (_COMPILER, _EMULATOR) if not shutil.which(program)]
    return f"{' and '.join(missing)} not found" if missing else ""


EMULATED = pytest.param(TARGET, marks=pytest.mark.skipif(bool(_why_not()), reason=_why_not()))
"""The target for `pytest.fixture` and `parametrize`, skipped where nothing can be emulated."""


def emulate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let all kernels be those of the emulated processor."""
    import numpy as np
    import torch
    from numpy._core import _internal

    monkeypatch.delenv("LORICA_CPU_TARGET", raising=False)  # it may name one of this processor
    memory = _Memory()
    address_of_tensor = torch.Tensor.data_ptr

    def tensor_address(tensor: torch.Tensor) -> int:
        storage = tensor.untyped_storage()
        memory.add(storage.data_ptr(), storage.nbytes(), tensor, writable=True)
        return address_of_tensor(tensor)

    def array_address(interface: Any) -> int:
        array = interface._arr
        low, high = np.lib.array_utils.byte_bounds(array)
        memory.add(low, high - low, array, writable=False)
        return int(array.__array_interface__["data"][0])

    def call(kernel: Any, *arguments: Any) -> Any:
        result = _server().call(memory, f"lorica_{kernel._name}_{_NAME_ENDING}", kernel._argument_types, arguments)
        return None if kernel._returns is None else kernel._returns(result).value

    monkeypatch.setattr(torch.Tensor, "data_ptr", tensor_address)
    monkeypatch.setattr(_internal._ctypes, "data", property(array_address))
    monkeypatch.setattr(library, "_load", cache(lambda: ((TARGET,), "")))
    monkeypatch.setattr(library.Kernel, "__call__", call)


class _Memory:
    """Memory that may be pointed to: blocks that do not overlap, unless one is part of the other."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._blocks: dict[int, tuple[int, bool, Any]] = {}  # start -> size, whether it is written to, who keeps it

    def add(self, start: int, size: int, owner: object, *, writable: bool) -> None:
        if start in self._blocks:
            known_size, known_writable, known_owner = self._blocks[start]
            size, writable, owner = max(size, known_size), writable or known_writable, (owner, known_owner)
        else:
            insort(self._starts, start)
        self._blocks[start] = size, writable, owner

    def block(self, address: int) -> int | None:
        """The start of the block that an address lies in."""
        index = bisect_right(self._starts, address) - 1
        start = self._starts[index] if index >= 0 else 0
        return start if start and address < start + self._blocks[start][0] else None

    def read(self, start: int) -> bytes:
        return ctypes.string_at(start, self._blocks[start][0])

    def write(self, start: int, content: bytes) -> None:
        ctypes.memmove(start, content, len(content))

    def is_writable(self, start: int) -> bool:
        return self._blocks[start][1]


class _Call:
    """What is sent for one call."""

    def __init__(self, memory: _Memory) -> None:
        self._memory = memory
        self.contents: dict[int, bytes] = {}  # of blocks and structures, by where they start
        self._indices: dict[int, int] = {}
        self._links: list[bytes] = []
        self._arguments: list[bytes] = []

    def add_argument(self, argument_type: Any, value: Any) -> None:
        if argument_type is ctypes.c_float:
            self._arguments.append(struct.pack("<qf", _FRACTION, value))
        elif hasattr(value, "_obj"):  # ctypes.byref
            structure = value._obj
            index = self._add(ctypes.addressof(structure), bytes(structure), holds_pointers=True)
            self._arguments.append(struct.pack("<3q", _ADDRESS, index, 0))
        elif argument_type is ctypes.c_void_p and value:
            target = self._target(value)
            self._arguments.append(
                struct.pack("<q", _PARALLEL) if target is None else struct.pack("<3q", _ADDRESS, *target)
            )
        else:
            self._arguments.append(struct.pack("<qq", _NUMBER, value or 0))

    def _target(self, address: int) -> tuple[int, int] | None:
        """Of what lies at an address: the number of its block in the call, and how far behind its start."""
        start = self._memory.block(address)
        if start is None:
            return None
        if start not in self._indices:
            self._add(start, self._memory.read(start), holds_pointers=not self._memory.is_writable(start))
        return self._indices[start], address - start

    def _add(self, start: int, content: bytes, *, holds_pointers: bool) -> int:
        index = self._indices[start] = len(self._indices)
        self.contents[start] = content
        if holds_pointers:
            for at in range(0, len(content) - 7, 8):
                target = self._target(int.from_bytes(content[at : at + 8], "little"))
                if target is not None:
                    self._links.append(struct.pack("<4q", index, at, *target))
        return index

    def message(self, name: str) -> bytes:
        parts = [name.encode().ljust(_NAME_BYTES, b"\0"), struct.pack("<q", len(self.contents))]
        for content in self.contents.values():
            parts += struct.pack("<q", len(content)), content
        for entries in (self._links, self._arguments):
            parts += struct.pack("<q", len(entries)), *entries
        return b"".join(parts)


class _Server:
    """The emulated process."""

    def __init__(self, command: list[str]) -> None:
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def call(self, memory: _Memory, name: str, argument_types: tuple[Any, ...], arguments: tuple[Any, ...]) -> int:
        """Call a function; what it leaves in tensors is copied back."""
        call = _Call(memory)
        for argument_type, value in zip(argument_types, arguments, strict=True):
            call.add_argument(argument_type, value)
        assert self._process.stdin
        self._process.stdin.write(call.message(name))
        self._process.stdin.flush()
        (result,) = struct.unpack("<q", self._read(8, name))
        for start, content in call.contents.items():
            changed = self._read(len(content), name)
            if changed != content and memory.block(start) == start and memory.is_writable(start):
                memory.write(start, changed)
        return int(result)

    def _read(self, size: int, name: str) -> bytes:
        assert self._process.stdout
        content = self._process.stdout.read(size)
        if len(content) < size:
            _server.cache_clear()
            raise RuntimeError(f"{name} ended the emulated process: {self._process.wait()}")
        return content


@cache
def _server() -> _Server:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as monkeypatch:
        program, kernels = Path(folder) / "server", Path(folder) / "_kernels.so"
        monkeypatch.setenv("CC", _COMPILER)
        monkeypatch.setattr(build, "TARGET_OPTIONS", build.TARGETS_BY_MACHINE["aarch64"])
        monkeypatch.setattr(build, "LIBRARY", kernels)
        failure_reason = build.build()
        assert not failure_reason, failure_reason
        subprocess.run([_COMPILER, "-O1", str(Path(__file__).with_suffix(".c")), "-o", program, "-ldl"], check=True)
        libc = subprocess.run([_COMPILER, "-print-file-name=libc.so.6"], stdout=subprocess.PIPE, text=True, check=True)
        server = _Server(
            [_EMULATOR, "-L", str(Path(libc.stdout.strip()).resolve().parents[1]), str(program), str(kernels)]
        )
        server.call(_Memory(), f"lorica_panel_columns_{_NAME_ENDING}", (), ())  # then it has loaded the files
        return server
