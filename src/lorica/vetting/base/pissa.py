"""Is the update a part of the base's own weight? PiSSA's and OLoRA's adapters hold that part until they are converted.

They start with the largest part P of each weight W, leave W - P in the base, and train P. On the whole base P counts
twice. P is orthogonal to W - P, so that <P, W> = <P, P>: along itself, W holds the update just once. An update that
training alone made is hardly like the weight it is added to.
"""

from __future__ import annotations

import math

import numpy as np

from lorica.adapters.arrays import Floats, TensorReader
from lorica.adapters.raw_adapter import RawAdapter
from lorica.adapters.tensor_map import TensorMap
from lorica.errors import AdapterError
from lorica.vetting.base.stored_matrices import StoredMatrix
from lorica.vetting.findings import Finding, finding

_MAX_MODULES, _MIN_MODULES = 8, 2  # modules that are looked at, spread evenly, and how few of them tell nothing
_MAX_VALUES = 1 << 26
# Of the median module: cosine of update and weight (of the zoo's 22 adapters at most 0.011), and how often the weight
# holds the update: once, and less where training added to it.
ALIKE, HELD = 0.1, (0.4, 1.5)


def check_pissa(adapter: RawAdapter, tensor_map: TensorMap, weights: dict[str, StoredMatrix]) -> list[Finding]:
    """L327. Nothing raises: files that cannot be read are named by other checks."""
    try:
        measured = weight_similarity(adapter, tensor_map, weights)
    except AdapterError:
        return []
    if len(measured) < _MIN_MODULES:
        return []
    cosine, held_share = map(float, np.median(measured, axis=0))
    if cosine < ALIKE or not HELD[0] <= held_share <= HELD[1]:
        return []
    actual = f"in the median of {len(measured)} modules the update is like the base's own weight "
    actual += f"(cosine {cosine:.2f}), which holds it {held_share:.2f} times"
    facts = {"cosine": round(cosine, 4), "held": round(held_share, 4), "modules": len(measured)}
    return [finding("L327", actual, facts=facts)]


def weight_similarity(
    adapter: RawAdapter, tensor_map: TensorMap, weights: dict[str, StoredMatrix]
) -> list[tuple[float, float]]:
    """(cosine of update and weight, <update, weight> / <update, update>) of some modules. Raises AdapterError."""
    if adapter.weights is None or adapter.config is None:
        return []
    measured = []
    fitting = [module for module in tensor_map.pairs if not module.embedding and module.path in weights]
    with TensorReader(adapter.weights) as reader:
        for module in fitting[:: max(1, len(fitting) // _MAX_MODULES)]:
            weight = weights[module.path]
            update_shape = tensor_map.shape(module.b)[:1] + tensor_map.shape(module.a)[1:]
            if update_shape != weight.shape or math.prod(weight.shape) > _MAX_VALUES:
                continue
            a_matrix, b_matrix = reader.read(tensor_map.tensors[module.a]), reader.read(tensor_map.tensors[module.b])
            if len(a_matrix) == b_matrix.shape[1]:
                measured += _measured(a_matrix, b_matrix, weight.whole(), adapter.config.scaling(module.path))
    return measured


def _measured(a: Floats, b: Floats, weight: Floats, scale: float) -> list[tuple[float, float]]:
    with np.errstate(all="ignore"):
        together = scale * float(np.sum((weight @ a.T) * b, dtype=np.float64))
        square = scale**2 * float(np.sum((b.T @ b) * (a @ a.T), dtype=np.float64))
        length = math.sqrt(max(square, 0.0)) * float(np.linalg.norm(weight))
    if not (math.isfinite(together) and math.isfinite(length)) or length <= 0:
        return []
    return [(together / length, together / square)]
