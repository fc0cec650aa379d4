"""Layers of a base model that are copies of its other layers, as depth up-scaling and "passthrough" merges make them
(https://arxiv.org/abs/2312.15166)."""

from __future__ import annotations

import hashlib
from pathlib import Path

from lorica.adapters.fingerprint import locate_module
from lorica.errors import LoricaError
from lorica.vetting.base.stored_matrices import stored_matrices

_ROWS = 2  # of each matrix; two layers that were trained share not one row of any


def repeated_layers(base_path: Path) -> dict[int, int]:
    """Layer -> the earlier layer that it is a copy of, by some rows of each of its matrices. Empty for a base that
    cannot be read."""
    digests: dict[int, hashlib._Hash] = {}
    informative: set[int] = set()
    try:
        for module_path, matrix in sorted(stored_matrices(base_path).items()):
            location = locate_module(module_path)
            if location.layer is not None and not location.in_modality_tower:
                rows = matrix.rows(_ROWS)
                digest = digests.setdefault(location.layer, hashlib.sha256())
                digest.update(repr(location.slot).encode() + rows.tobytes())
                if rows.any():  # layers of zeros are equal, and no copies
                    informative.add(location.layer)
    except LoricaError:
        return {}
    originals: dict[bytes, int] = {}
    copies: dict[int, int] = {}
    for layer, digest in sorted(digests.items()):
        original = originals.setdefault(digest.digest(), layer)
        if original != layer and layer in informative:
            copies[layer] = original
    return copies
