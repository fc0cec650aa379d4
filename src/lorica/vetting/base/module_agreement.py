"""How far an adapter's modules agree with each other: a sign of training that needs no base model.

Modules that read or write the same coordinates (q, k and v of a layer; all that write to the residual stream) are
turned towards the same directions by training. Before it, A is random and B is zero, and nothing agrees.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lorica.vetting.base.permutation_null import Side, standardised

Array = NDArray[np.float32]

_NEIGHBOURS = 8
_SHUFFLES = 24
_MAX_ROWS = 16
_COPY = 0.999  # rows of two modules that are the same were never trained apart: they prove nothing


@dataclass(frozen=True)
class SideDirections:
    """The weighted directions of one side of one module: rows [k, width] along the axis that `axis` names."""

    side: Side
    axis: str
    rows: Array


def module_agreement(spreads: Sequence[SideDirections]) -> float:
    """Standard deviations by which neighbouring modules of an axis overlap more than with shuffled coordinates; 0
    when there are no two to compare."""
    rng = np.random.default_rng(0)
    rows_by_axis: dict[tuple[str, str, int], list[Array]] = {}
    for spread in spreads:
        rows_by_axis.setdefault((spread.side, spread.axis, spread.rows.shape[1]), []).append(spread.rows[:_MAX_ROWS])
    scores = []
    for (_, _, axis_width), axis_rows in rows_by_axis.items():
        orders = np.stack([np.arange(axis_width), *(rng.permutation(axis_width) for _ in range(_SHUFFLES))])
        for pair_index, first in enumerate(axis_rows):
            for second in axis_rows[pair_index + 1 : pair_index + 1 + _NEIGHBOURS]:
                if not _copies(first, second):
                    scores.append(_overlap(first, second, orders))
    return float(np.sum(scores) / math.sqrt(len(scores))) if scores else 0.0


def _overlap(first: Array, second: Array, orders: NDArray[np.int64]) -> float:
    shuffled = second[:, orders]  # [k, 1 + shuffles, width]
    shared = (
        np.square(shuffled.reshape(-1, second.shape[1]) @ first.T).reshape(len(second), len(orders), -1).sum((0, 2))
    )
    return float(standardised(np.log(shared + 1e-12))[0])


def _copies(first_rows: Array, second_rows: Array) -> bool:
    first_row, second_row = first_rows[0], second_rows[0]
    return float(abs(first_row @ second_row)) > _COPY * float(np.linalg.norm(first_row) * np.linalg.norm(second_row))
