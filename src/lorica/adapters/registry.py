"""Which adapters there are: a folder of adapters, and single folders named by configuration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from lorica.adapters.classifier_config import MODEL_CONFIG, is_classifier, refuse_no_classifier
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
# What a shallow model has in place of an adapter's config, and its further files. Folders have these names for good.
SHALLOW_CONFIG, SHALLOW_WEIGHTS, VOCABULARY = "member.json", "member.safetensors", "vocabulary.json"
# What a training says it does, in the lock on its folder.
TRAINING = "training"


def find_adapters(base_dir: Path | None, adapter_paths: Mapping[str, str]) -> dict[str, Path]:
    """Name -> folder, sorted by name; nothing is opened. Names are text: `visible` ones of the folders.

    base_dir: each of its subfolders `name` (or `name/best`) that holds a `member_config`; other
    subfolders are not adapters, unless they hold adapter weights (then the config is missing) or what a
    training leaves before it is finished. adapter_paths: name -> folder (or its parent of `best`); these win over
    what base_dir has under this name, in any spelling.

    Raises AdapterError naming where it looked when base_dir or one of `adapter_paths` is missing or holds no adapter
    config, and naming the training that did not finish, and for an adapter called `base`.
    """
    adapters: dict[str, Path] = {}
    if base_dir is not None:
        own_subjects = set(map(subject_key, map(visible, adapter_paths)))
        adapters |= {
            name: adapter_folder
            for name, adapter_folder in _search_folder(Path(base_dir)).items()
            if subject_key(name) not in own_subjects
        }
    for name, adapter_path in adapter_paths.items():
        adapter_folder = _adapter_in(Path(adapter_path))
        if adapter_folder is None:
            _refuse_unfinished(Path(adapter_path))
            refuse_no_classifier(Path(adapter_path))
            raise AdapterError(
                f"adapter {name!r}: no {CONFIG_NAME} in {adapter_path} nor in {Path(adapter_path) / BEST}",
                fix=f"correct adapters.paths.{name}, or train the adapter",
            )
        adapters[visible(name)] = adapter_folder
    for name, adapter_folder in adapters.items():
        if subject_key(name) == BASE:
            raise AdapterError(
                f"the adapter in {adapter_folder} is called {name!r}, as answers of the base model alone are marked",
                fix="give it another name: rename its folder, or adapters.paths.NAME=FOLDER",
            )
    return dict(sorted(adapters.items()))


def refuse_spellings(adapters: Mapping[str, Path]) -> None:
    """Raise AdapterError for two adapters that the same subject could mean, naming both."""
    for clashing_names in spellings(adapters).values():
        if len(clashing_names) > 1:
            folders = ", ".join(f"{adapter_name!r} in {adapters[adapter_name]}" for adapter_name in clashing_names)
            raise AdapterError(
                f"these adapters are one subject in {len(clashing_names)} spellings: {folders}",
                fix="rename or move all but one, or choose the one for all rows with adapters.use=NAME",
            )


def _search_folder(base_dir: Path) -> dict[str, Path]:
    if not base_dir.is_dir():
        raise AdapterError(
            f"the folder of adapters does not exist: {base_dir}",
            fix="correct adapters.dir, or train adapters first",
        )
    if member_config(base_dir) is not None:
        raise AdapterError(
            f"{base_dir} is itself an adapter, not a folder of adapters",
            fix="name it after the task or subject whose rows it answers, adapters.paths.NAME="
            f"{base_dir}; for all rows add adapters.use=NAME",
        )
    if (base_dir / TRAINING_RECORD).is_file():
        _refuse_unfinished(base_dir)
    adapters = {}
    for subfolder in _subfolders(base_dir):
        adapter_folder = _adapter_in(subfolder)
        if adapter_folder is not None:
            adapters[visible(subfolder.name)] = adapter_folder
            continue
        _refuse_unfinished(subfolder)
        if any(subfolder.glob("adapter_model.*")):
            raise AdapterError(
                f"{subfolder} holds adapter weights and no {CONFIG_NAME}",
                fix="complete the folder, or move it elsewhere",
            )
    if not adapters:
        raise _nothing_in(base_dir)
    return adapters


def _subfolders(parent_folder: Path) -> list[Path]:
    return sorted(
        subfolder for subfolder in parent_folder.iterdir() if subfolder.is_dir() and not subfolder.name.startswith(".")
    )


def _adapter_in(adapter_folder: Path) -> Path | None:
    for candidate in (adapter_folder, adapter_folder / BEST):
        if member_config(candidate) is not None:
            return candidate
    return None


def member_config(folder: Path) -> Path | None:
    """The file that makes a folder a member's: an adapter's config, that of a shallow model, or of an
    encoder classifier; None where there is none of them."""
    for config_name in (CONFIG_NAME, SHALLOW_CONFIG):
        if (folder / config_name).is_file():
            return folder / config_name
    return folder / MODEL_CONFIG if is_classifier(folder) else None


def is_own_model(folder: Path) -> bool:
    """Whether a folder is that of a member which is no adapter of a base."""
    config_path = member_config(folder)
    return config_path is not None and config_path.name != CONFIG_NAME


def is_adapter(adapter_folder: Path) -> bool:
    """Whether a folder is an adapter's, or one of a training that did not finish."""
    return _adapter_in(adapter_folder) is not None or _is_unfinished(adapter_folder)


def _is_unfinished(adapter_folder: Path) -> bool:
    return (adapter_folder / TRAINING_RECORD).is_file() or (adapter_folder / CHECKPOINTS).is_dir()


def _refuse_unfinished(adapter_folder: Path) -> None:
    if owner := training_owner(adapter_folder):
        raise AdapterError(f"{adapter_folder} is being trained now: {describe(owner)}", fix="wait until it ends")
    if _is_unfinished(adapter_folder):
        raise AdapterError(
            f"training of {adapter_folder.name} did not finish: no {CONFIG_NAME} in {adapter_folder}",
            fix="go on with training.resume=true, or remove the folder",
        )


def training_owner(adapter_folder: Path) -> Owner | None:
    """The process that trains an adapter in this folder now, if any."""
    current_owner = lock_owner(adapter_folder)
    return current_owner if current_owner is not None and current_owner.doing == TRAINING else None


def _nothing_in(base_dir: Path) -> AdapterError:
    """Why a folder of adapters holds none, as far as it can be told."""
    if any(base_dir.glob("*.safetensors")) and (base_dir / "config.json").is_file():
        return AdapterError(
            f"{base_dir} is a base model, not a folder of adapters",
            fix=f"set model.path={base_dir}, and adapters.dir to the folder of its adapters",
        )
    deeper_folders = [subfolder for subfolder in _subfolders(base_dir) if any(map(_adapter_in, _subfolders(subfolder)))]
    fix_hint = (
        f"did you mean adapters.dir={' or adapters.dir='.join(map(str, deeper_folders[:3]))}?" if deeper_folders else ""
    )
    return AdapterError(
        f"no adapter in {base_dir}: none of its subfolders holds {CONFIG_NAME}",
        fix=fix_hint or "correct adapters.dir, train adapters first, or leave it out to ask the base model",
    )
