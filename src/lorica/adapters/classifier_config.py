"""What the `config.json` of a folder says: is it an encoder classifier, or a base alone?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lorica.adapters.json_document import read_capped, read_object
from lorica.encoder_families import ENCODER_FAMILIES, encoder_family
from lorica.errors import AdapterError

MODEL_CONFIG, MODEL_WEIGHTS = "config.json", "model.safetensors"
_MAX_CONFIG_BYTES = 4 * 1024 * 1024


def claims_head(config: Mapping[str, Any]) -> bool:
    """Whether a `config.json` is of an encoder that classifies, and not of a base alone."""
    architectures = config.get("architectures")
    names = architectures if isinstance(architectures, list) else []
    classifies = any(isinstance(name, str) and name.endswith("ForSequenceClassification") for name in names)
    return classifies and encoder_family(config.get("model_type")) is not None


def is_classifier(folder: Path) -> bool:
    """Whether there is a `config.json` in a folder, and it is a classifier's."""
    if not (folder / MODEL_CONFIG).is_file():
        return False
    try:
        return claims_head(read_model_config(folder))
    except AdapterError:
        return False


def refuse_no_classifier(folder: Path) -> None:
    """Raise AdapterError, saying why, where a folder's `config.json` is of no encoder that classifies; pass where there
    is no such file."""
    if not (folder / MODEL_CONFIG).is_file():
        return
    config = read_model_config(folder)
    if encoder_family(config.get("model_type")) is None:
        raise unknown_encoder(folder, config)
    if not claims_head(config):
        raise AdapterError(
            f"{folder}: its config.json is of {config.get('architectures')}, which has no head to classify with",
            fix="train one on it with `lorica train`, or give the folder of a ...ForSequenceClassification",
        )


def unknown_encoder(folder: Path, config: Mapping[str, Any]) -> AdapterError:
    """The error for a model of another family."""
    return AdapterError(
        f"{folder}: model_type {config.get('model_type')!r} is no encoder that Lorica classifies with; it knows "
        f"{', '.join(ENCODER_FAMILIES)}",
        fix="use a classifier of one of these families",
    )


def read_model_config(folder: Path, config_name: str = MODEL_CONFIG) -> dict[str, Any]:
    """The object in a folder's `config.json`, or another config. Raises AdapterError for what is no object."""
    config_path = folder / config_name
    try:
        config_bytes = read_capped(config_path, _MAX_CONFIG_BYTES + 1)
    except OSError as error:
        fix = "name the folder that holds it"
        raise AdapterError(f"{config_path}: cannot be read ({error.strerror})", fix=fix) from error
    config, problems = read_object(config_bytes, _MAX_CONFIG_BYTES)
    if config is None or problems:
        raise AdapterError(f"{config_path}: {problems[0].message}", fix=problems[0].fix)
    return config
