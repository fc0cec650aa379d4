"""What decides a result, as digests: the manifest of a run, which a resume must match."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from lorica.adapters.folder import open_adapter
from lorica.models.families import read_json_object
from lorica.models.weight_files import weight_files
from lorica.prompts.encoder import Encoder
from lorica.tasks.base import Task

_PACKAGES = ("lorica", "torch", "transformers", "tokenizers")


def base_digest(folder: Path) -> str:
    """sha256 of a base model's config and of its weight files' sizes, headers and first and last megabyte.

    Reading all of a large model takes minutes; this takes milliseconds and still tells every re-training, conversion,
    truncation and change of shape apart, though not an edit of a few values in the middle of a file.
    """
    state = hashlib.sha256((folder / "config.json").read_bytes())
    for path in weight_files(folder):
        size = path.stat().st_size
        state.update(f"{path.name} {size}".encode())
        with path.open("rb") as file:
            state.update(file.read(1 << 20))
            file.seek(max(0, size - (1 << 20)))
            state.update(file.read(1 << 20))
    return "sha256:" + state.hexdigest()


def adapter_digests(folders: Mapping[str, Path]) -> dict[str, str]:
    """Name -> content digest of each adapter."""
    return {name: open_adapter(folder).digest for name, folder in sorted(folders.items())}


def trained_as(task: Task, encoder: Encoder, base: Path) -> dict[str, str]:
    """What an adapter's training and its use must share: task, method, style, template and base."""
    return {
        "task": task.name,
        "method": task.settings.method,
        "style": task.settings.style,
        "template": encoder.template_digest,
        "base": base_digest(base),
    }


def trained_otherwise(folder: Path, used: Mapping[str, str]) -> list[str]:
    """How an adapter was trained otherwise than it is used now, by the record that `lorica train` leaves beside it.

    Adapters from elsewhere have no such record, and nothing is said about them.
    """
    record = folder / "training.json"
    if not record.is_file():
        return []
    trained = read_json_object(record).get("manifest", {})
    return [
        f"was trained with {key} {trained[f'digest.{key}']!r}, and is used with {value!r}"
        for key, value in used.items()
        if trained.get(f"digest.{key}", value) != value
    ]


def ids_digest(ids: Iterable[str]) -> str:
    """sha256 over row ids in their order."""
    state = hashlib.sha256()
    for row_id in ids:
        state.update(json.dumps(row_id).encode() + b"\n")
    return "sha256:" + state.hexdigest()


def versions() -> dict[str, str]:
    """Version of each package that decides numbers, where it is installed."""
    found = {}
    for name in _PACKAGES:
        try:
            found[f"version.{name}"] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
