"""The null distribution of the alignment test: base models with permuted coordinates stand for unrelated ones.

A permutation leaves spectra and outliers as they are and moves the directions. The order of a hidden layer's
coordinates is an accident of training, so two models trained apart are related as a model and its shuffled copy are.
What is no accident stays in place: rotary positions give the outputs of queries and keys the same order in every model
(they are left out), and heads stay together.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Permutations = NDArray[np.int64]
Side = Literal["in", "out"]
"""Of a module: what it reads, what it writes."""

# Outputs with rotary positions, or fused with such.
_ORDERED = frozenset(
    {"q_proj", "k_proj", "qk_proj", "qkv_proj", "query_key_value", "W_pack", "Wqkv", "c_attn", "in_proj"}
)
# Modules of which this side is the heads', one after the other.
_OF_HEADS: dict[Side, str] = {"in": "o_proj", "out": "v_proj"}


def standardised(values: NDArray[Any]) -> NDArray[Any]:
    """values [1 + shuffles], the first of them not shuffled -> the same in deviations of the shuffled ones."""
    shuffled = values[1:]
    deviations: NDArray[Any] = (values - shuffled.mean()) / max(float(shuffled.std(ddof=1)), 1e-9)
    return deviations


class PermutationNull:
    """`count` shuffles of every axis of a model, the same for all modules that share the axis. Row 0 shuffles
    nothing.

    hidden: width of the residual stream. head_dim: 0 where unknown.
    """

    def __init__(self, *, hidden: int, head_dim: int, count: int) -> None:
        self._hidden = hidden
        self._head_dim = head_dim
        self._count = count
        self._made: dict[tuple[str, int, int], Permutations] = {}

    def orders(self, side: Side, module_path: str, width: int) -> Permutations | None:
        """[1 + count, width] for one side of a module; None where unrelated models share the order."""
        if side == "out" and has_shared_order(module_path):
            return None
        axis = axis_name(side, module_path, width, self._hidden)
        block_size = self._head_dim if _leaf(module_path) == _OF_HEADS[side] else 0
        if block_size and width % block_size:
            block_size = 0
        cache_key = (axis, width, block_size)
        if cache_key not in self._made:
            rng = np.random.default_rng([0, width, block_size, zlib.crc32(axis.encode())])
            shuffled = [_shuffle(rng, width, block_size) for _ in range(self._count)]
            self._made[cache_key] = np.stack([np.arange(width), *shuffled])
        return self._made[cache_key]


def axis_name(side: Side, module_path: str, width: int, hidden: int) -> str:
    """The axis that a module reads or writes: "" is the residual stream, else that of a layer's block. hidden: width of
    the stream."""
    # gate, up and down of one layer share their wide axis; v's outputs and o's inputs are of the heads.
    on_stream = width == hidden and _leaf(module_path) != _OF_HEADS[side]
    return "" if on_stream else module_path.rpartition(".")[0]


def has_shared_order(module_path: str) -> bool:
    """Whether unrelated models share the order of a module's outputs."""
    return _leaf(module_path) in _ORDERED


def _leaf(module_path: str) -> str:
    return module_path.rsplit(".", 1)[-1]


def _shuffle(rng: np.random.Generator, width: int, block_size: int) -> NDArray[np.int64]:
    if not block_size:
        return rng.permutation(width)
    block_order = rng.permutation(width // block_size)
    within: Sequence[NDArray[np.int64]] = [rng.permutation(block_size) for _ in block_order]
    return np.concatenate([block * block_size + inside for block, inside in zip(block_order, within, strict=True)])
