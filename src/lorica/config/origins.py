"""One value for one key, with who set it; and the settings a command line holds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import PurePath
from typing import Any

from lorica.config.fields import SHORT_KEYS, KeySpec, find, key_specs, sections
from lorica.config.parse_values import parse, unquote
from lorica.config.presets import GROUPS, check_preset, preset_names
from lorica.config.retrieval_section import ALL_SUBJECTS
from lorica.errors import ConfigError


class Precedence(IntEnum):
    """Who wins over whom, from the weakest to the strongest."""

    SCHEMA = 0
    PRESET = 1
    FILE = 2
    CHOSEN_PRESET = 3  # a preset named on the command line
    ENVIRONMENT = 4
    COMMAND_LINE = 5


@dataclass(frozen=True)
class Setting:
    """`value` for one key (`entry_name` names the entry of a table), not yet checked.

    origin: who set it, for people. location: put before an error message. literal: "${...}" in it is plain text.
    """

    key_spec: KeySpec
    entry_name: str
    value: Any
    precedence: Precedence
    origin: str
    location: str = ""
    literal: bool = False

    @property
    def key(self) -> str:
        return f"{self.key_spec.key}.{self.entry_name}" if self.entry_name else self.key_spec.key


@dataclass
class ConfigSource:
    """What one source says: group -> preset, and settings in their order."""

    presets: dict[str, str] = field(default_factory=dict)
    settings: list[Setting] = field(default_factory=list)


@dataclass
class CommandLine(ConfigSource):
    """A command line: presets, settings, and the configuration files it names."""

    config_files: list[str] = field(default_factory=list)


def read_command_line(overrides: Sequence[str]) -> CommandLine:
    """Overrides such as `task=mcq`, `lora.r=8`, `data.algebra=F`, `config=my.yaml`.

    The last of two values for one key counts. Raises ConfigError for text that is no override and for unknown
    keys and presets."""
    return _command_line(map(_halves, overrides), unquote, parse, origin="command line")


def read_arguments(arguments: Mapping[str, object]) -> CommandLine:
    """The same from Python, with values as they are: {"training": "tiny", "lora.r": 8, "data": {"algebra": path}}.

    Raises ConfigError for unknown keys and presets."""
    return _command_line(
        arguments.items(), str, lambda spec, name, value: _plain(value), origin="argument", literal=True
    )


def _command_line(
    given_values: Iterable[tuple[str, Any]],
    to_text: Callable[[Any], str],
    to_plain: Callable[[KeySpec, str, Any], Any],
    *,
    origin: str,
    literal: bool = False,
) -> CommandLine:
    command_line = CommandLine()
    for config_key, value in given_values:
        if config_key == "config":
            command_line.config_files.append(to_text(value))
        elif config_key in GROUPS:
            command_line.presets[config_key] = check_preset(config_key, to_text(value))
        else:
            key_spec, entry_name = find(config_key)
            plain_value = to_plain(key_spec, entry_name, value)
            command_line.settings += spread(
                key_spec, entry_name, plain_value, precedence=Precedence.COMMAND_LINE, origin=origin, literal=literal
            )
    return command_line


def _plain(argument: object) -> object:
    """Paths as texts and tuples as lists, which is what keys take."""
    if isinstance(argument, Mapping):
        return {entry_name: _plain(nested_value) for entry_name, nested_value in argument.items()}
    if isinstance(argument, tuple | list):
        return [_plain(nested_value) for nested_value in argument]
    return str(argument) if isinstance(argument, PurePath) else argument


def _halves(override: str) -> tuple[str, str]:
    config_key, equals_sign, value_text = override.partition("=")
    config_key = config_key.removeprefix("+").removeprefix("+")  # Hydra's "+" for new keys is never needed here
    if config_key.startswith("~"):
        raise ConfigError(f"{override!r} would delete a key", fix="leave the key out, or set it to its default")
    if config_key.startswith("-") or not equals_sign or not config_key:
        fix = f"an option is written {config_key.lstrip('-')}={value_text or 'VALUE'}"
        raise ConfigError(
            f"{override!r} is not an override of the form KEY=VALUE",
            fix=fix if config_key.startswith("-") else _example(config_key),
        )
    return config_key, value_text


def _example(bare_word: str) -> str:
    for group_name in GROUPS:
        if bare_word in preset_names(group_name):
            return f"write {group_name}={bare_word}"
    if bare_word in key_specs():
        return f"write {bare_word}=VALUE"
    return "examples: task=mcq lora.r=8 data.algebra=algebra.jsonl"


def spread(
    key_spec: KeySpec,
    entry_name: str,
    plain_value: Any,
    *,
    precedence: Precedence,
    origin: str,
    location: str = "",
    literal: bool = False,
) -> Iterator[Setting]:
    """The settings that a value makes: one for each entry of a whole table, one otherwise. One switch in place of a
    table of them is its entry `all`."""
    if key_spec.item_type == "bool" and not entry_name and isinstance(plain_value, bool):
        entry_name = ALL_SUBJECTS
    if key_spec.value_type == "table" and not entry_name and isinstance(plain_value, Mapping):
        for subkey, entry_value in plain_value.items():
            if not isinstance(subkey, str) or not subkey:
                raise ConfigError(
                    f"{location}{key_spec.key}: the name {subkey!r} is not a text", fix=f"quote it: '{subkey}'"
                )
            entry_spec, entry_name = find(f"{key_spec.key}.{subkey}")  # a name in a table may be a key of its own
            yield Setting(entry_spec, entry_name, entry_value, precedence, origin, location, literal)
    else:
        yield Setting(key_spec, entry_name, plain_value, precedence, origin, location, literal)


def flatten(
    value_tree: Mapping[Any, Any], *, precedence: Precedence, origin: str, location: str, key_prefix: str = ""
) -> Iterator[Setting]:
    """The settings in nested values, as YAML files hold them. Raises ConfigError for unknown keys."""
    for key_segment, tree_value in value_tree.items():
        config_key = f"{key_prefix}{key_segment}"
        is_short = config_key in SHORT_KEYS and isinstance(tree_value, int)
        if config_key not in sections() or config_key in key_specs() or is_short:
            key_spec, entry_name = find(config_key, location=location)
            yield from spread(key_spec, entry_name, tree_value, precedence=precedence, origin=origin, location=location)
        elif isinstance(tree_value, Mapping):
            yield from flatten(
                tree_value, precedence=precedence, origin=origin, location=location, key_prefix=config_key + "."
            )
        elif tree_value is not None:  # a section whose keys are all commented out is empty
            suggestion = (
                f"choose a preset under `defaults:` as `- {config_key}: {tree_value}`"
                if config_key in GROUPS
                else f"nest keys under {config_key}:"
            )
            raise ConfigError(f"{location}{config_key} is a section of keys; got {tree_value!r}", fix=suggestion)
