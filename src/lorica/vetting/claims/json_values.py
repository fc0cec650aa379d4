"""Values of JSON documents that anybody may have written: of the type that is expected, or none."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def as_mapping(value: object) -> Mapping[str, Any]:
    """An object as it is, {} for anything else."""
    return value if isinstance(value, Mapping) else {}


def as_real(value: object) -> float | None:
    """A finite number as a float, None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None
