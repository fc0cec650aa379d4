"""Composition: schema defaults, presets, a configuration file, the environment and the command line, in this order.

Each value is kept with who set it until the last one is known; only then is it checked, so that a message can
say where a bad value came from."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from typing import Any

from lorica.config.config_file import read_config_file
from lorica.config.encoder_defaults import ENCODER_TOKENS, encoder_defaults
from lorica.config.environment import read_environment
from lorica.config.fields import find, key_name, key_specs, own_keys
from lorica.config.origins import ConfigSource, Precedence, Setting, flatten, read_arguments, read_command_line
from lorica.config.parse_values import coerce
from lorica.config.paths import local_path
from lorica.config.presets import Presets, compose_presets
from lorica.config.schema import Config, EngineConfig
from lorica.config.validate import check
from lorica.engine_table import ENGINES, LONGEST_TEXT
from lorica.errors import ConfigError
from lorica.tasks import load_task

_INPUT_KEY = "inference.max_input_tokens"

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

    def is_set(self, key: str) -> bool:
        """Whether the words of the command, or the arguments from Python, set this key or an entry of it."""
        return any(
            origin in ("command line", "argument") and (set_key == key or set_key.startswith(f"{key}."))
            for set_key, origin in self.origins.items()
        )

    def as_dict(self) -> dict[str, Any]:
        """The configuration as nested plain values, ready for JSON."""
        plain_config = asdict(self.config)
        for schema_field in fields(self.config):
            if (field_key := key_name(schema_field)) != schema_field.name:
                plain_config[field_key] = plain_config.pop(schema_field.name) | plain_config[field_key]
        return plain_config


IsEncoder = Callable[[str, str, str], bool]
"""Whether model.path, with model.cache_dir and model.revision, is an encoder's."""


def compose(
    overrides: Sequence[str] | Mapping[str, object],
    *,
    environ: Mapping[str, str],
    is_encoder: IsEncoder = lambda path, cache_dir, revision: False,
) -> Resolved:
    """The configuration that a command line, or arguments from Python, and an environment make.

    overrides: `task=mcq` (a preset), `lora.r=8` (a key), `data.algebra=F` (an entry), `config=FILE.yaml` (a
    file); from Python the same as a mapping with plain values, {"task": "mcq", "lora.r": 8}. Precedence: schema
    default < preset < file < preset named on the command line < environment < command line. Raises ConfigError for
    unknown keys and presets, values of the wrong type or out of range, and contradictions. is_encoder: looks at a model
    that no preset names."""
    command_line = read_arguments(overrides) if isinstance(overrides, Mapping) else read_command_line(overrides)
    config_files = [read_config_file(config_path) for config_path in command_line.config_files]
    environment = read_environment(environ)
    presets = _choose_presets(command_line, config_files, environment)

    chosen: Chosen = {
        spec.key: Setting(spec, "", spec.default, Precedence.SCHEMA, "schema default", literal=True)
        for spec in key_specs().values()
        if spec.value_type != "table"
    }
    _lay(chosen, _preset_settings(presets, command_line, environment))
    for config_source in (*config_files, environment, command_line):
        _lay(chosen, config_source.settings)

    checked_values = _values(chosen)
    _follow(chosen, checked_values, environment)
    _follow_encoder(chosen, checked_values, is_encoder)
    _follow_text_engine(chosen, checked_values)
    _follow_training(chosen, checked_values)
    checked_values = _values(chosen)
    origins = _origins(chosen)
    config = _build(Config(), _nest(checked_values))
    check(config, origins)
    return Resolved(config, origins, presets.chosen)


def _choose_presets(command_line: ConfigSource, files: Sequence[ConfigSource], environment: ConfigSource) -> Presets:
    choices: dict[str, str] = {}
    for config_source in (*files, environment, command_line):
        choices.update(config_source.presets)
    if "model" in command_line.presets:  # model=... and MODEL_NAME are one choice, and the command line has it
        environment.presets.pop("model", None)
        environment.settings[:] = [setting for setting in environment.settings if setting.key != "model.path"]
    return compose_presets(choices)


def _preset_settings(presets: Presets, command_line: ConfigSource, environment: ConfigSource) -> list[Setting]:
    settings: list[Setting] = []
    for group, preset_tree in presets.values_by_group.items():
        precedence, origin = Precedence.PRESET, f"preset {group}/{presets.chosen[group]}"
        if group in command_line.presets:
            precedence = Precedence.CHOSEN_PRESET
        elif group in environment.presets:
            precedence, origin = Precedence.ENVIRONMENT, "environment MODEL_NAME"
        settings.extend(flatten({group: preset_tree}, precedence=precedence, origin=origin, location=f"{origin}: "))
    return settings


def _lay(chosen_settings: Chosen, settings: Sequence[Setting]) -> None:
    for setting in settings:
        weaker_setting = chosen_settings.get(setting.key)
        if weaker_setting is None or setting.precedence >= weaker_setting.precedence:
            chosen_settings[setting.key] = setting


def _follow(chosen: Chosen, values: Mapping[str, Any], environment: ConfigSource) -> None:
    """The few values that follow another key when that one was set by somebody stronger."""
    path_setting, name_setting = chosen["model.path"], chosen["model.name"]
    if path_setting.precedence > name_setting.precedence:
        folder_name = re.split(r"[/\\:]", values["model.path"].rstrip("/\\"))[-1]
        _replace(chosen, "model.name", folder_name, path_setting, "follows model.path")
    temperature, do_sample = chosen["inference.temperature"], chosen["inference.do_sample"]
    if temperature.precedence > do_sample.precedence:
        _replace(chosen, do_sample.key, values[temperature.key] > 0, temperature, f"follows {temperature.key}")
    elif do_sample.precedence > temperature.precedence and values[do_sample.key] is False:
        _replace(chosen, temperature.key, 0.0, do_sample, f"follows {do_sample.key}")
    for setting in environment.settings:
        if setting.key == "training.batch_size" and chosen["inference.batch_tokens"].precedence < setting.precedence:
            batch_rows = coerce(setting.key_spec, "", setting.value, location=setting.location)
            batch_tokens = batch_rows * values["inference.max_input_tokens"]
            _replace(chosen, "inference.batch_tokens", batch_tokens, setting, setting.origin)


def _follow_encoder(chosen: Chosen, values: Mapping[str, Any], is_encoder: IsEncoder) -> None:
    """The engine, where the base is an encoder, and the style of prompts, where the engine has its own."""
    path_setting, engine_setting = chosen["model.path"], chosen["engine.name"]
    engine_name = values[engine_setting.key]
    location = (values[key] for key in ("model.path", "model.cache_dir", "model.revision"))
    unchosen = engine_name == EngineConfig.name and path_setting.precedence > engine_setting.precedence
    if unchosen and is_encoder(*location):
        engine_name = "encoder"
        _replace(chosen, engine_setting.key, engine_name, path_setting, "follows model.path")
    style_setting, engine_style = chosen["task.style"], ENGINES[engine_name].style
    of_preset = style_setting.precedence is Precedence.SCHEMA or style_setting.origin.startswith("preset ")
    if of_preset and engine_style and engine_style in load_task(values["task.name"]).styles:
        _replace(chosen, style_setting.key, engine_style, chosen[engine_setting.key], f"follows {engine_setting.key}")


def _follow_text_engine(chosen: Chosen, values: Mapping[str, Any]) -> None:
    """The longest prompt of an engine whose tokens are bytes, which no model's positions bound."""
    engine_setting, length_setting = chosen["engine.name"], chosen["inference.max_input_tokens"]
    if ENGINES[values[engine_setting.key]].tokenizer and length_setting.precedence <= Precedence.PRESET:
        _replace(chosen, length_setting.key, LONGEST_TEXT, engine_setting, f"follows {engine_setting.key}")


def _follow_training(chosen: Chosen, values: Mapping[str, Any]) -> None:
    """How a classifier is trained, and the length of its input, as far as nobody chose it."""
    engine_setting, method_setting = chosen["engine.name"], chosen["training.method"]
    if engine_setting.value != "encoder":
        return
    unchosen = method_setting.precedence is Precedence.SCHEMA
    for setting in encoder_defaults("full" if unchosen else values[method_setting.key]):
        if chosen[setting.key].precedence <= Precedence.PRESET:
            chosen[setting.key] = setting
    if chosen[_INPUT_KEY].precedence <= Precedence.PRESET:
        _replace(chosen, _INPUT_KEY, ENCODER_TOKENS, engine_setting, f"follows {engine_setting.key}")


def _replace(chosen: Chosen, key: str, value: Any, decider: Setting, origin: str) -> None:
    chosen[key] = replace(
        chosen[key], value=value, precedence=decider.precedence, origin=origin, location=decider.location, literal=True
    )


def _values(chosen: Chosen) -> dict[str, Any]:
    """Full key -> checked value, with `${key}` replaced and paths expanded."""
    raw = _interpolate(chosen) if any(_refers(setting) for setting in chosen.values()) else {}
    values = {
        key: coerce(setting.key_spec, setting.entry_name, raw.get(key, setting.value), location=setting.location)
        for key, setting in chosen.items()
    }
    path_descriptions = {
        key: setting.location + key for key, setting in chosen.items() if setting.key_spec.is_path and values[key]
    }
    return values | {key: local_path(values[key], description) for key, description in path_descriptions.items()}


def _refers(setting: Setting) -> bool:
    value_items = setting.value if isinstance(setting.value, list) else [setting.value]
    return not setting.literal and any(isinstance(item, str) and "${" in item for item in value_items)


def _interpolate(chosen: Chosen) -> dict[str, Any]:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    tree = _nest({key: escape(setting.value) if setting.literal else setting.value for key, setting in chosen.items()})
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
        return [escape(list_item) for list_item in value]
    if not isinstance(value, str):
        return value
    return re.sub(r"(\\*)\$\{", lambda dollar_match: dollar_match[1] * 2 + "\\${", value)


def _pick(tree: Mapping[Any, Any], setting: Setting) -> Any:
    tree_node: Any = tree
    for segment in setting.key_spec.key.split("."):
        tree_node = tree_node[segment]
    return tree_node[setting.entry_name] if setting.entry_name else tree_node


def _nest(values_by_key: Mapping[str, Any]) -> dict[str, Any]:
    """Full keys as nested dictionaries; every table is there, if only empty."""
    tree: dict[str, Any] = {}
    full_keys = [(full_key, *find(full_key)) for full_key in values_by_key]
    full_keys += [(key_spec.key, key_spec, "") for key_spec in key_specs().values() if key_spec.value_type == "table"]
    for full_key, key_spec, entry_name in full_keys:
        *parent_segments, last_segment = key_spec.key.split(".")
        tree_node = tree
        for segment in parent_segments:
            tree_node = tree_node.setdefault(segment, {})
        if key_spec.value_type == "table":
            table_entries = tree_node.setdefault(last_segment, {})
            if entry_name:
                table_entries[entry_name] = values_by_key[full_key]
        else:
            tree_node[last_segment] = values_by_key[full_key]
    return tree


def _origins(chosen: Chosen) -> dict[str, str]:
    """Origins in the order of the schema; a table has one for each entry, or its own where it is empty."""
    origins: dict[str, str] = {}
    for key_spec in key_specs().values():
        origins_of_key = {key: setting.origin for key, setting in chosen.items() if setting.key_spec is key_spec}
        origins.update(origins_of_key or {key_spec.key: "schema default"})
    return origins


def _build(template: Any, tree: Mapping[str, Any], prefix: str = "") -> Any:
    """A configuration dataclass like `template` with the values of `tree`."""
    field_values = {}
    for spec in fields(template):
        default, value = getattr(template, spec.name), tree[key_name(spec)]
        if isinstance(default, dict):  # a table's own keys are fields elsewhere
            own_names = own_keys(prefix + spec.name)
            value = {name: item for name, item in value.items() if name not in own_names}
        field_values[spec.name] = _build(default, value, f"{prefix}{spec.name}.") if is_dataclass(default) else value
    return type(template)(**field_values)
