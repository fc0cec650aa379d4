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
        parameters=sum(math.prod(info.shape) for info in adapter.tensors.values()),
        modules=len(modules),
        ranks=tuple(sorted({config.rank(module) for module in modules})),
        scalings=tuple(sorted({config.scaling(module) for module in modules})),
    )


def effective_settings(raw: Mapping[str, Any]) -> dict[str, Any]:
    """A config's values as a passport keeps them: PEFT's defaults filled in, nothing that is null, false or empty,
    lists of names sorted, and of a path of the base model the last part."""
    defaults = {name: getattr(AdapterConfig(), name) for name in AdapterConfig.__struct_fields__ if name != "other"}
    settings = {key: value for key, value in {**defaults, **raw}.items() if value not in (None, False, "", [], {})}
    for key in ("target_modules", "exclude_modules", "modules_to_save"):
        value = settings.get(key)
        if isinstance(value, list) and all(isinstance(name, str) for name in value):
            settings[key] = sorted(value)
    if isinstance(settings.get(_BASE_NAME), str):
        settings[_BASE_NAME] = plain_name(settings[_BASE_NAME])
    return settings


def changed_settings(recorded: Mapping[str, Any], raw: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Key -> (recorded value, value in the config now) where they differ; what is missing is None."""
    now = effective_settings(raw)
    return {
        key: (recorded.get(key), now.get(key))
        for key in sorted({*recorded, *now})
        if not _is_same_value(recorded.get(key), now.get(key))
    }


def name_changes(changes: Mapping[str, tuple[Any, Any]]) -> str:
    """ "lora_alpha 32 -> 16; use_rslora (none) -> true", for people."""
    return "; ".join(
        f"{_shorten(key)} {_show_value(before)} -> {_show_value(after)}" for key, (before, after) in changes.items()
    )


def file_changes(facts: AdapterFacts, adapter: AdapterFolder) -> list[str]:
    """How an adapter's files differ from a passport, in words; empty when they are the same bytes or mean the same.
    Raises AdapterError when a file can no longer be read."""
    changed_files = []
    if facts.config != file_sha256(adapter.path / CONFIG_NAME):
        changes = changed_settings(facts.settings, json.loads(adapter.config.to_json()))
        decisive = {key: change for key, change in changes.items() if key in DECISIVE}
        if changes := decisive or changes:
            changed_files.append(f"{CONFIG_NAME} was changed since the passport was made: {name_changes(changes)}")
    if facts.weights != file_sha256(adapter.weights) and facts.content != content_digest(adapter.weights):
        changed_files.append(f"{adapter.weights.name} holds other weights than when the passport was made")
    return changed_files


def file_sha256(path: Path) -> str:
    """ "sha256:..." of a file's bytes. Raises AdapterError when it cannot be read."""
    try:
        with path.open("rb") as file:
            return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise AdapterError(f"{path}: cannot be read ({error.strerror})") from error


def content_digest(weights: Path, header: Header | None = None) -> str:
    """sha256 over every tensor's name, type, shape and bytes, sorted by name: equal however the file was arranged.

    Raises AdapterError for a broken file.
    """
    checked_header = header or read_header(weights)
    state = hashlib.sha256()
    try:
        with weights.open("rb") as file:
            for name, info in sorted(checked_header.tensors.items()):
                state.update(json.dumps([name, info.dtype, list(info.shape)]).encode())
                file.seek(info.start)
                remaining = info.stop - info.start
                while remaining:
                    chunk = file.read(min(remaining, 1 << 22))
                    if not chunk:
                        raise AdapterError(f"{weights}: changed while it was in use", fix="open the adapter again")
                    state.update(chunk)
                    remaining -= len(chunk)
    except OSError as error:
        raise AdapterError(f"{weights}: cannot be read ({error.strerror})") from error
    return "sha256:" + state.hexdigest()


def plain_name(model: str) -> str:
    """A base model as it may be written down: an id stays, of a path only the last part, which is no secret."""
    looks_like_path = model.startswith((".", "~", "/", "\\")) or model.count("/") > 1 or "\\" in model
    return Path(model.replace("\\", "/").rstrip("/")).name if looks_like_path else model


def _is_same_value(before: Any, after: Any) -> bool:
    # True is 1 to Python.
    return bool(before == after) and isinstance(before, bool) == isinstance(after, bool)


def _show_value(value: Any) -> str:
    return "(none)" if value is None else _shorten(json.dumps(value))


def _shorten(text: str) -> str:
    plain = ascii(text)[1:-1]
    return plain if len(plain) <= 80 else plain[:77] + "..."
