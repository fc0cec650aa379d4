"""Do a base's weights have only a few levels, though they are stored as floating point numbers?

Quantising to so many bits and back leaves that many different values in a group that shares a scale. A base that was
trained hardly has two equal ones among 32.
"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np

from lorica.adapters.arrays import Floats
from lorica.adapters.fingerprint import locate_module
from lorica.errors import LoricaError
from lorica.models.weight_files import weight_stamps
from lorica.vetting.base.stored_matrices import stored_matrices
from lorica.vetting.findings import Finding, Severity, finding

_MATRICES, _ROWS, _WINDOW = 12, 8, 32
_MIN_VALUES = 16  # values that are not zero; fewer of them tell nothing
# Different values among 32 that are not zero. Sound bases of the zoo have 32, rounded to 8 bits 29, to 4 bits 10.
FEW, SOME = 8, 16


def check_quantization_levels(base_folder: Path) -> list[Finding]:
    """L333: a warning for 3 bits or fewer, a note for 4, to which adapters are usually trained. Nothing raises."""
    try:
        stamps = weight_stamps(base_folder)
    except (LoricaError, OSError):
        return []
    level_count = quantization_levels(base_folder, stamps)
    if level_count is None or level_count > SOME:
        return []
    actual = (
        f"among {_WINDOW} weights of a row that are not zero there are {level_count:g} different ones in the median"
    )
    severity: Severity | None = "note" if level_count > FEW else None
    return [finding("L333", actual, facts={"levels": level_count}, severity=severity)]


@functools.lru_cache(maxsize=8)
def quantization_levels(base_folder: Path, _stamps: object = ()) -> float | None:
    """Different values in the median window of the layers' matrices; None where there are none to judge."""
    matrices = [
        matrix
        for module_path, matrix in stored_matrices(base_folder).items()
        if locate_module(module_path).layer is not None and matrix.bits >= 16
    ]
    counts: list[int] = []
    try:
        for matrix in matrices[:: max(1, len(matrices) // _MATRICES)]:
            counts += [level_count for weight_row in matrix.rows(_ROWS) if (level_count := _different(weight_row))]
    except LoricaError:
        return None
    return float(np.median(counts)) if len(counts) >= _ROWS else None


def _different(weight_row: Floats) -> int:
    """Different values among the first 32 that are not zero; 0 where there are too few."""
    nonzero = weight_row[weight_row != 0][:_WINDOW]
    return len(np.unique(nonzero)) if len(nonzero) >= _MIN_VALUES else 0
