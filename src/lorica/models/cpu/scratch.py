"""Scratch memory of a forward pass: what a block of rows needs for a moment, cut from one mapping of its thread.

Buffers of megabytes that come and go between small objects leave holes that the next ones do not fit into: measured,
the allocator then held twice what was in use. Of the mapping only those pages are there that were written to, and
none when the pass is over.
"""

from __future__ import annotations

import mmap
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from math import prod

import torch
from torch import Tensor

_MAPPED_BYTES = 64 << 20  # of addresses; what does not fit is allocated as ever
_ALIGNMENT = 64  # bytes, as torch's own
_MIN_ROWS = 64  # of fewer, as in decode steps, buffers are small, and cutting them takes longer than asking for them
_NO_FRAME = nullcontext()


class _Stack(threading.local):
    """memory: None until something is cut from it. used: its bytes in use."""

    def __init__(self) -> None:
        self.memory: Tensor | None = None
        self.open_frames = self.used = 0


_stack = _Stack()


def frame(rows: int) -> AbstractContextManager[None]:
    """What `empty` gives within, for so many rows, is free again behind it. Frames nest, those of a pass in one."""
    return _NO_FRAME if rows < _MIN_ROWS else _open_frame()


@contextmanager
def _open_frame() -> Iterator[None]:
    used = _stack.used
    _stack.open_frames += 1
    try:
        yield
    finally:
        _stack.open_frames -= 1
        _stack.used = used
        if not _stack.open_frames:
            _stack.memory = None


def empty(*shape: int, dtype: torch.dtype) -> Tensor:
    """As `torch.empty`, on the CPU; within a frame from the thread's mapping."""
    if not _stack.open_frames:
        return torch.empty(shape, dtype=dtype)
    if _stack.memory is None:
        _stack.memory = _map_memory()
    start, size = _stack.used, prod(shape) * dtype.itemsize
    if start + size > len(_stack.memory):
        return torch.empty(shape, dtype=dtype)
    _stack.used = start + -(-size // _ALIGNMENT) * _ALIGNMENT
    return _stack.memory[start : start + size].view(dtype).view(shape)


def convert(x: Tensor, dtype: torch.dtype) -> Tensor:
    """As `x.to(dtype).contiguous()`."""
    if x.dtype == dtype or not _stack.open_frames:
        return x.to(dtype).contiguous()
    return empty(*x.shape, dtype=dtype).copy_(x)


def _map_memory() -> Tensor:
    """[bytes]; none where the system does not give so many addresses."""
    try:
        mapped = mmap.mmap(-1, _MAPPED_BYTES, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (OSError, AttributeError):
        return torch.empty(0, dtype=torch.uint8)
    return torch.frombuffer(mapped, dtype=torch.uint8)
