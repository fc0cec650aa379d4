"""A small vector for each adapter, such that the angle between two vectors is nearly that between two updates.

Each module's update U = s B A [out, in] is seen through fixed random signs, P U Q [16, 16], where P and Q depend on
nothing but the lengths of the axes; the modules' images are added up, each with signs of its own, fixed by its path. So
adapters of different ranks compare as long as they adapt the same modules of the same shapes. Signs come from
SHAKE-128, not from a random generator: they are the same on every machine and in every version.
"""

from __future__ import annotations

import functools
import hashlib

import numpy as np
import numpy.typing as npt

from lorica.adapters.arrays import Floats

SIDE = 16
SIZE = SIDE * SIDE


def _signs(sign_label: str, count: int) -> Floats:
    """[count] of +1 and -1, fixed by the label."""
    random_bytes = hashlib.shake_128(sign_label.encode("utf-8", "replace")).digest((count + 7) // 8)
    return np.unpackbits(np.frombuffer(random_bytes, np.uint8), count=count).astype(np.float32) * 2 - 1


@functools.lru_cache(maxsize=64)
def _row_signs(rank: int) -> Floats:
    """[16, r] of signs."""
    return _signs(f"rows {rank}", SIDE * rank).reshape(SIDE, rank)


@functools.lru_cache(maxsize=12)
def probes(width: int) -> Floats:
    """[width, 17] sixteen columns of signs, and one of ones, which sums."""
    columns = np.ones((width, SIDE + 1), np.float32)
    columns[:, :SIDE] = _signs(f"axis {width}", width * SIDE).reshape(width, SIDE)
    return columns


@functools.lru_cache(maxsize=2048)
def _own_signs(module_path: str) -> Floats:
    return _signs(module_path, SIZE).reshape(SIDE, SIDE)


class Sketcher:
    """Adds up the images of an adapter's modules."""

    def __init__(self) -> None:
        self.update = np.zeros((SIDE, SIDE), np.float64)
        self.start = np.zeros((SIDE, SIDE), np.float64)
        self._shapes: list[str] = []

    def add(
        self, module_path: str, scale: float, a_projected: Floats, b_projected: Floats, shape: tuple[int, int]
    ) -> None:
        """Add a module. a_projected, b_projected: [r, 16] the images of A and of B's transpose. shape: (out, in)."""
        path_signs = _own_signs(module_path)
        self.update += path_signs * (b_projected.T @ a_projected) * np.float64(scale)
        # The rows of A keep their order from the initialisation on; their signs depend on it.
        self.start += path_signs * (_row_signs(a_projected.shape[0]) @ a_projected)
        self._shapes.append(f"{module_path} {shape[0]} {shape[1]}")

    def signature(self) -> str:
        """Equal for adapters whose sketches compare: the same modules with the same shapes."""
        return hashlib.sha256("\n".join(sorted(self._shapes)).encode("utf-8", "replace")).hexdigest()[:32]


def unit(vector: npt.NDArray[np.float64]) -> bytes:
    """[16, 16] -> the float32 bytes of its direction; b"" for a vector without one."""
    norm = float(np.sqrt((vector * vector).sum()))
    if not np.isfinite(norm) or norm == 0:
        return b""
    return (vector / norm).astype("<f4").tobytes()
