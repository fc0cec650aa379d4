"""Were A and B of a pair trained together? A correlation of their Gram matrices under the base's activations.

B begins at zero and grows by `δ (A x)ᵀ`, so its columns go together as the components of `A x` do over the base's
inputs x: the off-diagonal entries of BᵀB follow those of A C Aᵀ, where C is the inputs' covariance. Another run's B,
or an A that was drawn anew, knows nothing of that. (`numbers.factor_pairing` asks the same without a base, by A Aᵀ.)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lorica.vetting.base.activation_subspaces import Subspace

Array = NDArray[np.float32]
Floats = NDArray[np.float64]

# Fewer entries beside the diagonal than a rank of 4 has tell nothing.
MIN_RANK = 4
# Columns of B that are orthogonal were made so by a decomposition, which took away what is looked for.
_ORTHOGONAL = 0.02


def factor_correlation(a: Array, b: Array, inputs: Subspace) -> tuple[float, float] | None:
    """Fisher's z of a [rank, in] and b [out, rank], with this base's inputs and with inputs of no base (C = 1): 0 ± 1
    for halves that have nothing to do with each other; None where it cannot be told."""
    rank = len(a)
    if rank < MIN_RANK:
        return None
    directions = _unit(a.astype(np.float64))
    projected = directions @ inputs.vectors.T.astype(np.float64)
    # By the root of the energies, as everywhere: one outlier dimension is not to decide.
    rest_weight = float(np.sqrt(max(inputs.rest_energy, 0.0)))
    excess_weight = np.clip(np.sqrt(inputs.energies.astype(np.float64)) - rest_weight, 0, None)
    direction_gram = directions @ directions.T
    first = (projected * excess_weight) @ projected.T + rest_weight * direction_gram
    columns = _unit(b.T.astype(np.float64))
    second = columns @ columns.T
    upper = np.triu_indices(rank, 1)
    nonzero_pairs = (np.diag(second)[upper[0]] > 0) & (np.diag(second)[upper[1]] > 0)  # padded ranks are zero
    input_entries, column_entries = first[upper][nonzero_pairs], second[upper][nonzero_pairs]
    if len(input_entries) < 6 or float(np.sqrt(np.mean(column_entries**2))) < _ORTHOGONAL:
        return None
    scales = np.sqrt(np.maximum(np.diag(first), 1e-30))
    scaled_entries = input_entries / (scales[upper[0]] * scales[upper[1]])[nonzero_pairs]
    correlation = _fisher(scaled_entries, column_entries)
    null_correlation = _fisher(direction_gram[upper][nonzero_pairs], column_entries)
    return None if correlation is None or null_correlation is None else (correlation, null_correlation)


def _fisher(first: Floats, second: Floats) -> float | None:
    """Fisher's z of the correlation of two lists of entries; None where one of them is constant."""
    first, second = first - first.mean(), second - second.mean()
    length = float(np.linalg.norm(first) * np.linalg.norm(second))
    if length <= 0:
        return None
    correlation = float(np.clip(first @ second / length, -0.9999, 0.9999))
    return float(np.arctanh(correlation) * np.sqrt(len(first) - 3))


def combined_z(correlations: Sequence[float]) -> float:
    """Of all pairs of an adapter: 0 ± 1 where none were trained together."""
    return float(np.sum(correlations) / np.sqrt(len(correlations))) if correlations else float("nan")


def _unit(rows: Floats) -> Floats:
    row_norms = np.linalg.norm(rows, axis=1, keepdims=True)
    unit_rows: Floats = np.divide(rows, row_norms, out=np.zeros_like(rows), where=row_norms > 0)
    return unit_rows
