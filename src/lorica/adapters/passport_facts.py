"""What a passport says of an adapter's own files, and how files differ from what one says."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lorica.adapters.effective_settings import effective_settings
from lorica.adapters.folder import AdapterFolder
from lorica.adapters.header import Header, read_header
from lorica.adapters.member import Member
from lorica.adapters.passport import AdapterFacts
from lorica.errors import AdapterError

# Settings without which the result is another; the others are for training, for tools, or for people.
DECISIVE = (
    "peft_type", "r", "lora_alpha", "use_rslora", "use_dora", "target_modules", "exclude_modules", "modules_to_save",
    "rank_pattern", "alpha_pattern", "layers_to_transform", "layers_pattern", "bias", "fan_in_fan_out", "lora_bias",
    "layer_replication", "trainable_token_indices", "target_parameters",
)  # fmt: skip


def adapter_facts(adapter: Member) -> AdapterFacts:
    """The facts of an opened adapter; a member that is a model of its own adapts no modules. Raises AdapterError when a
    file can no longer be read."""
    lora = adapter if isinstance(adapter, AdapterFolder) else None
    modules = [] if lora is None else lora.modules()
    return AdapterFacts(
        config=file_sha256(adapter.config_path),
        weights=file_sha256(adapter.weights),
        content=content_digest(adapter.weights),
        settings=adapter.settings,
        tensors=len(adapter.tensors),
        parameters=sum(math.prod(tensor_info.shape) for tensor_info in adapter.tensors.values()),
        modules=len(modules),
        ranks=() if lora is None else tuple(sorted({lora.config.rank(module) for module in modules})),
        scalings=() if lora is None else tuple(sorted({lora.config.scaling(module) for module in modules})),
    )


def changed_settings(recorded: Mapping[str, Any], raw_config: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Key -> (recorded value, value in the config now) where they differ; what is missing is None."""
    return _differing(recorded, effective_settings(raw_config))


def _differing(recorded: Mapping[str, Any], current_settings: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
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


def file_changes(recorded_facts: AdapterFacts, adapter: Member) -> list[str]:
    """How an adapter's files differ from a passport, in words; empty when they are the same bytes or mean the same.
    Raises AdapterError when a file can no longer be read."""
    changed_files = []
    if recorded_facts.config != file_sha256(adapter.config_path):
        changes = _differing(recorded_facts.settings, adapter.settings)
        decisive = {option_key: change for option_key, change in changes.items() if option_key in DECISIVE}
        if changes := decisive or changes:
            name = adapter.config_path.name
            changed_files.append(f"{name} was changed since the passport was made: {name_changes(changes)}")
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


def _is_same_value(recorded_value: Any, current_value: Any) -> bool:
    # True is 1 to Python.
    return bool(recorded_value == current_value) and isinstance(recorded_value, bool) == isinstance(current_value, bool)


def _show_value(shown_value: Any) -> str:
    return "(none)" if shown_value is None else _shorten(json.dumps(shown_value))


def _shorten(long_text: str) -> str:
    ascii_text = ascii(long_text)[1:-1]
    return ascii_text if len(ascii_text) <= 80 else ascii_text[:77] + "..."
