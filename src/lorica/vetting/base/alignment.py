"""Was this adapter trained on this base model? Told from its weights and the base's activations, without provenance.

The gradient of A is (B^T delta) x^T and that of B is delta (A x)^T, where x are the layer's inputs and delta the
gradients at its outputs. So training turns the update BA towards directions that inputs and gradients of its own base
use. A permutation test says how sure that is: the alignment statistic is how much of the update lies there, its null
distribution how much lies in permuted stand-ins for unrelated bases (`permutation_null`). docs/research/alignment.md
explains the test, its calibration and its limits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from lorica.adapters.arrays import read_array
from lorica.adapters.raw_adapter import RawAdapter
from lorica.adapters.tensor_map import TensorMap, layer_number
from lorica.errors import AdapterError
from lorica.vetting.base.activation_subspaces import ActivationSubspaces, Array, Subspace
from lorica.vetting.base.collect_subspaces import collect_subspaces
from lorica.vetting.base.conversion_faults import BaseForm
from lorica.vetting.base.factor_correlation import combined_z, factor_correlation
from lorica.vetting.base.halves import Halves
from lorica.vetting.base.layer_permutation import find_layer_permutation, layer_table
from lorica.vetting.base.module_agreement import SideDirections, module_agreement
from lorica.vetting.base.permutation_null import PermutationNull, Permutations, Side, axis_name, standardised

__all__ = ["Alignment", "align", "collect_subspaces"]

SHUFFLES = 64
# Scores of unrelated bases have mean 0 and standard deviation about 1 (docs/research/alignment.md).
MATCH = 4.0
MISMATCH = 3.0
INFORMED = 4.0

_MIN_STREAM_SIDES = 8  # on the residual stream; with four of them one sound adapter of the zoo came down to 2.2
_MAX_ROWS = 32  # singular directions of one update that are looked at; the rest carry next to nothing
_ROWS_ELSEWHERE, _DIRECTIONS_ELSEWHERE = 8, 64  # of them, and of the base's, for other layers: those pairs are many
MAX_LAYERS = 128  # in deeper models that comparison is left out
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
    form: BaseForm = field(default_factory=BaseForm)
    stream: float = math.nan
    inner: float = math.nan


@dataclass(frozen=True)
class _TestedSide:
    """What one side of one module gains, shuffled and not: [1 + shuffles]."""

    module_path: str
    gain: Array
    directions: SideDirections


def align(adapter: RawAdapter, tensor_map: TensorMap, subspaces: ActivationSubspaces) -> Alignment:
    """Compare an adapter with what was collected of a base. Modules whose shapes do not fit, or whose update is zero
    or not finite, are left out. Raises AdapterError for weights that cannot be read."""
    permutation_null = PermutationNull(hidden=subspaces.hidden, head_dim=subspaces.head_dim, count=SHUFFLES)
    side_subspaces: dict[Side, dict[str, Subspace]] = {"in": subspaces.inputs, "out": subspaces.outputs}
    layer_count = subspaces.layers
    sides: list[_TestedSide] = []
    sizes: dict[str, float] = {}
    correlations: list[tuple[float, float]] = []
    elsewhere: dict[Side, dict[tuple[str, int], float]] = {"in": {}, "out": {}}
    for module_path, directions, update_norm, correlation_pair in _updates(adapter, tensor_map, subspaces):
        correlations += [] if correlation_pair is None else [correlation_pair]
        if (weight_norm := subspaces.weights.get(module_path)) and math.isfinite(update_norm / weight_norm):
            sizes[module_path] = update_norm / weight_norm
        for side, rows in directions.items():
            orders = permutation_null.orders(side, module_path, rows.shape[1])
            if orders is not None:
                elsewhere[side] |= _gains_by_layer(module_path, rows, side_subspaces[side], layer_count)
                gain = _gain(rows, side_subspaces[side][module_path], orders)
                axis = axis_name(side, module_path, rows.shape[1], subspaces.hidden)
                sides.append(_TestedSide(module_path, gain, SideDirections(side, axis, rows)))
    return _conclude(sides, _halves(sides, correlations, elsewhere, subspaces), sizes, len(tensor_map.pairs), subspaces)


def _combined(gains: Sequence[Array]) -> float:
    """The score of several sides together, each in units of its own spread over the shuffles; NaN for none."""
    return float(standardised(np.stack([standardised(gain) for gain in gains]).mean(0))[0]) if gains else math.nan


def _gains_by_layer(
    module_path: str, rows: Array, subspaces: Mapping[str, Subspace], layer_count: int
) -> dict[tuple[str, int], float]:
    """(module, layer) -> log gain of the module's update in the directions of its like in each layer."""
    own_layer = layer_number(module_path)
    if own_layer is None or layer_count > MAX_LAYERS:
        return {}
    likes = {
        layer_index: subspaces.get(module_path.replace(f".{own_layer}.", f".{layer_index}.", 1))
        for layer_index in range(layer_count)
    }
    return {
        (module_path, layer_index): _unshuffled_gain(rows, subspace)
        for layer_index, subspace in likes.items()
        if subspace is not None and subspace.width == rows.shape[1]
    }


def _unshuffled_gain(directions: Array, subspace: Subspace) -> float:
    beyond = subspace.energies[_DIRECTIONS_ELSEWHERE:]
    total_energy = float(beyond.sum()) + subspace.rest_energy * (subspace.width - len(subspace.energies))
    rest_energy = total_energy / max(1, subspace.width - _DIRECTIONS_ELSEWHERE)
    if len(beyond):
        leading_energies = subspace.energies[:_DIRECTIONS_ELSEWHERE]
        subspace = Subspace(subspace.vectors[:_DIRECTIONS_ELSEWHERE], leading_energies, rest_energy)
    return float(_gain(directions[:_ROWS_ELSEWHERE], subspace, np.arange(subspace.width)[None])[0])


def _halves(
    sides: Sequence[_TestedSide],
    correlations: Sequence[tuple[float, float]],
    elsewhere: Mapping[Side, Mapping[tuple[str, int], float]],
    subspaces: ActivationSubspaces,
) -> Halves:
    gains: dict[Side, dict[str, Array]] = {"in": {}, "out": {}}
    for tested in sides:
        gains[tested.directions.side][tested.module_path] = tested.gain
    layers: list[int] = []
    layer_gains = np.zeros((0, 0))
    for side, side_gains in gains.items():
        spreads = {module_path: float(gain[1:].std(ddof=1)) for module_path, gain in side_gains.items()}
        side_layers, side_table = layer_table(elsewhere[side], spreads)
        if layer_gains.size and side_layers != layers:
            continue
        layers, layer_gains = side_layers, side_table + layer_gains if layer_gains.size else side_table
    return Halves(
        inputs=_combined(list(gains["in"].values())),
        outputs=_combined(list(gains["out"].values())),
        tested=len(gains["out"]),
        correlation=combined_z([correlation for correlation, _ in correlations]),
        null_correlation=combined_z([null_correlation for _, null_correlation in correlations]),
        correlated_pairs=len(correlations),
        permutation=find_layer_permutation(layers, layer_gains),
        outlier_layers=subspaces.outlier_layers,
    )


def _updates(
    adapter: RawAdapter, tensor_map: TensorMap, subspaces: ActivationSubspaces
) -> Iterator[tuple[str, dict[Side, Array], float, tuple[float, float] | None]]:
    """(path, singular rows of the update: right [k, in] and left [k, out], norm of the scaled update, correlation of
    its factors) of each module that can be tested. Squared norms of the rows are the singular values, as shares of
    their sum."""
    if adapter.weights is None:
        return
    for factors in tensor_map.pairs:
        inputs, outputs = subspaces.inputs.get(factors.path), subspaces.outputs.get(factors.path)
        shape_a, shape_b = tensor_map.shape(factors.a), tensor_map.shape(factors.b)
        if factors.embedding or inputs is None or outputs is None or len(shape_a) != 2 or len(shape_b) != 2:
            continue
        if shape_a[0] != shape_b[1] or shape_a[1] != inputs.width or shape_b[0] != outputs.width:
            continue
        a_matrix = read_array(adapter.weights, tensor_map.tensors[factors.a])
        b_matrix = read_array(adapter.weights, tensor_map.tensors[factors.b])
        factorisation = _factorise(a_matrix, b_matrix)
        if factorisation is not None:
            directions, update_norm = factorisation
            scaled_norm = update_norm * _scaling(adapter, factors.path)
            yield factors.path, directions, scaled_norm, factor_correlation(a_matrix, b_matrix, inputs)


def _factorise(a: Array, b: Array) -> tuple[dict[Side, Array], float] | None:
    """a [r, in], b [out, r] -> singular rows of BA weighted by the roots of its singular values, and its norm."""
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return None
    try:
        b_basis, b_upper = np.linalg.qr(b.astype(np.float64))
        left_vectors, values, a_basis = np.linalg.svd(b_upper @ a.astype(np.float64), full_matrices=False)
    except np.linalg.LinAlgError:
        return None
    update_norm = float(np.sqrt(np.square(values).sum()))
    if not math.isfinite(update_norm) or update_norm <= 0:
        return None
    leading = (values > 1e-5 * values[0])[:_MAX_ROWS].nonzero()[0]
    weights = np.sqrt(values[leading] / values[leading].sum())[:, None]
    input_directions: Array = (a_basis[leading] * weights).astype(np.float32)
    output_directions: Array = ((b_basis @ left_vectors[:, leading]).T * weights).astype(np.float32)
    return {"in": input_directions, "out": output_directions}, update_norm


def _scaling(adapter: RawAdapter, module_path: str) -> float:
    if adapter.config is None:
        return math.nan
    try:
        return abs(adapter.config.scaling(module_path))
    except AdapterError:  # a pattern that is a regular expression
        return math.nan


def _gain(directions: Array, subspace: Subspace, orders: Permutations) -> Array:
    """[1 + shuffles] log of the rows' energy in the subspace over what rows of any direction have.

    Directions are weighted by the root of their energy: by the energy itself, one outlier dimension would decide.
    """
    weights = np.sqrt(subspace.energies)
    rest_weight = math.sqrt(max(0.0, subspace.rest_energy))
    mean_weight = (float(weights.sum()) + rest_weight * (subspace.width - len(weights))) / subspace.width
    gains = np.clip(weights - rest_weight, 0, None) / mean_weight
    weighted = (subspace.vectors * np.sqrt(gains)[:, None]).T  # [width, k]
    chunk_orders = max(1, _CHUNK // directions.size)
    energies = []
    for chunk_start in range(0, len(orders), chunk_orders):
        shuffled_rows = directions[:, orders[chunk_start : chunk_start + chunk_orders]]  # [rows, shuffles, width]
        energy = np.square(shuffled_rows.reshape(-1, subspace.width) @ weighted)
        energies.append(energy.reshape(len(directions), shuffled_rows.shape[1], -1).sum((0, 2)))
    log_energies: Array = np.log(np.concatenate(energies) + rest_weight / mean_weight + 1e-12).astype(np.float32)
    return log_energies


def _conclude(
    sides: Sequence[_TestedSide],
    halves: Halves,
    sizes: dict[str, float],
    pair_count: int,
    subspaces: ActivationSubspaces,
) -> Alignment:
    gains = [tested.gain for tested in sides]
    score, information = _combined(gains), module_agreement([tested.directions for tested in sides])
    decided: Decision = "undecided"
    if score >= MATCH:
        decided = "match"
    elif score < MISMATCH and information >= INFORMED:
        decided = "mismatch"
    gains_by_module: dict[str, list[Array]] = {}
    for tested in sides:
        gains_by_module.setdefault(tested.module_path, []).append(tested.gain)
    stream_gains = [tested.gain for tested in sides if tested.directions.axis == ""]
    return Alignment(
        score=score,
        p_true=_probability(score, information),
        information=information,
        effect=float(np.mean([gain[0] - gain[1:].mean() for gain in gains])) if gains else math.nan,
        modules={module_path: _combined(module_gains) for module_path, module_gains in gains_by_module.items()},
        sizes=sizes,
        tested=len(gains_by_module),
        pairs=pair_count,
        base=subspaces.base.name,
        decided=decided,
        halves=halves,
        form=subspaces.form,
        # Too few sides on the stream cannot tell that it was turned.
        stream=_combined(stream_gains) if len(stream_gains) >= _MIN_STREAM_SIDES else math.nan,
        inner=_combined([tested.gain for tested in sides if tested.directions.axis != ""]),
    )


def _probability(score: float, information: float) -> float:
    """By Bayes with even odds. Unrelated bases: standard normal. The right one: normal around what the information
    lets expect, and a score above that speaks for it no less, nor one below 0 less than 0 does."""
    if math.isnan(score):
        return 0.5
    informed = min(1.0, max(0.0, information) / INFORMED)
    expected = _MIN_EXPECTED * informed**2 + _MORE_EXPECTED * max(0.0, information)
    spread = math.hypot(1.0, expected / 4)
    reached = max(0.0, score)
    towards = -0.5 * (min(0.0, reached - expected) / spread) ** 2 - math.log(spread)
    against = -0.5 * reached**2
    return 1 / (1 + math.exp(max(-700.0, min(700.0, against - towards))))


# Scores on the right base are at least 6 where the modules agree, and grow with their agreement
# (docs/research/alignment.md).
_MIN_EXPECTED, _MORE_EXPECTED = 6.0, 0.6
