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
from lorica.adapters.header import DTYPE_BITS
from lorica.errors import AdapterError, LoricaError
from lorica.models.weight_files import weight_stamps
from lorica.vetting.base.stored_matrices import stored_matrices
from lorica.vetting.findings import Finding, finding

_MATRICES, _ROWS, _WINDOW = 12, 8, 32
_LEAST = 16  # values that are not zero; fewer of them tell nothing
# Different values among 32 that are not zero. Sound bases of the zoo have 32, rounded to 8 bits 29, to 4 bits 10.
FEW, SOME = 8, 16


def check_levels(base: Path) -> list[Finding]:
    """L333: a warning for 3 bits or fewer, a note for 4, to which adapters are usually trained. Nothing raises."""
    try:
        stamps = weight_stamps(base)
    except (LoricaError, OSError):
        return []
    found = levels(base, stamps)
    if found is None or found > SOME:
        return []
    seen = f"among {_WINDOW} weights of a row that are not zero there are {found:g} different ones in the median"
    facts = {"levels": found}
    if found > FEW:
        return [finding("L333", seen, expected="about 31", facts=facts, severity="note")]
    return [finding("L333", seen, expected="about 31", facts=facts)]


@functools.lru_cache(maxsize=8)
def levels(base: Path, _stamps: object = ()) -> float | None:
    """Different values in the median window of the layers' matrices; None where there are none to judge."""
    matrices = [
        each
        for path, each in stored_matrices(base).items()
        if locate_module(path).layer is not None and DTYPE_BITS[each.info.dtype] >= 16
    ]
    counts: list[int] = []
    try:
        for each in matrices[:: max(1, len(matrices) // _MATRICES)]:
            counts += [count for row in each.rows(_ROWS) if (count := _different(row))]
    except AdapterError:
        return None
    return float(np.median(counts)) if len(counts) >= _ROWS else None


def _different(row: Floats) -> int:
    """Different values among the first 32 that are not zero; 0 where there are too few."""
    left = row[row != 0][:_WINDOW]
    return len(np.unique(left)) if len(left) >= _LEAST else 0
