"""Copies of an adapter under another config, with the same weights: to ask what its scale does."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import msgspec

from lorica.adapters.config import CONFIG_NAME, AdapterConfig
from lorica.adapters.folder import WEIGHTS_NAME
from lorica.errors import AdapterError

# Stands for a scale of nothing: no config may say alpha 0, and in no precision does this much of it add anything.
_NOTHING = 1e-30


def scaled_config(config: AdapterConfig, scale_multiplier: float) -> AdapterConfig:
    """The config with every update multiplied by `scale_multiplier` (0 or more): lora_alpha and alpha_pattern,
    ranks untouched.

    rsLoRA stays what it is, for both its scalings are proportional to alpha. What is not scaled by alpha stays, too:
    DoRA's magnitudes, biases and whole modules. Raises ValueError for a negative factor.
    """
    if scale_multiplier < 0:
        raise ValueError(f"the factor {scale_multiplier} is negative")
    scale_factor = scale_multiplier or _NOTHING
    return msgspec.structs.replace(
        config,
        lora_alpha=config.lora_alpha * scale_factor,
        alpha_pattern={key: module_alpha * scale_factor for key, module_alpha in config.alpha_pattern.items()},
    )


def write_variant(target: Path, config: AdapterConfig, weights: Path) -> None:
    """Make the folder `target` an adapter of this config and these weights, which are linked, not copied, if possible.

    target: must not exist. Raises AdapterError when it cannot be written.
    """
    try:
        target.mkdir(parents=True)
        (target / CONFIG_NAME).write_bytes(config.to_json())
        _link(weights.resolve(), target / WEIGHTS_NAME)
    except OSError as error:
        raise AdapterError(f"{target}: cannot be written ({error.strerror})") from error


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        try:
            target.symlink_to(source)
        except OSError:
            shutil.copyfile(source, target)
