"""What the listing of a folder says: an adapter's, a base model's, a run's with its checkpoints. No file is opened."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from lorica.adapters.config import CONFIG_NAME
from lorica.adapters.methods import method_of_files
from lorica.adapters.registry import CHECKPOINTS

WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".pkl", ".ckpt", ".gguf", ".npz")
# What trainers leave beside an adapter; never its weights.
OF_TRAINING = re.compile(r"(?:training_args|optimizer|scheduler|scaler|rng_state.*|.*_states)\.(?:bin|pt|pth|pkl)")
CHECKPOINT = re.compile(r"(?:checkpoint|step|best|epoch|global_step)[-_]?\d+|best|last|final")
_BASE_WEIGHTS = re.compile(
    r"(?:model|pytorch_model|consolidated|tf_model|flax_model)\b.*\.(?:safetensors|bin|pth|h5|msgpack)"
)

# How deep, and in how many folders each, the weights are looked for that a folder lacks.
_INNER_LEVELS, _MAX_INNER_FOLDERS = 2, 100


def entries_of(folder: Path) -> list[os.DirEntry[str]]:
    """The entries of a folder, sorted by name. Raises OSError."""
    with os.scandir(folder) as listing:
        return sorted(listing, key=lambda entry: entry.name)


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder, or a link to one."""
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle
        return False


def leads_back(link_path: Path) -> bool:
    """Whether a link leads to a folder that it lies in."""
    target = os.path.realpath(link_path)
    return os.path.commonpath([target, os.path.realpath(link_path.parent)]) == target


def checkpoint_like(file_name: str) -> bool:
    """Whether a folder of this name within an adapter's is a checkpoint, or holds checkpoints."""
    return file_name == CHECKPOINTS or CHECKPOINT.fullmatch(file_name) is not None


def checkpoints_in(folder: Path) -> tuple[str, ...]:
    """Checkpoints in a run's folder, as paths below it."""
    checkpoint_paths = []
    for entry in filter(is_folder, entries_of(folder)):
        if CHECKPOINT.fullmatch(entry.name):
            checkpoint_paths.append(entry.name)
        elif entry.name == CHECKPOINTS:
            inner_entries = filter(is_folder, entries_of(folder / CHECKPOINTS))
            checkpoint_paths += [f"{CHECKPOINTS}/{inner_entry.name}" for inner_entry in inner_entries]
    return tuple(checkpoint_paths)


def inner_folders(folder: Path) -> list[str]:
    """The folders within an adapter's that may be adapters themselves, checkpoints first."""
    try:
        checkpoints, entries = checkpoints_in(folder), entries_of(folder)
    except OSError:
        return []
    subfolders = [entry.name for entry in entries if is_folder(entry) and not entry.name.startswith(".")]
    return [*checkpoints, *(name for name in subfolders if name not in (*checkpoints, CHECKPOINTS))]


def is_adapter(entries: Iterable[os.DirEntry[str]]) -> bool:
    """Whether a folder of these entries is an adapter's: of PEFT, of another tool, or of one loose file of weights."""
    file_names = [entry.name.lower() for entry in entries]
    if CONFIG_NAME in file_names or any(name.startswith(("adapter_model.", "adapter_model-")) for name in file_names):
        return True
    if method_of_files(file_names) is not None and not is_base(entries):
        return True  # another tool's, which examining it says
    safetensors_names = [file_name for file_name in file_names if file_name.endswith(".safetensors")]
    return len(safetensors_names) == 1 and not is_base(entries)


def is_base(entries: Iterable[os.DirEntry[str]]) -> bool:
    """Whether a folder of these entries is a base model's."""
    file_names = [entry.name.lower() for entry in entries]
    return "config.json" in file_names and any(_BASE_WEIGHTS.fullmatch(file_name) for file_name in file_names)


def _has_weights(entries: Iterable[os.DirEntry[str]]) -> bool:
    file_names = (entry.name.lower() for entry in entries if not is_folder(entry))
    return any(file_name.endswith(WEIGHT_SUFFIXES) and not OF_TRAINING.fullmatch(file_name) for file_name in file_names)


def holds_adapter(folder: Path, *, with_weights: bool = False) -> bool:
    """Whether a folder looks like an adapter's. with_weights: with more than a config."""
    try:
        entries = entries_of(folder)
    except OSError:
        return False
    return is_adapter(entries) and (not with_weights or _has_weights(entries))


def is_hollow(folder: Path, entries: Sequence[os.DirEntry[str]]) -> bool:
    """Whether a folder has an adapter's config and no weights, and folders in it have some: a run that published
    nothing but its config, or a card for several adapters."""
    return not _has_weights(entries) and _weights_below(folder, _INNER_LEVELS)


def _weights_below(folder: Path, levels: int) -> bool:
    """Whether there is an adapter with weights so many levels below a folder, as far as few listings show."""
    subfolders = [folder / file_name for file_name in inner_folders(folder)[:_MAX_INNER_FOLDERS]]
    if any(holds_adapter(subfolder, with_weights=True) for subfolder in subfolders):
        return True
    return levels > 1 and any(_weights_below(subfolder, levels - 1) for subfolder in subfolders)
