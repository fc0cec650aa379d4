"""Values of JSON documents that anybody may have written: of the type that is expected, or none."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lorica.adapters.registry import TRAINING_RECORD


def as_mapping(json_value: object) -> Mapping[str, Any]:
    """An object as it is, {} for anything else."""
    return json_value if isinstance(json_value, Mapping) else {}


def training_manifest(documents: Mapping[str, Any]) -> Mapping[str, Any]:
    """What `lorica train` says in training.json of its config and its files, {} without it."""
    return as_mapping(as_mapping(documents.get(TRAINING_RECORD)).get("manifest"))


def as_real(json_value: object) -> float | None:
    """A finite number as a float, None for anything else."""
    if isinstance(json_value, bool) or not isinstance(json_value, int | float):
        return None
    try:
        return float(json_value) if math.isfinite(json_value) else None
    except OverflowError:
        return None
