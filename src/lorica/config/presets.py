"""Presets: named sets of values per group, composed by Hydra from the YAML files beside this module."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, cast

from lorica.engine_table import ENGINES
from lorica.errors import ConfigError
from lorica.names import did_you_mean

FOLDER = Path(__file__).parent / "presets"
GROUPS = ("task", "model", "lora", "training", "inference", "engine")
_LOCK = threading.Lock()  # Hydra keeps its state in one global


@cache
def preset_names(group_name: str) -> tuple[str, ...]:
    """The presets of a group, sorted."""
    return tuple(sorted(preset_path.stem for preset_path in (FOLDER / group_name).glob("*.yaml")))


def preset_of_model(model_path: str) -> str:
    """The preset of the language model or encoder that is named so, "" where there is none."""
    for preset_name in preset_names("model"):
        preset = compose_presets({"model": preset_name})
        if preset.values_by_group["model"]["path"] == model_path and not ENGINES[preset.chosen["engine"]].tokenizer:
            return preset_name
    return ""


def check_preset(group_name: str, preset_name: str, *, location: str = "") -> str:
    """The name, if the group has such a preset. Raises ConfigError with the closest one and all of them if
    not."""
    presets = preset_names(group_name)
    if preset_name in presets:
        return preset_name
    suggestion = did_you_mean(preset_name, presets, form="{}")
    if group_name == "model" and not suggestion:
        suggestion = f"for a Hugging Face id or a folder write model.path={preset_name or 'FOLDER'}"
    raise ConfigError(
        f"{location}unknown preset {group_name}={preset_name}; there are: {', '.join(presets)}", fix=suggestion
    )


@dataclass(frozen=True)
class Presets:
    """chosen: group -> preset name, for every group. values_by_group: group -> the nested values that its preset
    sets."""

    chosen: dict[str, str]
    values_by_group: dict[str, dict[str, Any]]


def compose_presets(choices: Mapping[str, str]) -> Presets:
    """The chosen presets, with the default one for every group that `choices` (checked names) leaves out. A preset of a
    model may name the engine that goes with it, as `engine: NAME`."""
    composed = copy.deepcopy(_composed(tuple(f"{group}={name}" for group, name in sorted(choices.items()))))
    engine = composed.values_by_group["model"].pop("engine", None)
    return compose_presets({**choices, "engine": engine}) if engine and "engine" not in choices else composed


@lru_cache(maxsize=64)
def _composed(overrides: tuple[str, ...]) -> Presets:
    from hydra import compose
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        with _LOCK, _hydra():
            composed = compose("lorica", overrides=list(overrides), return_hydra_config=True)
            chosen_presets = composed.hydra.runtime.choices
            preset_values = {
                group: OmegaConf.to_container(composed.get(group) or OmegaConf.create()) for group in GROUPS
            }
    except (HydraException, OmegaConfBaseException) as error:  # only a damaged installation gets here
        raise ConfigError(f"the presets under {FOLDER} cannot be read: {error}", fix="install lorica again") from None
    return Presets(
        {group: str(chosen_presets[group]) for group in GROUPS}, cast(dict[str, dict[str, Any]], preset_values)
    )


@contextmanager
def _hydra() -> Iterator[None]:
    """Hydra initialised on our presets; a host application's own Hydra is put back as it was."""
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.version import VersionBase

    host_state, version_state = GlobalHydra.instance(), VersionBase.instance()
    host_hydra, host_version = host_state.hydra, version_state.version_base
    host_state.clear()
    try:
        with initialize_config_dir(str(FOLDER), job_name="lorica", version_base="1.3"):
            yield
    finally:
        host_state.hydra, version_state.version_base = host_hydra, host_version
        GlobalHydra.set_instance(host_state)  # Hydra leaves a copy
