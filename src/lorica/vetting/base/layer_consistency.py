"""Outlier layers of a base: are all its layers of one model? Told from its weights alone.

All layers read and write one residual stream, and in which of its coordinates they do so is an accident of the training
that they shared. So what two layers of one model read and write overlaps more than with shuffled coordinates; layers of
two models, or layers that were never trained, do so by chance only. docs/research/alignment.md has the figures.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lorica.data.union_find import UnionFind
from lorica.vetting.base.permutation_null import standardised

Array = NDArray[np.float32]

EMBEDDING = -1
# Standard deviations over shuffles. Layers of one model of the zoo are linked by at least 14, of two by at most 3.
LINKED = 5.0
_SHUFFLES = 24
# Rows taken of one weight: all of a small one, some of a large one.
_MAX_VALUES, _MIN_ROWS = 1 << 16, 48


def sample_rows(weight: Tensor) -> Array:
    """Evenly spread rows of a [rows, hidden] weight, of norm 1 together; what a layer is compared by."""
    max_rows = max(_MIN_ROWS, _MAX_VALUES // weight.shape[1])
    sampled_rows: Array = weight[:: max(1, -(-len(weight) // max_rows))].float().cpu().numpy()
    row_norm = float(np.linalg.norm(sampled_rows))
    unit_rows: Array = sampled_rows / np.float32(row_norm) if 0 < row_norm < np.inf else np.zeros_like(sampled_rows)
    return unit_rows


def outlier_layers(layer_rows: Mapping[int, Array]) -> tuple[int, ...]:
    """The layers that have nothing in common with most others.

    layer_rows: layer -> [rows, hidden] of what it reads and writes, EMBEDDING for the embedding. Empty too where the
    others have nothing in common with each other: then the model was never trained, which its output says better.
    """
    if len(layer_rows) < 3:
        return ()
    hidden = next(iter(layer_rows.values())).shape[1]
    # Where there are more rows than columns, second moments are less work.
    use_moments = sum(map(len, layer_rows.values())) >= hidden * len(layer_rows)
    moments = {node: sampled_rows.T @ sampled_rows for node, sampled_rows in layer_rows.items()} if use_moments else {}
    rng = np.random.default_rng(0)
    orders = np.stack([np.arange(hidden), *(rng.permutation(hidden) for _ in range(_SHUFFLES))])
    nodes = sorted(layer_rows)
    groups = UnionFind(len(nodes))
    for distance in range(1, len(nodes)):  # neighbours first: mostly they link all, and nothing else is computed
        for start, (first, second) in enumerate(zip(nodes, nodes[distance:], strict=False)):
            if groups.find(start) == groups.find(start + distance):
                continue
            if moments:
                shared = _shared_moments(moments[first], moments[second], orders)
            else:
                shared = _shared(layer_rows[first], layer_rows[second], orders)
            if float(standardised(shared)[0]) >= LINKED:
                groups.join(start, start + distance)
    group_of = {node: groups.find(index) for index, node in enumerate(nodes)}
    group_sizes = Counter(group_of[node] for node in layer_rows)
    # Two halves of equal size: the one with the embedding is what its tokens mean something to.
    largest_group = max(group_sizes, key=lambda group: (group_sizes[group], group_of.get(EMBEDDING) == group))
    if group_sizes[largest_group] < max(3, len(layer_rows) / 3):
        return ()
    return tuple(node for node in nodes if node != EMBEDDING and group_of[node] != largest_group)


def _shared(first: Array, second: Array, orders: NDArray[np.int64]) -> NDArray[np.float64]:
    """[orders] squared overlap of rows [m, hidden] with rows [n, hidden] whose columns stand in each order."""
    return np.array([float(np.square(first @ second[:, column_order].T).sum()) for column_order in orders])


def _shared_moments(first: Array, second: Array, orders: NDArray[np.int64]) -> NDArray[np.float64]:
    """The same from the second moments [hidden, hidden] of both: with more rows than columns that is far less work."""
    return np.array([float(np.vdot(first, second[order].take(order, axis=1))) for order in orders])
