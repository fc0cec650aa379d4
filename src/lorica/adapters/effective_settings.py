"""What an `adapter_config.json` says that decides something, as a passport keeps it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lorica.adapters.config import AdapterConfig

_BASE_NAME = "base_model_name_or_path"


def effective_settings(raw_config: Mapping[str, Any]) -> dict[str, Any]:
    """A config's values as a passport keeps them: PEFT's defaults filled in, nothing that is null, false or empty,
    lists of names sorted, and of a path of the base model the last part."""
    defaults = {name: getattr(AdapterConfig(), name) for name in AdapterConfig.__struct_fields__ if name != "other"}
    settings = {
        key: value for key, value in {**defaults, **raw_config}.items() if value not in (None, False, "", [], {})
    }
    for option_key in ("target_modules", "exclude_modules", "modules_to_save"):
        option_value = settings.get(option_key)
        if isinstance(option_value, list) and all(isinstance(target_name, str) for target_name in option_value):
            settings[option_key] = sorted(option_value)
    if isinstance(settings.get(_BASE_NAME), str):
        settings[_BASE_NAME] = plain_name(settings[_BASE_NAME])
    return settings


def plain_name(model_name: str) -> str:
    """A base model as it may be written down: an id stays, of a path only the last part, which is no secret."""
    looks_like_path = model_name.startswith((".", "~", "/", "\\")) or model_name.count("/") > 1 or "\\" in model_name
    return Path(model_name.replace("\\", "/").rstrip("/")).name if looks_like_path else model_name
