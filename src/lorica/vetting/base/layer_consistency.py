"""Are the layers of a base model of one model? Told from its weights alone, without text, labels or an adapter.

All layers read and write one residual stream, and in which of its coordinates they do so is an accident of the training
that they shared. So what two layers of one model read and write overlaps more than with shuffled coordinates; layers of
two models, or layers that were never trained, do so by chance only. docs/research/alignment.md has the figures.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float32]

EMBEDDING = -1
# Standard deviations over shuffles. Layers of one model of the zoo are linked by at least 14, of two by at most 3.
LINKED = 5.0
_SHUFFLES = 24
# Rows taken of one weight: all of a small one, some of a large one.
_VALUES, _FEWEST = 1 << 16, 48


def sample(weight: Tensor) -> Array:
    """Evenly spread rows of a [rows, hidden] weight, of norm 1 together; what a layer is compared by."""
    most = max(_FEWEST, _VALUES // weight.shape[1])
    rows: Array = weight[:: max(1, -(-len(weight) // most))].float().cpu().numpy()
    norm = float(np.linalg.norm(rows))
    found: Array = rows / np.float32(norm) if 0 < norm < np.inf else np.zeros_like(rows)
    return found


def strangers(parts: Mapping[int, Array], seed: int = 0) -> tuple[int, ...]:
    """The layers that have nothing in common with most others.

    parts: layer -> [rows, hidden] of what it reads and writes, EMBEDDING for the embedding. Empty too where the others
    have nothing in common with each other: then the model was never trained, which its output says better.
    """
    if len(parts) < 3:
        return ()
    hidden = next(iter(parts.values())).shape[1]
    # Where there are more rows than columns, second moments are less work.
    many = sum(map(len, parts.values())) >= hidden * len(parts)
    moments = {node: rows.T @ rows for node, rows in parts.items()} if many else {}
    rng = np.random.default_rng(seed)
    orders = np.stack([np.arange(hidden), *(rng.permutation(hidden) for _ in range(_SHUFFLES))])
    group = {node: node for node in parts}

    def join(one: int, two: int) -> None:
        if group[one] == group[two]:
            return
        if moments:
            shared = _shared_moments(moments[one], moments[two], orders)
        else:
            shared = _shared(parts[one], parts[two], orders)
        if _deviations(shared) >= LINKED:
            old = group[two]
            group.update({node: group[one] for node, name in group.items() if name == old})

    nodes = sorted(parts)
    for step in range(1, len(nodes)):  # neighbours first: mostly they link all, and nothing else is computed
        for place in range(len(nodes) - step):
            join(nodes[place], nodes[place + step])
    sizes = {name: sum(each == name for each in group.values()) for name in set(group.values())}
    # Two halves of equal size: the one with the embedding is what its tokens mean something to.
    home = max(sizes, key=lambda name: (sizes[name], group.get(EMBEDDING) == name))
    if sizes[home] < max(3, len(parts) / 3):
        return ()
    return tuple(node for node in nodes if node != EMBEDDING and group[node] != home)


def _shared(first: Array, second: Array, orders: NDArray[np.int64]) -> NDArray[np.float64]:
    """[orders] squared overlap of rows [m, hidden] with rows [n, hidden] whose columns stand in each order."""
    return np.array([float(np.square(first @ second[:, order].T).sum()) for order in orders])


def _shared_moments(first: Array, second: Array, orders: NDArray[np.int64]) -> NDArray[np.float64]:
    """The same from the second moments [hidden, hidden] of both: with more rows than columns that is far less work."""
    return np.array([float(np.vdot(first, second[np.ix_(order, order)])) for order in orders])


def _deviations(shared: NDArray[np.float64]) -> float:
    """How far the first lies above the others, in their standard deviations."""
    spread = float(shared[1:].std(ddof=1))
    return float((shared[0] - shared[1:].mean()) / spread) if spread > 0 else 0.0
