"""What was collected of large bases, kept on disk under the digest of their files: it takes many seconds to compute.

The folder is `LORICA_CACHE_DIR`, or `lorica` in the user's cache folder. A file that cannot be written or read is no
error: then the directions are computed again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as serialize

from lorica.caches import cache_folder
from lorica.data.write import atomic_file
from lorica.errors import DataError
from lorica.models.weight_files import weight_files
from lorica.vetting.base.activation_subspaces import ActivationSubspaces, Subspace
from lorica.vetting.base.conversion_faults import BaseForm

MAX_BYTES = 2 << 30
"""Of all files together; the least recently used go first."""

# What else decides the result: raise it with any change of how directions are computed.
_VERSION = 4
_ABANDONED = 3600.0  # seconds
_BESIDE = (
    *("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"),
    "tokenizer.model",
)


def files_beside(base_folder: Path) -> list[Path]:
    """The files of a base that decide its directions, beside its weights."""
    return [base_folder / file_name for file_name in _BESIDE if (base_folder / file_name).is_file()]


def base_key(base_folder: Path) -> str:
    """sha256 of a base's weights, config, tokenizer and template, whole: an edit of one weight makes another key.

    Raises ModelError without weight files, OSError.
    """
    hasher = hashlib.sha256(str(_VERSION).encode())
    for file_path in (*weight_files(base_folder), *files_beside(base_folder)):
        hasher.update(f"{file_path.name}\0".encode())
        with file_path.open("rb") as base_file:
            hasher.update(hashlib.file_digest(base_file, "sha256").digest())
    return hasher.hexdigest()


def load(cache_key: str, base_folder: Path) -> ActivationSubspaces | None:
    """What was kept under this key; None where nothing was, or the file is damaged."""
    try:
        cache_path = cache_folder("directions") / f"{cache_key}.safetensors"
        with safe_open(cache_path, framework="numpy") as cache_file:
            facts = json.loads(cache_file.metadata()["facts"])
            subspaces = []
            for number, rest_energy in enumerate(facts.pop("rests")):
                vectors = cache_file.get_tensor(f"vectors.{number}").astype(np.float32)
                energies = cache_file.get_tensor(f"energies.{number}").astype(np.float32)
                subspaces.append(Subspace(vectors, energies, rest_energy))
        for side in ("inputs", "outputs"):
            facts[side] = {module_path: subspaces[number] for module_path, number in facts[side].items()}
        facts |= {"form": BaseForm(**facts["form"]), "outlier_layers": tuple(facts["outlier_layers"])}
        os.utime(cache_path)
        return ActivationSubspaces(base=base_folder, **facts)
    except (OSError, SafetensorError, ValueError, KeyError, IndexError, TypeError, AttributeError):
        return None


def save(cache_key: str, subspaces: ActivationSubspaces) -> None:
    """Keep it, beside what is there, within MAX_BYTES. Vectors are stored in float16, and beside the arrays the other
    facts, with the number of each module's subspace."""
    numbers: dict[int, int] = {}  # modules of one input share their subspace
    arrays: dict[str, NDArray[np.generic]] = {}
    rests: list[float] = []

    def number_of(subspace: Subspace) -> int:
        if id(subspace) not in numbers:
            number = numbers[id(subspace)] = len(rests)
            arrays[f"vectors.{number}"] = subspace.vectors.astype(np.float16)
            arrays[f"energies.{number}"] = subspace.energies
            rests.append(subspace.rest_energy)
        return numbers[id(subspace)]

    facts = vars(subspaces) | {"rests": rests, "form": vars(subspaces.form)}
    del facts["base"]
    for side in ("inputs", "outputs"):
        facts[side] = {module_path: number_of(subspace) for module_path, subspace in facts[side].items()}
    with contextlib.suppress(DataError, OSError, SafetensorError):
        folder = cache_folder("directions")
        content = serialize(arrays, metadata={"facts": json.dumps(facts)})
        with atomic_file(folder / f"{cache_key}.safetensors") as cache_file:
            cache_file.write(content)
        _evict(folder)


def _evict(folder: Path) -> None:
    for cache_path in folder.glob(".*.tmp"):  # of processes that were killed
        if time.time() - cache_path.stat().st_mtime > _ABANDONED:
            cache_path.unlink()
    cache_files = sorted(folder.glob("*.safetensors"), key=lambda cache_path: cache_path.stat().st_mtime, reverse=True)
    total_bytes = 0
    for cache_path in cache_files:
        total_bytes += cache_path.stat().st_size
        if total_bytes > MAX_BYTES and cache_path != cache_files[0]:
            cache_path.unlink()
