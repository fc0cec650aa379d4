"""Were the two halves of a pair trained together? Told with the base's activations.

B begins at zero and grows by `δ (A x)ᵀ`, so its columns go together as the components of `A x` do over the base's
inputs x: the off-diagonal entries of BᵀB follow those of A C Aᵀ, where C is the inputs' covariance. Another run's B,
or an A that was drawn anew, knows nothing of that. (`numbers.partners` asks the same without a base, by A Aᵀ.)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lorica.vetting.base.activation_subspaces import Subspace

Array = NDArray[np.float32]
Floats = NDArray[np.float64]

# Fewer entries beside the diagonal than a rank of 4 has tell nothing.
LEAST_RANK = 4
# Columns of B that stand upright on each other were made so by a decomposition, which took away what is looked for.
_UPRIGHT = 0.02


def bond(a: Array, b: Array, inputs: Subspace) -> tuple[float, float] | None:
    """Fisher's z of a [rank, in] and b [out, rank], with this base's inputs and with inputs of no base (C = 1): 0 ± 1
    for halves that have nothing to do with each other; None where it cannot be told."""
    rank = len(a)
    if rank < LEAST_RANK:
        return None
    used = _unit(a.astype(np.float64))
    told = used @ inputs.vectors.T.astype(np.float64)
    # By the root of the energies, as everywhere: one outlier dimension is not to decide.
    rest = float(np.sqrt(max(inputs.rest, 0.0)))
    extra = np.clip(np.sqrt(inputs.energies.astype(np.float64)) - rest, 0, None)
    alone = used @ used.T
    first = (told * extra) @ told.T + rest * alone
    columns = _unit(b.T.astype(np.float64))
    second = columns @ columns.T
    places = np.triu_indices(rank, 1)
    live = (np.diag(second)[places[0]] > 0) & (np.diag(second)[places[1]] > 0)  # padded ranks are zero
    one, two = first[places][live], second[places][live]
    if len(one) < 6 or float(np.sqrt(np.mean(two**2))) < _UPRIGHT:
        return None
    scales = np.sqrt(np.maximum(np.diag(first), 1e-30))
    known, free = (
        _fisher(own, two) for own in (one / (scales[places[0]] * scales[places[1]])[live], alone[places][live])
    )
    return None if known is None or free is None else (known, free)


def _fisher(one: Floats, two: Floats) -> float | None:
    """Fisher's z of the correlation of two lists of entries; None where one of them is constant."""
    one, two = one - one.mean(), two - two.mean()
    length = float(np.linalg.norm(one) * np.linalg.norm(two))
    if length <= 0:
        return None
    correlation = float(np.clip(one @ two / length, -0.9999, 0.9999))
    return float(np.arctanh(correlation) * np.sqrt(len(one) - 3))


def together(bonds: Sequence[float]) -> float:
    """Of all pairs of an adapter: 0 ± 1 where none were trained together."""
    return float(np.sum(bonds) / np.sqrt(len(bonds))) if bonds else float("nan")


def _unit(rows: Floats) -> Floats:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    found: Floats = np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0)
    return found
