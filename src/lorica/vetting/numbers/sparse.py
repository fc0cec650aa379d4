"""Were most numbers of the factors dropped, and the rest left as they were? (DARE on factors without its rescaling.)

Training leaves no zeros scattered over both halves of a pair. Where they were dropped on purpose, what is left is made
larger by as much; lora_A, which begins between -1/√in and 1/√in and moves little, shows whether that was done.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lorica.adapters.arrays import Floats, TensorReader
from lorica.adapters.tensor_map import TensorMap
from lorica.vetting.findings import Finding, finding
from lorica.vetting.numbers.scan import TensorFacts

_TYPES = ("F32", "BF16", "F16")  # coarser ones round small values to zero
# Of both halves; what is dropped to any use is more than half, and at all zeros nothing can be said.
_MIN_ZERO_SHARE, _MAX_ZERO_SHARE = 0.5, 0.995
_MAX_PAIRS = 8  # pairs that are looked into, spread evenly
_MAX_VALUES = 16 * 1024 * 1024
# lora_A's size over that of its start. Scaled up for a half that was dropped it is 2, or at least its root; where the
# largest numbers were kept, which needs no scaling, 1.3 for a half and 1.6 for a tenth.
_AS_STARTED = (0.3, 1.2)


def check_sparse(weights: Path, tensor_map: TensorMap, tensor_facts: dict[str, TensorFacts]) -> list[Finding]:
    """L224. Raises AdapterError when the file cannot be read."""
    pairs = [module for module in tensor_map.pairs if not module.embedding]
    sparse = [pair for pair in pairs if _is_sparse(tensor_facts[pair.a]) and _is_sparse(tensor_facts[pair.b])]
    if len(sparse) < 2 or len(sparse) < 0.8 * len(pairs):
        return []
    shares, sizes = [], []
    with TensorReader(weights) as reader:
        for module in sparse[:: max(1, len(sparse) // _MAX_PAIRS)]:
            a_matrix, b_matrix = reader.read(tensor_map.tensors[module.a]), reader.read(tensor_map.tensors[module.b])
            shares += [min(_scattered(a_matrix), _scattered(b_matrix.T))]
            sizes += [_size(a_matrix)]
    median_share, median_size = float(np.median(shares)), float(np.median(sizes))
    if median_share < _MIN_ZERO_SHARE:
        return []
    unscaled = _AS_STARTED[0] <= median_size <= _AS_STARTED[1]
    remainder = "have the size that training starts with" if unscaled else f"are {median_size:.2g} times as large"
    actual = f"{median_share:.0%} of the numbers in both halves of {len(sparse)} pairs are zero, "
    actual += f"here and there; the others {remainder}"
    facts = {"share": round(median_share, 4), "size": round(median_size, 4), "pairs": len(sparse)}
    return [finding("L224", actual, facts=facts, severity="warn" if unscaled else "note")]


def _is_sparse(tensor: TensorFacts) -> bool:
    suitable = tensor.info.dtype in _TYPES and len(tensor.info.shape) == 2 and 64 <= tensor.count <= _MAX_VALUES
    return suitable and not tensor.broken and _MIN_ZERO_SHARE <= tensor.zeros / tensor.count <= _MAX_ZERO_SHARE


def _scattered(rows: Floats) -> float:
    """[rank, width] -> share of zeros in those rows that are not zero as a whole: padded ranks are."""
    nonzero_rows = rows[np.any(rows != 0, axis=1)]
    return float((nonzero_rows == 0).mean()) if nonzero_rows.size else 0.0


def _size(a: Floats) -> float:
    """The spread of lora_A's other numbers over that of PEFT's start, 1/√(3 in)."""
    nonzero = a[a != 0].astype(np.float64)
    return float(np.sqrt(np.mean(np.square(nonzero))) * np.sqrt(3 * a.shape[1])) if nonzero.size else 0.0
