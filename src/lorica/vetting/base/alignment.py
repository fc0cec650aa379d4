"""Was this adapter trained on this base model? Told from its weights and the base's activations, without provenance.

The gradient of A is (B^T delta) x^T and that of B is delta (A x)^T, where x are the layer's inputs and delta the
gradients at its outputs. So training turns the update BA towards directions that inputs and gradients of its own base
use. The score compares how much of the update lies there with how much lies in shuffled stand-ins for unrelated bases
(`surrogates`); docs/alignment.md explains the test, its calibration and its limits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from lorica.adapters.arrays import read_array
from lorica.adapters.layout import Factors, Layout, layer_number
from lorica.adapters.specimen import Specimen
from lorica.errors import AdapterError
from lorica.vetting.base.activation_subspaces import Array, Directions, Subspace
from lorica.vetting.base.bonds import bond, together
from lorica.vetting.base.consistency import Spread, consistency
from lorica.vetting.base.directions import collect
from lorica.vetting.base.form import Form
from lorica.vetting.base.halves import Halves
from lorica.vetting.base.order import find_order, layer_table
from lorica.vetting.base.surrogates import Permutations, Surrogates, ordered

__all__ = ["Alignment", "align", "collect"]

SHUFFLES = 64
# Scores of unrelated bases have mean 0 and standard deviation about 1 (docs/alignment.md).
MATCH = 4.0
MISMATCH = 3.0
INFORMED = 4.0

_SIDES = 8  # on the residual stream; with four of them one sound adapter of the zoo came down to 2.2
_MOST_ROWS = 32  # singular directions of one update that are looked at; the rest carry next to nothing
_FEW_ROWS, _FEW_DIRECTIONS = 8, 64  # of them, and of the base's, for other layers: those pairs are many
MOST_LAYERS = 128  # in deeper models that comparison is left out
_CHUNK = 1 << 23  # elements of shuffled rows held at a time

Decision = Literal["match", "mismatch", "undecided"]


@dataclass(frozen=True)
class Alignment:
    """What the test says.

    score: standard deviations by which the update lies more in this base's directions than in shuffled stand-ins;
    NaN when nothing could be tested. p_true: probability that the base is the right one or a relative, when that is
    as likely as not beforehand. information: how far the adapter's modules agree with each other, in standard
    deviations; training makes them agree, and without it no base can be told. effect: mean gain in log energy.
    modules: path -> its own score. sizes: path -> norm of the update over that of the base weight. tested, pairs:
    modules that could be tested, and that the adapter has. halves: what else the same measurements say of its parts.
    form: of the base. stream, inner: scores of the sides that lie on the residual stream, and of those inside layers.
    """

    score: float
    p_true: float
    information: float
    effect: float
    modules: dict[str, float]
    sizes: dict[str, float]
    tested: int
    pairs: int
    base: str
    decided: Decision
    halves: Halves = field(default_factory=Halves)
    form: Form = field(default_factory=Form)
    stream: float = math.nan
    inner: float = math.nan


def align(specimen: Specimen, layout: Layout, directions: Directions, *, shuffles: int = SHUFFLES) -> Alignment:
    """Compare an adapter with what was collected of a base. Modules whose shapes do not fit, or whose update is zero
    or not finite, are left out. Raises AdapterError for weights that cannot be read."""
    surrogates = Surrogates(hidden=directions.hidden, head_dim=directions.head_dim, count=shuffles)
    gains: dict[str, list[Array]] = {}
    spreads: list[Spread] = []
    sizes: dict[str, float] = {}
    bonds: list[tuple[float, float]] = []
    aligned: dict[tuple[str, str, int], float] = {}
    for factors, rows, columns, norm, bound in _updates(specimen, layout, directions):
        path = factors.path
        bonds += [] if bound is None else [bound]
        aligned |= _elsewhere(path, rows, columns, directions)
        if directions.weights.get(path):
            sizes[path] = norm / directions.weights[path]
        order = surrogates.inputs(path, rows.shape[1])
        found = [_gain(rows, directions.inputs[path], order)]
        spreads.append(Spread("in", surrogates.axis_of_inputs(path, rows.shape[1]), rows))
        turned = surrogates.outputs(path, columns.shape[1])
        if turned is not None:
            found.append(_gain(columns, directions.outputs[path], turned))
            spreads.append(Spread("out", surrogates.axis_of_outputs(path, columns.shape[1]), columns))
        gains[path] = found
    whole = _conclude(layout, directions, gains, spreads, sizes)
    stream, inner = _by_axis(gains, spreads)
    halves = _halves(gains, bonds, aligned, directions)
    return replace(whole, halves=halves, form=directions.form, stream=stream, inner=inner)


def _by_axis(gains: dict[str, list[Array]], spreads: Sequence[Spread]) -> tuple[float, float]:
    """Scores of the sides on the residual stream and of those inside layers; NaN where there are none, or on the stream
    too few to call it turned. spreads: one for each gain, in their order."""
    known = iter(spreads)
    sides: dict[bool, list[Array]] = {True: [], False: []}
    for found in gains.values():
        for gain in found:
            sides[next(known).axis == ""].append(_standardised(gain))
    stream, inner = (
        float(_standardised(np.stack(sides[each]).mean(0))[0]) if sides[each] else math.nan for each in (True, False)
    )
    return stream if len(sides[True]) >= _SIDES else math.nan, inner


def _elsewhere(path: str, rows: Array, columns: Array, directions: Directions) -> dict[tuple[str, str, int], float]:
    """(side, module, layer) -> log gain of the module's update in the directions of its like in each layer."""
    own = layer_number(path)
    found = {}
    if own is None or directions.layers > MOST_LAYERS:
        return {}
    for layer in range(directions.layers):
        other = path.replace(f".{own}.", f".{layer}.", 1)
        seen, wanted = directions.inputs.get(other), directions.outputs.get(other)
        if seen is not None and seen.width == rows.shape[1]:
            found["in", path, layer] = _gain_as_it_is(rows, seen)
        if wanted is not None and wanted.width == columns.shape[1] and not ordered(path):
            found["out", path, layer] = _gain_as_it_is(columns, wanted)
    return found


def _gain_as_it_is(rows: Array, subspace: Subspace) -> float:
    left = subspace.energies[_FEW_DIRECTIONS:]
    rest = (float(left.sum()) + subspace.rest * (subspace.width - len(subspace.energies))) / max(
        1, subspace.width - _FEW_DIRECTIONS
    )
    brief = Subspace(subspace.vectors[:_FEW_DIRECTIONS], subspace.energies[:_FEW_DIRECTIONS], rest)
    return float(_gain(rows[:_FEW_ROWS], brief if len(left) else subspace, np.arange(subspace.width)[None])[0])


def _halves(
    gains: dict[str, list[Array]],
    bonds: Sequence[tuple[float, float]],
    aligned: dict[tuple[str, str, int], float],
    directions: Directions,
) -> Halves:
    sides = {"in": [found[0] for found in gains.values()], "out": [found[1] for found in gains.values() if found[1:]]}
    scores = {
        side: float(_standardised(np.stack([_standardised(each) for each in found]).mean(0))[0]) if found else math.nan
        for side, found in sides.items()
    }
    layers: list[int] = []
    table = np.zeros((0, 0))
    for place, side in enumerate(("in", "out")):
        values = {(path, layer): value for (where, path, layer), value in aligned.items() if where == side}
        spreads = {path: float(found[place][1:].std(ddof=1)) for path, found in gains.items() if len(found) > place}
        known, more = layer_table(values, spreads)
        if table.size and known != layers:
            continue
        layers, table = known, more + table if table.size else more
    return Halves(
        inputs=scores["in"],
        outputs=scores["out"],
        tested=len(sides["out"]),
        bound=together([bound for bound, _ in bonds]),
        free=together([free for _, free in bonds]),
        bonds=len(bonds),
        order=find_order(layers, table),
        strangers=directions.strangers,
    )


def _updates(
    specimen: Specimen, layout: Layout, directions: Directions
) -> Iterator[tuple[Factors, Array, Array, float, tuple[float, float] | None]]:
    """(module, right singular rows [k, in], left singular rows [k, out], norm of the scaled update, `bond` of its
    halves) of each module that can be tested. Squared norms of the rows are the singular values, as shares of their
    sum."""
    if specimen.weights is None:
        return
    for factors in layout.pairs:
        seen, wanted = directions.inputs.get(factors.path), directions.outputs.get(factors.path)
        shape_a, shape_b = layout.shape(factors.a), layout.shape(factors.b)
        if factors.embedding or seen is None or wanted is None or len(shape_a) != 2 or len(shape_b) != 2:
            continue
        if shape_a[0] != shape_b[1] or shape_a[1] != seen.width or shape_b[0] != wanted.width:
            continue
        a = read_array(specimen.weights, layout.tensors[factors.a])
        b = read_array(specimen.weights, layout.tensors[factors.b])
        found = _factorise(a, b)
        if found is not None:
            rows, columns, norm = found
            yield factors, rows, columns, norm * _scaling(specimen, factors.path), bond(a, b, seen)


def _factorise(a: Array, b: Array) -> tuple[Array, Array, float] | None:
    """a [r, in], b [out, r] -> singular rows of BA weighted by the roots of its singular values, and its norm."""
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return None
    try:
        left, upper = np.linalg.qr(b.astype(np.float64))
        turned, values, right = np.linalg.svd(upper @ a.astype(np.float64), full_matrices=False)
    except np.linalg.LinAlgError:
        return None
    norm = float(np.sqrt(np.square(values).sum()))
    if not math.isfinite(norm) or norm <= 0:
        return None
    kept = (values > 1e-5 * values[0])[:_MOST_ROWS].nonzero()[0]
    weights = np.sqrt(values[kept] / values[kept].sum())[:, None]
    rows: Array = (right[kept] * weights).astype(np.float32)
    columns: Array = ((left @ turned[:, kept]).T * weights).astype(np.float32)
    return rows, columns, norm


def _scaling(specimen: Specimen, path: str) -> float:
    if specimen.config is None:
        return math.nan
    try:
        return abs(specimen.config.scaling(path))
    except AdapterError:  # a pattern that is a regular expression
        return math.nan


def _gain(rows: Array, subspace: Subspace, orders: Permutations) -> Array:
    """[1 + shuffles] log of the rows' energy in the subspace over what rows of any direction have.

    Directions are weighted by the root of their energy: by the energy itself, one outlier dimension would decide.
    """
    weights = np.sqrt(subspace.energies)
    rest = math.sqrt(max(0.0, subspace.rest))
    mean = (float(weights.sum()) + rest * (subspace.width - len(weights))) / subspace.width
    gains = np.clip(weights - rest, 0, None) / mean
    seen = (subspace.vectors * np.sqrt(gains)[:, None]).T  # [width, k]
    step = max(1, _CHUNK // rows.size)
    found = []
    for start in range(0, len(orders), step):
        part = rows[:, orders[start : start + step]]  # [rows, shuffles, width]
        energy = np.square(part.reshape(-1, subspace.width) @ seen).reshape(len(rows), part.shape[1], -1)
        found.append(energy.sum((0, 2)))
    logs: Array = np.log(np.concatenate(found) + rest / mean + 1e-12).astype(np.float32)
    return logs


def _conclude(
    layout: Layout,
    directions: Directions,
    gains: dict[str, list[Array]],
    spreads: Sequence[Spread],
    sizes: dict[str, float],
) -> Alignment:
    # A [1 + shuffles] row per tested side of each module, in units of its own spread over the shuffles.
    standard = {path: np.stack([_standardised(each) for each in found]) for path, found in gains.items()}
    score, effect = math.nan, math.nan
    if standard:
        total = np.concatenate(list(standard.values())).mean(0)
        score = float(_standardised(total)[0])
        effect = float(np.mean([each[0] - each[1:].mean() for found in gains.values() for each in found]))
    information = consistency(spreads)
    decided: Decision = "undecided"
    if score >= MATCH:
        decided = "match"
    elif score < MISMATCH and information >= INFORMED:
        decided = "mismatch"
    return Alignment(
        score=score,
        p_true=_probability(score, information),
        information=information,
        effect=effect,
        modules={path: float(_standardised(each.mean(0))[0]) for path, each in standard.items()},
        sizes={path: size for path, size in sizes.items() if math.isfinite(size)},
        tested=len(standard),
        pairs=len(layout.pairs),
        base=directions.base.name,
        decided=decided,
    )


def _standardised(values: Array) -> Array:
    shuffled = values[1:]
    found: Array = (values - shuffled.mean()) / max(float(shuffled.std(ddof=1)), 1e-9)
    return found


def _probability(score: float, information: float) -> float:
    """By Bayes with even odds. Unrelated bases: standard normal. The right one: normal around what the information
    lets expect, and a score above that speaks for it no less, nor one below 0 less than 0 does."""
    if math.isnan(score):
        return 0.5
    informed = min(1.0, max(0.0, information) / INFORMED)
    expected = _LEAST_EXPECTED * informed**2 + _MORE_EXPECTED * max(0.0, information)
    spread = math.hypot(1.0, expected / 4)
    reached = max(0.0, score)
    towards = -0.5 * (min(0.0, reached - expected) / spread) ** 2 - math.log(spread)
    against = -0.5 * reached**2
    return 1 / (1 + math.exp(max(-700.0, min(700.0, against - towards))))


# Scores on the right base are at least 6 where the modules agree, and grow with their agreement (docs/alignment.md).
_LEAST_EXPECTED, _MORE_EXPECTED = 6.0, 0.6
