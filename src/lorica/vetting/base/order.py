"""Do an adapter's layers stand in their places? Each layer's update is held against every layer's directions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lorica.adapters.layout import layer_number

Array = NDArray[np.float32]
Floats = NDArray[np.float64]

# What a layer must gain on average at its new place, in standard deviations: with reversed layers 6.9 to 12.9, the best
# order of layers that belong nowhere up to 3.6. And what may be left of that at the old place.
GAIN, LEFT = 5.0, 1 / 3


@dataclass(frozen=True)
class Order:
    """places: layer -> the layer where it belongs, of those that stand elsewhere. gain: mean alignment they win there,
    in standard deviations."""

    places: dict[int, int]
    gain: float


def layer_table(aligned: Mapping[tuple[str, int], float], spreads: Mapping[str, float]) -> tuple[list[int], Floats]:
    """aligned: (module, layer) -> log gain of the module's update in that layer's directions; spreads: module -> the
    same's spread over shuffles. Gives the layers and [layers, layers] their alignment, in standard deviations."""
    layers = sorted({number for path, _ in aligned if (number := layer_number(path)) is not None})
    places = {layer: place for place, layer in enumerate(layers)}
    kinds: dict[str, list[float]] = {}
    for path, spread in spreads.items():
        kinds.setdefault(_kind(path), []).append(spread)
    # One spread for a kind of module: where it differs among layers, that must not decide.
    usual = {kind: max(float(np.median(each)), 1e-6) for kind, each in kinds.items()}
    table, counts = np.zeros((len(layers),) * 2), np.zeros((len(layers),) * 2)
    for (path, other), value in aligned.items():
        own = layer_number(path)
        if own is not None and other in places and np.isfinite(value):
            table[places[own], places[other]] += value / usual[_kind(path)]
            counts[places[own], places[other]] += 1
    return layers, table / np.sqrt(np.maximum(counts, 1))


def _kind(path: str) -> str:
    number = layer_number(path)
    return path if number is None else path.replace(f".{number}.", ".*.", 1)


def find_order(layers: list[int], table: Floats) -> Order:
    """The order in which the layers fit best, where it fits clearly better than theirs; else no places."""
    nothing = Order({}, 0.0)
    if len(layers) < 2:
        return nothing
    best = assign(table)
    moved = [place for place, other in enumerate(best) if other != place]
    if not moved:
        return nothing
    part = table[np.ix_(moved, moved)]
    # Some layers fit everywhere better than others, and some are fitted better by all: in the mean over the whole part
    # that is the same for every order.
    there = float(np.mean([table[place, best[place]] for place in moved]) - part.mean())
    here = float(np.trace(part) / len(moved) - part.mean())
    if there - here < GAIN or here > LEFT * there:
        return nothing
    return Order({layers[place]: layers[best[place]] for place in moved}, there - here)


def assign(table: Floats) -> list[int]:
    """For each row a column of its own, so that the sum is largest (the Hungarian method, O(n^3))."""
    size = len(table)
    cost = float(table.max()) - table
    rows, columns = np.zeros(size + 1), np.zeros(size + 1)
    owner = np.zeros(size + 1, dtype=int)  # column -> row, from 1
    for row in range(1, size + 1):
        owner[0], column = row, 0
        least, way = np.full(size + 1, np.inf), np.zeros(size + 1, dtype=int)
        used = np.zeros(size + 1, dtype=bool)
        while owner[column]:
            used[column] = True
            reduced = cost[owner[column] - 1] - rows[owner[column]] - columns[1:]
            nearer = ~used[1:] & (reduced < least[1:])
            least[1:][nearer], way[1:][nearer] = reduced[nearer], column
            following = int(np.where(used, np.inf, least)[1:].argmin()) + 1
            step = least[following]
            rows[owner[used]] += step
            columns[used] -= step
            least[~used] -= step
            column = following
        while column:
            owner[column] = owner[way[column]]
            column = int(way[column])
    found = [0] * size
    for column in range(1, size + 1):
        found[owner[column] - 1] = column - 1
    return found
