"""A user's own configuration file: the keys of the schema as nested YAML, with presets chosen under
`defaults:`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lorica.config.origins import ConfigSource, Precedence, flatten
from lorica.config.paths import local_path
from lorica.config.presets import GROUPS, check_preset
from lorica.errors import ConfigError
from lorica.names import did_you_mean


def read_config_file(config_path: str) -> ConfigSource:
    """The settings of one file. Raises ConfigError naming the file, and the line where the YAML is broken."""
    file_tree = _load(config_path)
    location = f"{config_path}: "
    config_source = ConfigSource()
    defaults = file_tree.pop("defaults", None) or []
    if not isinstance(defaults, list):
        raise ConfigError(f"{location}`defaults` is a list of presets; got {defaults!r}", fix="- task: mcq")
    for default_item in defaults:
        if default_item == "_self_":  # Hydra's word for "then the keys of this file": always so here
            continue
        if not isinstance(default_item, dict) or len(default_item) != 1:
            raise ConfigError(f"{location}{default_item!r} under `defaults` is not `GROUP: PRESET`", fix="- task: mcq")
        ((group_name, preset_name),) = default_item.items()
        if group_name not in GROUPS:
            group_list = f"the groups are {', '.join(GROUPS)}"
            raise ConfigError(
                f"{location}unknown group {group_name!r}; {group_list}",
                fix=did_you_mean(str(group_name), GROUPS, form="{}"),
            )
        config_source.presets[group_name] = check_preset(group_name, str(preset_name), location=location)
    config_source.settings.extend(
        flatten(file_tree, precedence=Precedence.FILE, origin=f"config {config_path}", location=location)
    )
    return config_source


def _load(path: str) -> dict[Any, Any]:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError
    from yaml.error import MarkedYAMLError

    try:
        file_tree = OmegaConf.to_container(OmegaConf.load(local_path(path, "config")), resolve=False)
    except FileNotFoundError:
        raise ConfigError(f"there is no configuration file {path!r} in {Path.cwd()}", fix="config=FILE.yaml") from None
    except MarkedYAMLError as error:
        line_number = error.problem_mark.line + 1 if error.problem_mark else 0
        raise ConfigError(
            f"{path}:{line_number}: not YAML: {error.problem or error.context}", fix="mend this line"
        ) from None
    except (YAMLError, OmegaConfBaseException, UnicodeDecodeError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ConfigError(f"{path}: cannot be read as a configuration: {reason}", fix="write UTF-8 YAML") from None
    if not isinstance(file_tree, dict):
        raise ConfigError(f"{path}: the file is not a mapping of keys", fix="write lines such as `lora: {r: 8}`")
    return file_tree
