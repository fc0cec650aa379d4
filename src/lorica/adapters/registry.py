"""Which adapters there are: a folder of adapters, and single folders named by configuration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from lorica.adapters.config import CONFIG_NAME
from lorica.errors import AdapterError
from lorica.locks import Owner, describe, lock_owner
from lorica.names import spellings, subject_key, visible

# How answers of the base model alone are marked, so no adapter can have the name.
BASE = "base"
# Where a training run keeps the adapter that did best on validation.
BEST = "best"
# What a training run writes before its adapter is there.
TRAINING_RECORD = "training.json"
CHECKPOINTS = "checkpoints"
# What a training says it does, in the lock on its folder.
TRAINING = "training"


def find_adapters(base_dir: Path | None, paths: Mapping[str, str]) -> dict[str, Path]:
    """Name -> folder, sorted by name; nothing is opened. Names are text: `visible` ones of the folders.

    base_dir: each of its subfolders `name` (or `name/best`) that holds an adapter_config.json; other
    subfolders are not adapters, unless they hold adapter weights (then the config is missing) or what a
    training leaves before it is finished. paths: name -> folder (or its parent of `best`); these win over
    what base_dir has under this name, in any spelling.

    Raises AdapterError naming where it looked when base_dir or one of `paths` is missing or holds no adapter
    config, and naming the training that did not finish, and for an adapter called `base`.
    """
    adapters: dict[str, Path] = {}
    if base_dir is not None:
        own = set(map(subject_key, map(visible, paths)))
        adapters |= {
            name: folder for name, folder in _search_folder(Path(base_dir)).items() if subject_key(name) not in own
        }
    for name, path in paths.items():
        folder = _adapter_in(Path(path))
        if folder is None:
            _refuse_unfinished(Path(path))
            raise AdapterError(
                f"adapter {name!r}: no {CONFIG_NAME} in {path} nor in {Path(path) / BEST}",
                fix=f"correct adapters.paths.{name}, or train the adapter",
            )
        adapters[visible(name)] = folder
    for name, folder in adapters.items():
        if subject_key(name) == BASE:
            raise AdapterError(
                f"the adapter in {folder} is called {name!r}, as answers of the base model alone are marked",
                fix="give it another name: rename its folder, or adapters.paths.NAME=FOLDER",
            )
    return dict(sorted(adapters.items()))


def refuse_spellings(adapters: Mapping[str, Path]) -> None:
    """Raise AdapterError for two adapters that the same subject could mean, naming both."""
    for names in spellings(adapters).values():
        if len(names) > 1:
            folders = ", ".join(f"{name!r} in {adapters[name]}" for name in names)
            raise AdapterError(
                f"these adapters are one subject in {len(names)} spellings: {folders}",
                fix="rename or move all but one, or choose the one for all rows with adapters.use=NAME",
            )


def _search_folder(base_dir: Path) -> dict[str, Path]:
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
    if (base_dir / TRAINING_RECORD).is_file():
        _refuse_unfinished(base_dir)
    adapters = {}
    for entry in _subfolders(base_dir):
        folder = _adapter_in(entry)
        if folder is not None:
            adapters[visible(entry.name)] = folder
            continue
        _refuse_unfinished(entry)
        if any(entry.glob("adapter_model.*")):
            raise AdapterError(
                f"{entry} holds adapter weights and no {CONFIG_NAME}",
                fix="complete the folder, or move it elsewhere",
            )
    if not adapters:
        raise _nothing_in(base_dir)
    return adapters


def _subfolders(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _adapter_in(folder: Path) -> Path | None:
    for candidate in (folder, folder / BEST):
        if (candidate / CONFIG_NAME).is_file():
            return candidate
    return None


def is_adapter(folder: Path) -> bool:
    """Whether a folder is an adapter's, or one of a training that did not finish."""
    return _adapter_in(folder) is not None or _is_unfinished(folder)


def _is_unfinished(folder: Path) -> bool:
    return (folder / TRAINING_RECORD).is_file() or (folder / CHECKPOINTS).is_dir()


def _refuse_unfinished(folder: Path) -> None:
    if owner := training_owner(folder):
        raise AdapterError(f"{folder} is being trained now: {describe(owner)}", fix="wait until it ends")
    if _is_unfinished(folder):
        raise AdapterError(
            f"training of {folder.name} did not finish: no {CONFIG_NAME} in {folder}",
            fix="go on with training.resume=true, or remove the folder",
        )


def training_owner(folder: Path) -> Owner | None:
    """The process that trains an adapter in this folder now, if any."""
    owner = lock_owner(folder)
    return owner if owner is not None and owner.doing == TRAINING else None


def _nothing_in(base_dir: Path) -> AdapterError:
    """Why a folder of adapters holds none, as far as it can be told."""
    if any(base_dir.glob("*.safetensors")) and (base_dir / "config.json").is_file():
        return AdapterError(
            f"{base_dir} is a base model, not a folder of adapters",
            fix=f"set model.path={base_dir}, and adapters.dir to the folder of its adapters",
        )
    deeper = [entry for entry in _subfolders(base_dir) if any(map(_adapter_in, _subfolders(entry)))]
    hint = f"did you mean adapters.dir={' or adapters.dir='.join(map(str, deeper[:3]))}?" if deeper else ""
    return AdapterError(
        f"no adapter in {base_dir}: none of its subfolders holds {CONFIG_NAME}",
        fix=hint or "correct adapters.dir, train adapters first, or leave it out to ask the base model",
    )
