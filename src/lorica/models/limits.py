"""What a base model's config.json says of how much it can read, whatever its architecture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_POSITIONS = ("max_position_embeddings", "n_positions", "n_ctx", "max_sequence_length", "max_seq_len")


@dataclass(frozen=True)
class ModelLimits:
    """positions: tokens that the model can see at once. vocabulary: rows of its embedding. None where the config does
    not say."""

    positions: int | None
    vocabulary: int | None


def limits_of(raw: Mapping[str, Any]) -> ModelLimits:
    """From the content of a config.json."""
    inner = raw.get("text_config")
    sizes = {**inner, **raw} if isinstance(inner, dict) else raw
    named = (sizes.get(key) for key in _POSITIONS)
    positions = next((value for value in named if type(value) is int and value > 0), None)
    vocabulary = sizes.get("vocab_size")
    return ModelLimits(positions, vocabulary if type(vocabulary) is int and vocabulary > 0 else None)
