"""Do the two halves of each pair belong together? A test on the weights alone, with numpy.

Gradient descent on B A changes A A^T and B^T B by the same amount, so their difference stays what it was at the start
(the "balancedness" of deep linear networks, Arora et al. 2018, https://arxiv.org/abs/1802.06509): B^T B starts at 0 and
A A^T near a multiple of the identity, so after training the off-diagonal entries of the two r x r matrices go together,
also with Adam. Halves of different modules, or of different adapters, have nothing to do with each other.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from lorica.adapters.arrays import read_array
from lorica.adapters.layout import Factors, Layout

Floats = NDArray[np.float64]

# Fewer entries beside the diagonal than a rank of 6 has tell nothing.
LEAST_RANK = 6
# So many standard deviations (of Fisher's z) chance does not reach, even among all pairs of some hundred modules; a
# stranger must be so much better than the own partner to be believed.
TELLING, BETTER = 5.5, 3.0


class Partners(msgspec.Struct, frozen=True):
    """judged: pairs of sufficient rank. own: median correlation of the halves of one pair. torn: modules whose half
    goes together clearly better with another module's -> that module. others: median correlation of those new pairs.
    """

    judged: int
    own: float
    torn: dict[str, str]
    others: float


def find_partners(weights: Path, layout: Layout) -> Partners:
    """Compare every A with every B of the same rank. Raises AdapterError for a tensor that cannot be read."""
    by_rank: dict[int, list[Factors]] = defaultdict(list)
    for factors in layout.pairs:
        a, b = layout.shape(factors.a), layout.shape(factors.b)
        if len(a) == 2 and len(b) == 2 and a[0] == b[1] and a[0] >= LEAST_RANK:
            by_rank[a[0]].append(factors)
    own: list[float] = []
    others: list[float] = []
    torn: dict[str, str] = {}
    for members in by_rank.values():
        left = np.stack([_beside(read_array(weights, layout.tensors[each.a]), rows=True) for each in members])
        right = np.stack([_beside(read_array(weights, layout.tensors[each.b]), rows=False) for each in members])
        table = left @ right.T  # [modules, modules]: correlation of A's matrix with B's
        own += np.diag(table).tolist()
        sure = np.arctanh(np.clip(table, -0.9999, 0.9999)) * np.sqrt(left.shape[1] - 3)
        for index, each in enumerate(members):
            best = int(table[index].argmax())
            # Both must prefer each other, and clearly: chance alone has a best partner, too.
            mutual = int(table[:, best].argmax()) == index
            if best != index and mutual and sure[index, best] > max(TELLING, sure[index, index] + BETTER):
                torn[each.path] = members[best].path
                others.append(float(table[index, best]))
    return Partners(
        judged=len(own),
        own=float(np.median(own)) if own else float("nan"),
        torn=torn,
        others=float(np.median(others)) if others else float("nan"),
    )


def _beside(factor: NDArray[np.float32], *, rows: bool) -> Floats:
    """The entries beside the diagonal of A A^T (rows) or B^T B, centred and of length 1; zeros where undefined."""
    with np.errstate(invalid="ignore"):  # some patterns of NaN cannot be widened silently
        values = np.nan_to_num(factor.astype(np.float64), posinf=0.0, neginf=0.0)
    scale = np.abs(values).max()
    values = values / scale if scale > 0 else values
    gram = values @ values.T if rows else values.T @ values
    entries = gram[np.triu_indices(len(gram), 1)]
    entries = entries - entries.mean()
    length = np.linalg.norm(entries)
    return np.asarray(entries / length if length > 0 else np.zeros_like(entries))
