"""What decides a result, as digests: the manifest of a run, which a resume must match."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from lorica.adapters.folder import open_adapter
from lorica.models.weight_files import weight_files

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
