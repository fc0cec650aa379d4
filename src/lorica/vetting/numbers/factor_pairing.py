"""Do the two halves of each pair belong together? A test on the weights alone, with numpy.

Gradient descent on B A changes A A^T and B^T B by the same amount, so their difference stays what it was at the start
(the "balancedness" of deep linear networks, Arora et al. 2018, https://arxiv.org/abs/1802.06509): B^T B starts at 0 and
A A^T near a multiple of the identity, so after training the off-diagonal entries of the two r x r matrices go together,
also with Adam. Halves of different modules, or of different adapters, have nothing to do with each other.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from lorica.vetting.findings import Finding, finding
from lorica.vetting.numbers.scan import FactorProducts
from lorica.vetting.wording import shown

Floats = NDArray[np.floating[Any]]

# Fewer entries beside the diagonal than a rank of 6 has tell nothing.
MIN_RANK = 6
# So many standard deviations (of Fisher's z) chance does not reach, even among all pairs of some hundred modules; a
# stranger must be so much better than the own partner to be believed.
TELLING, BETTER = 5.5, 3.0
# Halves change places by two at least. In no healthy adapter of the zoo was there one.
MIN_MISMATCHED = 2
_COPY = 0.999
# Of the cosines that rows drawn at random would have. Rows nearer to orthogonal are singular vectors (a compressed
# update, an unchanged orthogonal start): beside the diagonal is rounding, largest in the same entries everywhere.
_ORTHOGONAL = 0.1
_MAX_ENTRIES = 4096  # of one Gram matrix, so that a thousand modules of high rank take little memory


class FactorPairing(msgspec.Struct, frozen=True):
    """Which A belongs to which B. pairs: of sufficient rank. own_correlation: median, of the halves of one pair.
    mismatched: modules whose half goes together clearly better with another module's -> that module.
    mismatched_correlation: median, of those new pairs. Each median is 0 of none."""

    pairs: int
    own_correlation: float
    mismatched: dict[str, str]
    mismatched_correlation: float


class GramMatrices:
    """The Gram matrices of pairs as they come, as far as they are needed."""

    def __init__(self) -> None:
        self._by_rank: dict[int, list[tuple[str, Floats, Floats]]] = defaultdict(list)

    def add(self, module_path: str, a: FactorProducts, b: FactorProducts) -> None:
        """a: of A, b: of Bᵀ."""
        if len(a.gram) == len(b.gram) >= MIN_RANK:
            entries = _off_diagonal(a.gram, a.width), _off_diagonal(b.gram, b.width)
            self._by_rank[len(a.gram)].append((module_path, *entries))

    def pairing(self) -> FactorPairing:
        """Compare every A with every B of the same rank."""
        own_correlations: list[float] = []
        new_correlations: list[float] = []
        mismatched: dict[str, str] = {}
        for members in self._by_rank.values():
            a_grams = np.stack([a_gram for _, a_gram, _ in members]).astype(np.float64)
            b_grams = np.stack([b_gram for _, _, b_gram in members]).astype(np.float64)
            correlations = a_grams @ b_grams.T  # [modules, modules]: correlation of A's matrix with B's
            own_correlations += np.diag(correlations).tolist()
            for index, best in _mismatched(correlations, a_grams, b_grams):
                mismatched[members[index][0]] = members[best][0]
                new_correlations.append(float(correlations[index, best]))
        return FactorPairing(
            pairs=len(own_correlations),
            own_correlation=float(np.median(own_correlations)) if own_correlations else 0.0,
            mismatched=mismatched,
            mismatched_correlation=float(np.median(new_correlations)) if new_correlations else 0.0,
        )


def _mismatched(correlations: Floats, a_grams: Floats, b_grams: Floats) -> Iterator[tuple[int, int]]:
    z_scores = np.arctanh(np.clip(correlations, -0.9999, 0.9999)) * np.sqrt(a_grams.shape[1] - 3)
    for index in range(len(correlations)):
        best = int(correlations[index].argmax())
        # Both must prefer each other, and clearly: chance alone has a best partner, too.
        mutual = int(correlations[:, best].argmax()) == index
        if best == index or not mutual or z_scores[index, best] <= max(TELLING, z_scores[index, index] + BETTER):
            continue
        # Modules that were trained fused share A, and all B of one A go with each of its copies.
        if float(a_grams[index] @ a_grams[best]) < _COPY and float(b_grams[index] @ b_grams[best]) < _COPY:
            yield index, best


def check_factor_pairing(pairing: FactorPairing) -> list[Finding]:
    """A finding where halves stand in each other's places."""
    if len(pairing.mismatched) < MIN_MISMATCHED:
        return []
    module, partner = next(iter(pairing.mismatched.items()))
    actual = f"in {len(pairing.mismatched)} of {pairing.pairs} pairs lora_A belongs to the lora_B of another module: "
    actual += f"that of {shown(module)} to {shown(partner)}, for one"
    return [finding("L222", actual, facts={"torn": len(pairing.mismatched), "judged": pairing.pairs})]


def _off_diagonal(gram: NDArray[Any], width: int) -> Floats:
    """The entries beside the diagonal, centred and of length 1; zeros where undefined, and of orthogonal rows. Of large
    ranks a part. width: numbers in a row of the factor.
    """
    rows, columns = np.triu_indices(len(gram), 1)
    stride = -(-len(rows) // _MAX_ENTRIES)
    rows, columns = rows[::stride], columns[::stride]
    entries = np.nan_to_num(gram[rows, columns].astype(np.float64), posinf=0.0, neginf=0.0)
    squares = np.diagonal(gram).astype(np.float64)
    bounds = np.nan_to_num(np.sqrt(squares[rows] * squares[columns]))
    if np.linalg.norm(entries) <= _ORTHOGONAL / math.sqrt(width) * np.linalg.norm(bounds):
        return np.zeros(len(entries), np.float32)
    entries = entries / np.abs(entries).max()
    entries = entries - entries.mean()
    length = np.linalg.norm(entries)
    return np.asarray(entries / length if length > 0 else np.zeros_like(entries), dtype=np.float32)
