"""What a passport says of an adapter's own files, and how files differ from what one says."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lorica.adapters.config import CONFIG_NAME, AdapterConfig
from lorica.adapters.folder import AdapterFolder
from lorica.adapters.header import Header, read_header
from lorica.adapters.passport import AdapterFacts
from lorica.errors import AdapterError

# Settings without which the result is another; the others are for training, for tools, or for people.
DECISIVE = (
    "peft_type", "r", "lora_alpha", "use_rslora", "use_dora", "target_modules", "exclude_modules", "modules_to_save",
    "rank_pattern", "alpha_pattern", "layers_to_transform", "layers_pattern", "bias", "fan_in_fan_out", "lora_bias",
    "layer_replication", "trainable_token_indices", "target_parameters",
)  # fmt: skip
_BASE_NAME = "base_model_name_or_path"


def adapter_facts(adapter: AdapterFolder) -> AdapterFacts:
    """The facts of an opened adapter. Raises AdapterError when a file can no longer be read."""
    config, modules = adapter.config, adapter.modules()
    return AdapterFacts(
        config=file_sha256(adapter.path / CONFIG_NAME),
        weights=file_sha256(adapter.weights),
        content=content_digest(adapter.weights),
        settings=effective_settings(json.loads(config.to_json())),
        tensors=len(adapter.tensors),
        parameters=sum(math.prod(tensor_info.shape) for tensor_info in adapter.tensors.values()),
        modules=len(modules),
        ranks=tuple(sorted({config.rank(module) for module in modules})),
        scalings=tuple(sorted({config.scaling(module) for module in modules})),
    )


def effective_settings(raw_config: Mapping[str, Any]) -> dict[str, Any]:
    """A config's values as a passport keeps them: PEFT's defaults filled in, nothing that is null, false or empty,
    lists of names sorted, and of a path of the base model the last part."""
    defaults = {
        field_name: getattr(AdapterConfig(), field_name)
        for field_name in AdapterConfig.__struct_fields__
        if field_name != "other"
    }
    settings = {
        option_key: option_value
        for option_key, option_value in {**defaults, **raw_config}.items()
        if option_value not in (None, False, "", [], {})
    }
    for option_key in ("target_modules", "exclude_modules", "modules_to_save"):
        option_value = settings.get(option_key)
        if isinstance(option_value, list) and all(isinstance(target_name, str) for target_name in option_value):
            settings[option_key] = sorted(option_value)
    if isinstance(settings.get(_BASE_NAME), str):
        settings[_BASE_NAME] = plain_name(settings[_BASE_NAME])
    return settings


def changed_settings(recorded: Mapping[str, Any], raw_config: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Key -> (recorded value, value in the config now) where they differ; what is missing is None."""
    current_settings = effective_settings(raw_config)
    return {
        option_key: (recorded.get(option_key), current_settings.get(option_key))
        for option_key in sorted({*recorded, *current_settings})
        if not _is_same_value(recorded.get(option_key), current_settings.get(option_key))
    }


def name_changes(changes: Mapping[str, tuple[Any, Any]]) -> str:
    """ "lora_alpha 32 -> 16; use_rslora (none) -> true", for people."""
    return "; ".join(
        f"{_shorten(option_key)} {_show_value(recorded_value)} -> {_show_value(current_value)}"
        for option_key, (recorded_value, current_value) in changes.items()
    )


def file_changes(recorded_facts: AdapterFacts, adapter: AdapterFolder) -> list[str]:
    """How an adapter's files differ from a passport, in words; empty when they are the same bytes or mean the same.
    Raises AdapterError when a file can no longer be read."""
    changed_files = []
    if recorded_facts.config != file_sha256(adapter.path / CONFIG_NAME):
        changes = changed_settings(recorded_facts.settings, json.loads(adapter.config.to_json()))
        decisive = {option_key: change for option_key, change in changes.items() if option_key in DECISIVE}
        if changes := decisive or changes:
            changed_files.append(f"{CONFIG_NAME} was changed since the passport was made: {name_changes(changes)}")
    if recorded_facts.weights != file_sha256(adapter.weights) and recorded_facts.content != content_digest(
        adapter.weights
    ):
        changed_files.append(f"{adapter.weights.name} holds other weights than when the passport was made")
    return changed_files


def file_sha256(file_path: Path) -> str:
    """ "sha256:..." of a file's bytes. Raises AdapterError when it cannot be read."""
    try:
        with file_path.open("rb") as opened_file:
            return "sha256:" + hashlib.file_digest(opened_file, "sha256").hexdigest()
    except OSError as error:
        raise AdapterError(f"{file_path}: cannot be read ({error.strerror})") from error


def content_digest(weights: Path, header: Header | None = None) -> str:
    """sha256 over every tensor's name, type, shape and bytes, sorted by name: equal however the file was arranged.

    Raises AdapterError for a broken file.
    """
    checked_header = header or read_header(weights)
    digest_state = hashlib.sha256()
    try:
        with weights.open("rb") as opened_file:
            for tensor_name, tensor_info in sorted(checked_header.tensors.items()):
                digest_state.update(json.dumps([tensor_name, tensor_info.dtype, list(tensor_info.shape)]).encode())
                opened_file.seek(tensor_info.start)
                remaining = tensor_info.stop - tensor_info.start
                while remaining:
                    data_chunk = opened_file.read(min(remaining, 1 << 22))
                    if not data_chunk:
                        raise AdapterError(f"{weights}: changed while it was in use", fix="open the adapter again")
                    digest_state.update(data_chunk)
                    remaining -= len(data_chunk)
    except OSError as error:
        raise AdapterError(f"{weights}: cannot be read ({error.strerror})") from error
    return "sha256:" + digest_state.hexdigest()


def plain_name(model_name: str) -> str:
    """A base model as it may be written down: an id stays, of a path only the last part, which is no secret."""
    looks_like_path = model_name.startswith((".", "~", "/", "\\")) or model_name.count("/") > 1 or "\\" in model_name
    return Path(model_name.replace("\\", "/").rstrip("/")).name if looks_like_path else model_name


def _is_same_value(recorded_value: Any, current_value: Any) -> bool:
    # True is 1 to Python.
    return bool(recorded_value == current_value) and isinstance(recorded_value, bool) == isinstance(current_value, bool)


def _show_value(shown_value: Any) -> str:
    return "(none)" if shown_value is None else _shorten(json.dumps(shown_value))


def _shorten(long_text: str) -> str:
    ascii_text = ascii(long_text)[1:-1]
    return ascii_text if len(ascii_text) <= 80 else ascii_text[:77] + "..."
