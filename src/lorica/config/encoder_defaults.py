"""Defaults that follow the base: an encoder is trained by other presets than a decoder, where none was chosen."""

from __future__ import annotations

from lorica.config.origins import Precedence, Setting, flatten
from lorica.config.presets import compose_presets

ENCODER_TOKENS = 512
"""Longest input of an encoder, in training and in use, unless it is set."""

_TRAINING_PRESETS = {"full": "classifier", "lora": "classifier_lora"}


def encoder_defaults(method: str) -> list[Setting]:
    """How an encoder is trained by a `training.method`: the presets of training and LoRA, as weak as default ones."""
    settings: list[Setting] = []
    for group, preset_name in (("training", _TRAINING_PRESETS[method]), ("lora", "all_linear")):
        preset_values = compose_presets({group: preset_name}).values_by_group[group]
        origin = f"preset {group}/{preset_name}, follows engine.name"
        settings += flatten({group: preset_values}, precedence=Precedence.PRESET, origin=origin, location=f"{origin}: ")
    return settings
