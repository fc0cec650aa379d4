"""Which adapters there are: a folder of adapters, and single folders named by configuration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from lorica.adapters.config import CONFIG_NAME
from lorica.errors import AdapterError

# Where a training run keeps the adapter that did best on validation.
BEST = "best"


def find_adapters(base_dir: Path | None, paths: Mapping[str, str]) -> dict[str, Path]:
    """Name -> folder, sorted by name; nothing is opened.

    base_dir: each of its subfolders `name` (or `name/best`) that holds an adapter_config.json; other
    subfolders are not adapters, unless they hold adapter weights: then the config is missing. paths: name ->
    folder (or its parent of `best`); these win over base_dir.

    Raises AdapterError naming where it looked when base_dir or one of `paths` is missing or holds no adapter
    config.
    """
    found: dict[str, Path] = {}
    if base_dir is not None:
        found |= _search(Path(base_dir))
    for name, place in paths.items():
        folder = _adapter_in(Path(place).expanduser())
        if folder is None:
            raise AdapterError(
                f"adapter {name!r}: no {CONFIG_NAME} in {place} nor in {Path(place) / BEST}",
                fix=f"correct adapters.paths.{name}, or train the adapter",
            )
        found[name] = folder
    return dict(sorted(found.items()))


def _search(base_dir: Path) -> dict[str, Path]:
    base_dir = base_dir.expanduser()
    if not base_dir.is_dir():
        raise AdapterError(
            f"the folder of adapters does not exist: {base_dir}",
            fix="correct adapters.dir, or train adapters first",
        )
    if (base_dir / CONFIG_NAME).is_file():
        raise AdapterError(
            f"{base_dir} is itself an adapter, not a folder of adapters",
            fix=f"set adapters.paths.{base_dir.name}={base_dir}",
        )
    found = {}
    for entry in sorted(base_dir.iterdir()):
        if entry.name.startswith(".") or not entry.is_dir():
            continue
        folder = _adapter_in(entry)
        if folder is not None:
            found[entry.name] = folder
        elif any(entry.glob("adapter_model.*")):
            raise AdapterError(
                f"{entry} holds adapter weights and no {CONFIG_NAME}",
                fix="complete the folder, or move it elsewhere",
            )
    return found


def _adapter_in(folder: Path) -> Path | None:
    for place in (folder, folder / BEST):
        if (place / CONFIG_NAME).is_file():
            return place
    return None
