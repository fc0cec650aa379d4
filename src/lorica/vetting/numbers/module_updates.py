"""How large the update of each module is, and whether all its rank components are of use: from [r, r] products."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import numpy as np
import numpy.typing as npt

from lorica.adapters.config import AdapterConfig, lora_scaling
from lorica.vetting.numbers.scan import FactorProducts
from lorica.vetting.structure.target_spec import TargetSpec


class ModuleUpdate(msgspec.Struct, frozen=True, kw_only=True):
    """One module's update U = scale B A. norm: Frobenius. gain: root mean square of U x for an x of independent entries
    of size one. a_spread: A's rms times sqrt(3 in), 1 right after PEFT's initialisation. unused: components of no
    effect. repeated: whether two rows of A are the same. flat: components whose row of A or column of B is one value
    over and over.
    """

    rank: int
    scale: float
    norm: float
    gain: float
    a_spread: float
    unused: int
    repeated: bool
    flat: int


def module_update(a: FactorProducts, b: FactorProducts, scale: float) -> ModuleUpdate:
    """The update of one pair of equal ranks. scale: the factor of B A."""
    a_gram, b_gram = a.gram.astype(np.float64), b.gram.astype(np.float64)
    a_squares, b_squares = a_gram.diagonal(), b_gram.diagonal()
    update_norm = abs(scale) * float(np.sqrt(max((a_gram * b_gram).sum(), 0)))
    return ModuleUpdate(
        rank=len(a_gram),
        scale=scale,
        norm=update_norm,
        gain=update_norm / b.width**0.5,
        a_spread=float(np.sqrt(3 * a_squares.sum() / len(a_gram))),
        unused=int(np.count_nonzero((a_squares == 0) | (b_squares == 0))),
        repeated=_repeated(a_gram, a_squares),
        flat=_flat(a) + _flat(b),
    )


def _repeated(gram: npt.NDArray[np.float64], squares: npt.NDArray[np.float64]) -> bool:
    """Whether two of a matrix's rows point the same way, as near as float32 products can tell."""
    lengths = np.sqrt(np.where(squares > 0, squares, 1))
    cosines = np.abs(gram) / (lengths[:, None] * lengths)
    np.fill_diagonal(cosines, 0)
    return bool(cosines.max() > 1 - 3e-6)


def _flat(factor: FactorProducts) -> int:
    """How many components are one value over and over: there the square of the sum is as large as it can be."""
    squares = factor.gram.diagonal()
    largest = squares * factor.width
    is_flat = (factor.sums**2 > largest * (1 - 1e-5)) & (squares > 0)
    return int(np.count_nonzero(is_flat)) if factor.width >= 16 else 0


def scalings(config: AdapterConfig | None, modules: Iterable[str]) -> tuple[dict[str, float], bool]:
    """The factor of B A by module, and whether it is known for all: some expressions in patterns are not read, and an
    adapter without a config has no alpha; there the plain alpha / r stands, or 1."""
    if config is None:
        return dict.fromkeys(modules, 1.0), False
    target_spec = TargetSpec(config)
    scales = {module: target_spec.scaling(module) for module in modules}
    default_scale = lora_scaling(config.lora_alpha, config.r, rslora=config.use_rslora)
    factors = {module: default_scale if scale is None else scale for module, scale in scales.items()}
    return factors, None not in scales.values()
