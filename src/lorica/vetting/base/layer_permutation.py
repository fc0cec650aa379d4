"""Do an adapter's layers stand in their places? Each layer's update is held against every layer's directions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lorica.adapters.tensor_map import layer_number

Array = NDArray[np.float32]
Floats = NDArray[np.float64]

# What a layer must gain on average at its new place, in standard deviations: with reversed layers 6.9 to 12.9, the best
# order of layers that belong nowhere up to 3.6. And what may be left of that at the old place.
GAIN, LEFT = 5.0, 1 / 3


@dataclass(frozen=True)
class LayerPermutation:
    """moves: layer -> the layer where it belongs, of those that stand elsewhere. gain: mean alignment they win
    there, in standard deviations."""

    moves: dict[int, int]
    gain: float


def layer_table(aligned: Mapping[tuple[str, int], float], spreads: Mapping[str, float]) -> tuple[list[int], Floats]:
    """aligned: (module, layer) -> log gain of the module's update in that layer's directions; spreads: module -> the
    same's spread over shuffles. Gives the layers and [layers, layers] their alignment, in standard deviations."""
    layers = sorted({number for module_path, _ in aligned if (number := layer_number(module_path)) is not None})
    positions = {layer_index: layer_position for layer_position, layer_index in enumerate(layers)}
    spreads_by_module: dict[str, list[float]] = {}
    for module_path, spread in spreads.items():
        spreads_by_module.setdefault(_kind(module_path), []).append(spread)
    # One spread for a kind of module: where it differs among layers, that must not decide.
    usual_spreads = {module: max(float(np.median(values)), 1e-6) for module, values in spreads_by_module.items()}
    table, counts = np.zeros((len(layers),) * 2), np.zeros((len(layers),) * 2)
    for (module_path, other_layer), alignment in aligned.items():
        own_layer = layer_number(module_path)
        if own_layer is not None and other_layer in positions and np.isfinite(alignment):
            table[positions[own_layer], positions[other_layer]] += alignment / usual_spreads[_kind(module_path)]
            counts[positions[own_layer], positions[other_layer]] += 1
    return layers, table / np.sqrt(np.maximum(counts, 1))


def _kind(module_path: str) -> str:
    number = layer_number(module_path)
    return module_path if number is None else module_path.replace(f".{number}.", ".*.", 1)


def find_layer_permutation(layers: list[int], table: Floats) -> LayerPermutation:
    """The order in which the layers fit best, where it fits clearly better than theirs; else no places."""
    unchanged = LayerPermutation({}, 0.0)
    assignment = assign(table) if len(layers) > 1 else []
    moved_layers = [row for row, column in enumerate(assignment) if column != row]
    if not moved_layers:
        return unchanged
    submatrix = table[np.ix_(moved_layers, moved_layers)]
    # Some layers fit everywhere better than others, and some are fitted better by all: in the mean over the whole part
    # that is the same for every order.
    new_fit = float(np.mean([table[row, assignment[row]] for row in moved_layers]) - submatrix.mean())
    old_fit = float(np.trace(submatrix) / len(moved_layers) - submatrix.mean())
    if new_fit - old_fit < GAIN or old_fit > LEFT * new_fit:
        return unchanged
    return LayerPermutation({layers[row]: layers[assignment[row]] for row in moved_layers}, new_fit - old_fit)


def assign(table: Floats) -> list[int]:
    """For each row a column of its own, so that the sum is largest (the Hungarian method, O(n^3))."""
    size = len(table)
    cost = float(table.max()) - table
    row_potentials, column_potentials = np.zeros(size + 1), np.zeros(size + 1)
    assigned_row = np.zeros(size + 1, dtype=int)  # column -> row, from 1
    for row_index in range(1, size + 1):
        assigned_row[0], column = row_index, 0
        least_costs, previous = np.full(size + 1, np.inf), np.zeros(size + 1, dtype=int)
        visited = np.zeros(size + 1, dtype=bool)
        while assigned_row[column]:
            visited[column] = True
            reduced = cost[assigned_row[column] - 1] - row_potentials[assigned_row[column]] - column_potentials[1:]
            nearer = ~visited[1:] & (reduced < least_costs[1:])
            least_costs[1:][nearer], previous[1:][nearer] = reduced[nearer], column
            following = int(np.where(visited, np.inf, least_costs)[1:].argmin()) + 1
            least_step = least_costs[following]
            row_potentials[assigned_row[visited]] += least_step
            column_potentials[visited] -= least_step
            least_costs[~visited] -= least_step
            column = following
        while column:
            assigned_row[column] = assigned_row[previous[column]]
            column = int(previous[column])
    assignment = [0] * size
    for column in range(1, size + 1):
        assignment[assigned_row[column] - 1] = column - 1
    return assignment
