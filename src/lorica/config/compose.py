"""Composition: schema defaults, presets, a configuration file, the environment and the command line, in this
order.

Each value is kept with who set it until the last one is known; only then is it checked, so that a message can
say where a bad value came from."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from typing import Any

from lorica.config.config_file import read_config_file
from lorica.config.environment import read_environment
from lorica.config.fields import find, key_name, leaves, own_keys
from lorica.config.origins import ConfigSource, Precedence, Setting, flatten, read_arguments, read_command_line
from lorica.config.parse_values import coerce
from lorica.config.paths import local_path
from lorica.config.presets import Presets, compose_presets
from lorica.config.schema import Config
from lorica.config.validate import check
from lorica.errors import ConfigError

Chosen = dict[str, Setting]  # full key (with the entry's name for tables) -> the strongest setting so far


@dataclass(frozen=True)
class Resolved:
    """A checked configuration.

    origins: dotted key -> who set it: "schema default", "preset task/mcq", "config my.yaml", "environment
    TOP_P", "command line", or "follows KEY" for the few values that another key decides. presets: group ->
    preset name."""

    config: Config
    origins: dict[str, str]
    presets: dict[str, str]

    def as_dict(self) -> dict[str, Any]:
        """The configuration as nested plain values, ready for JSON."""
        plain = asdict(self.config)
        for spec in fields(self.config):
            if (key := key_name(spec)) != spec.name:
                plain[key] = plain.pop(spec.name) | plain[key]
        return plain


def compose(overrides: Sequence[str] | Mapping[str, object], *, environ: Mapping[str, str]) -> Resolved:
    """The configuration that a command line, or arguments from Python, and an environment make.

    overrides: `task=mcq` (a preset), `lora.r=8` (a key), `data.algebra=F` (an entry), `config=FILE.yaml` (a
    file); from Python the same as a mapping with plain values, {"task": "mcq", "lora.r": 8}. Precedence: schema
    default < preset < file < preset named on the command line < environment < command line. Raises ConfigError for
    unknown keys and presets, values of the wrong type or out of range, and contradictions."""
    line = read_arguments(overrides) if isinstance(overrides, Mapping) else read_command_line(overrides)
    files = [read_config_file(path) for path in line.files]
    outside = read_environment(environ)
    presets = _choose_presets(line, files, outside)

    chosen: Chosen = {}
    for leaf in leaves().values():
        if leaf.value_type != "table":
            chosen[leaf.key] = Setting(leaf, "", leaf.default, Precedence.SCHEMA, "schema default", literal=True)
    _lay(chosen, _preset_settings(presets, line, outside))
    for source in (*files, outside, line):
        _lay(chosen, source.settings)

    values = _values(chosen)
    _follow(chosen, values, outside)
    values = _values(chosen)
    origins = _origins(chosen)
    config = _build(Config(), _nest(values))
    check(config, origins)
    return Resolved(config, origins, presets.chosen)


def _choose_presets(line: ConfigSource, files: Sequence[ConfigSource], outside: ConfigSource) -> Presets:
    choices: dict[str, str] = {}
    for source in (*files, outside, line):
        choices.update(source.presets)
    if "model" in line.presets:  # model=... and MODEL_NAME are one choice, and the command line has it
        outside.presets.pop("model", None)
        outside.settings[:] = [setting for setting in outside.settings if setting.key != "model.path"]
    return compose_presets(choices)


def _preset_settings(presets: Presets, line: ConfigSource, outside: ConfigSource) -> list[Setting]:
    settings: list[Setting] = []
    for group, tree in presets.values.items():
        rank, origin = Precedence.PRESET, f"preset {group}/{presets.chosen[group]}"
        if group in line.presets:
            rank = Precedence.CHOSEN_PRESET
        elif group in outside.presets:
            rank, origin = Precedence.ENVIRONMENT, "environment MODEL_NAME"
        settings.extend(flatten({group: tree}, rank=rank, origin=origin, location=f"{origin}: "))
    return settings


def _lay(chosen: Chosen, settings: Sequence[Setting]) -> None:
    for setting in settings:
        held = chosen.get(setting.key)
        if held is None or setting.rank >= held.rank:
            chosen[setting.key] = setting


def _follow(chosen: Chosen, values: Mapping[str, Any], outside: ConfigSource) -> None:
    """The few values that follow another key when that one was set by somebody stronger."""
    path, name = chosen["model.path"], chosen["model.name"]
    if path.rank > name.rank:
        last = re.split(r"[/\\:]", values["model.path"].rstrip("/\\"))[-1]
        _replace(chosen, "model.name", last, path, "follows model.path")
    temperature, sample = chosen["inference.temperature"], chosen["inference.do_sample"]
    if temperature.rank > sample.rank:
        _replace(chosen, sample.key, values[temperature.key] > 0, temperature, f"follows {temperature.key}")
    elif sample.rank > temperature.rank and values[sample.key] is False:
        _replace(chosen, temperature.key, 0.0, sample, f"follows {sample.key}")
    for setting in outside.settings:
        if setting.key == "training.batch_size" and chosen["inference.batch_tokens"].rank < setting.rank:
            rows = coerce(setting.leaf, "", setting.value, location=setting.location)
            tokens = rows * values["inference.max_input_tokens"]
            _replace(chosen, "inference.batch_tokens", tokens, setting, setting.origin)


def _replace(chosen: Chosen, key: str, value: Any, decider: Setting, origin: str) -> None:
    chosen[key] = replace(
        chosen[key], value=value, rank=decider.rank, origin=origin, location=decider.location, literal=True
    )


def _values(chosen: Chosen) -> dict[str, Any]:
    """Full key -> checked value, with `${key}` replaced and paths expanded."""
    raw = _interpolate(chosen) if any(_refers(setting) for setting in chosen.values()) else {}
    values = {
        key: coerce(setting.leaf, setting.entry, raw.get(key, setting.value), location=setting.location)
        for key, setting in chosen.items()
    }
    paths = {key: setting.location + key for key, setting in chosen.items() if setting.leaf.path and values[key]}
    return values | {key: local_path(values[key], description) for key, description in paths.items()}


def _refers(setting: Setting) -> bool:
    items = setting.value if isinstance(setting.value, list) else [setting.value]
    return not setting.literal and any(isinstance(item, str) and "${" in item for item in items)


def _interpolate(chosen: Chosen) -> dict[str, Any]:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    tree = _nest({key: escape(s.value) if s.literal else s.value for key, s in chosen.items()})
    try:
        resolved = OmegaConf.to_container(OmegaConf.create(tree), resolve=True)
    except OmegaConfBaseException as error:
        key = re.sub(r"\[\d+\]$", "", str(error.full_key or ""))  # an item of a list: the list
        reason = str(error).splitlines()[0]
        setting = chosen.get(key)
        location = setting.location if setting else ""
        raise ConfigError(
            f"{location}{key or 'a value'}: cannot resolve '${{...}}': {reason}",
            fix=r"${KEY} stands for another key's value; for a plain text write \${",
        ) from None
    assert isinstance(resolved, dict)
    return {key: _pick(resolved, setting) for key, setting in chosen.items()}


def escape(value: Any) -> Any:
    """A value in which "${" is plain text to OmegaConf."""
    if isinstance(value, list):
        return [escape(item) for item in value]
    if not isinstance(value, str):
        return value
    return re.sub(r"(\\*)\$\{", lambda match: match[1] * 2 + "\\${", value)


def _pick(tree: Mapping[Any, Any], setting: Setting) -> Any:
    node: Any = tree
    for segment in setting.leaf.key.split("."):
        node = node[segment]
    return node[setting.entry] if setting.entry else node


def _nest(values: Mapping[str, Any]) -> dict[str, Any]:
    """Full keys as nested dictionaries; every table is there, if only empty."""
    tree: dict[str, Any] = {}
    full = [(key, *find(key)) for key in values]
    full += [(leaf.key, leaf, "") for leaf in leaves().values() if leaf.value_type == "table"]
    for key, leaf, entry in full:
        *parents, last = leaf.key.split(".")
        node = tree
        for segment in parents:
            node = node.setdefault(segment, {})
        if leaf.value_type == "table":
            table = node.setdefault(last, {})
            if entry:
                table[entry] = values[key]
        else:
            node[last] = values[key]
    return tree


def _origins(chosen: Chosen) -> dict[str, str]:
    """Origins in the order of the schema; a table has one for each entry, or its own where it is empty."""
    origins: dict[str, str] = {}
    for leaf in leaves().values():
        own = {key: setting.origin for key, setting in chosen.items() if setting.leaf is leaf}
        origins.update(own or {leaf.key: "schema default"})
    return origins


def _build(template: Any, tree: Mapping[str, Any], prefix: str = "") -> Any:
    """A configuration dataclass like `template` with the values of `tree`."""
    values = {}
    for spec in fields(template):
        default, value, shared = getattr(template, spec.name), tree[key_name(spec)], own_keys(prefix + spec.name)
        if isinstance(default, dict):  # a table's own keys are fields elsewhere
            value = {name: item for name, item in value.items() if name not in shared}
        values[spec.name] = _build(default, value, f"{prefix}{spec.name}.") if is_dataclass(default) else value
    return type(template)(**values)
