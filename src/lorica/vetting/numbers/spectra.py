"""How large the update of each module is and how many directions it has, from [r, r] products alone.

The singular values of B A are the square roots of the eigenvalues of L^T (B^T B) L, where A A^T = L L^T.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import numpy as np
import numpy.typing as npt

from lorica.adapters.config import AdapterConfig
from lorica.vetting.structure.target_spec import TargetSpec

Matrices = npt.NDArray[np.float64]


class UpdateSpectrum(msgspec.Struct, frozen=True):
    """One module's update U = scale B A. norm: Frobenius. spectral: its largest singular value. gain: root mean square
    of U x for an x of independent entries of size one. effective_rank: exp of the entropy of the singular values.
    stable_rank: (norm / spectral)^2. a_spread: A's rms times sqrt(3 in), 1 right after PEFT's initialisation.
    b_rms: rms of B's values. unused: components of no effect. repeated: whether two rows of A are the same.
    flat: components whose row of A or column of B is one value over and over.
    """

    rank: int
    shape: tuple[int, int]
    scale: float
    norm: float
    spectral: float
    gain: float
    effective_rank: float
    stable_rank: float
    a_spread: float
    b_rms: float
    unused: int
    repeated: bool
    flat: int


class GramPair(msgspec.Struct):
    """What `measure` needs of a module. a, b: A A^T and B^T B, [r, r]. shape: (out, in). scale: the factor of B A."""

    path: str
    a: npt.NDArray[np.float32]
    b: npt.NDArray[np.float32]
    shape: tuple[int, int]
    scale: float
    flat: int = 0


def update_spectra(pairs: list[GramPair]) -> dict[str, UpdateSpectrum]:
    """The modules, by path; all of one rank."""
    a = np.stack([pair.a for pair in pairs]).astype(np.float64)
    b = np.stack([pair.b for pair in pairs]).astype(np.float64)
    scales = np.abs(np.array([pair.scale for pair in pairs]))
    rank = a.shape[1]
    values = _singular_values(a, b) * scales[:, None]
    # The trace is exact where the root of an eigenvalue near zero is not.
    norms = np.sqrt(np.maximum((a * b).sum(axis=(1, 2)), 0)) * scales
    rows, columns = np.einsum("mii->mi", a), np.einsum("mii->mi", b)
    total = values.sum(axis=1, keepdims=True)
    shares = values / np.where(total > 0, total, 1)
    effective = np.exp(-(shares * np.log(np.where(shares > 0, shares, 1))).sum(axis=1))
    repeated = _repeated(a, rows)
    measures = {}
    for i, pair in enumerate(pairs):
        norm = float(norms[i])
        spectral = min(float(values[i].max()), norm)
        measures[pair.path] = UpdateSpectrum(
            rank=rank,
            shape=pair.shape,
            scale=pair.scale,
            norm=norm,
            spectral=spectral,
            gain=norm / pair.shape[0] ** 0.5,
            effective_rank=float(effective[i]) if spectral > 0 else 0.0,
            stable_rank=(norm / spectral) ** 2 if spectral > 0 else 0.0,
            a_spread=float(np.sqrt(3 * rows[i].sum() / rank)),
            b_rms=float(np.sqrt(columns[i].sum() / (rank * pair.shape[0]))),
            unused=int(((rows[i] == 0) | (columns[i] == 0)).sum()),
            repeated=bool(repeated[i]),
            flat=pair.flat,
        )
    return measures


def _repeated(grams: Matrices, squares: Matrices) -> npt.NDArray[np.bool_]:
    """[m] whether two of a matrix's rows point the same way, as near as float32 products can tell."""
    lengths = np.sqrt(np.where(squares > 0, squares, 1))
    cosines = np.abs(grams) / (lengths[:, :, None] * lengths[:, None, :])
    diagonal = np.arange(grams.shape[1])
    cosines[:, diagonal, diagonal] = 0
    repeated: npt.NDArray[np.bool_] = cosines.max(axis=(1, 2)) > 1 - 3e-6
    return repeated


def _singular_values(a: Matrices, b: Matrices) -> Matrices:
    """[m, r] of B A for each of m pairs of Gram matrices [m, r, r], ascending."""
    rank = a.shape[1]
    # The products were made in float32: below a millionth of the trace there is nothing to know.
    floor = 1e-7 * np.einsum("mii->m", a)[:, None, None] + 1e-300
    try:
        lower = np.linalg.cholesky(a + floor * np.eye(rank))
        squares = np.linalg.eigvalsh(lower.transpose(0, 2, 1) @ b @ lower)
    except np.linalg.LinAlgError:
        return np.zeros(a.shape[:2])  # overflow; the tensors' own findings say so
    values: Matrices = np.sqrt(np.maximum(squares, 0))
    return values


def scalings(config: AdapterConfig | None, modules: Iterable[str]) -> tuple[dict[str, float], bool]:
    """The factor of B A by module, and whether it is known for all: some expressions in patterns are not read, and an
    adapter without a config has no alpha; there the plain alpha / r stands, or 1."""
    if config is None:
        return dict.fromkeys(modules, 1.0), False
    spec = TargetSpec(config)
    known = {module: spec.scaling(module) for module in modules}
    plain = config.lora_alpha / (config.r**0.5 if config.use_rslora else config.r)
    factors = {module: plain if factor is None else factor for module, factor in known.items()}
    return factors, None not in known.values()
