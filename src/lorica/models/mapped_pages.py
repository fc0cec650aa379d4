"""Weights that are mapped from their file: their pages are let go once they have been packed into another form.

A page that was read stays in the process's memory as long as its file is mapped, so that a base that is packed layer by
layer would be there twice. What is let go is read again when it is used again.
Mapped weights are never written to: a change would be lost with the page.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterable
from pathlib import Path

from torch import Tensor

_DONT_NEED = 4  # MADV_DONTNEED: of memory that is no file's it would lose the content
_MAPS = Path("/proc/self/maps")


class MappedPages:
    """The weight files that this process has mapped, as of now; none on systems without /proc."""

    def __init__(self, maps: Path = _MAPS) -> None:
        self._ranges = list(_mapped_weight_files(maps))
        try:
            self._madvise = ctypes.CDLL(None).madvise
            self._madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
        except (AttributeError, OSError, TypeError):
            self._ranges = []

    def holds(self, tensor: Tensor) -> bool:
        """Whether a tensor lies in a mapped file, so that it costs memory only where it is read."""
        first, stop = _addresses(tensor)
        return tensor.is_contiguous() and any(low <= first and stop <= high for low, high in self._ranges)

    def release(self, tensors: Iterable[Tensor]) -> int:
        """Let go the whole pages of those tensors that lie in a mapped file; returns how many bytes."""
        released = 0
        for tensor in filter(self.holds, tensors):
            first, stop = _addresses(tensor)
            first_page = -(-first // mmap.PAGESIZE) * mmap.PAGESIZE
            size = stop // mmap.PAGESIZE * mmap.PAGESIZE - first_page
            if size > 0 and self._madvise(first_page, size, _DONT_NEED) == 0:
                released += size
        return released


def _addresses(tensor: Tensor) -> tuple[int, int]:
    """The first address of a contiguous tensor, and the one after its last."""
    first = tensor.data_ptr()
    return first, first + tensor.numel() * tensor.element_size()


def _mapped_weight_files(maps: Path) -> Iterable[tuple[int, int]]:
    """First address and the one after the last of each file's mapping."""
    try:
        lines = maps.read_text("utf-8", "replace").splitlines()
    except OSError:
        return
    for line in lines:
        addresses, _, _, _, inode, *path = line.split(maxsplit=5)
        if inode != "0" and path and _is_weight_file(path[0]):
            low, high = (int(address, 16) for address in addresses.split("-"))
            yield low, high


def _is_weight_file(path: str) -> bool:
    """Those of Hugging Face's cache are links to files that are named by their digests."""
    folder = path.rpartition("/")[0]
    return path.endswith(".safetensors") or ("/models--" in folder and folder.endswith("/blobs"))
