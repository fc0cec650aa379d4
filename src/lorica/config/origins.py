"""One value for one key, with who set it; and the settings a command line holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import PurePath
from typing import Any

from lorica.config.fields import Leaf, find, leaves, sections
from lorica.config.parse_values import parse, unquote
from lorica.config.presets import GROUPS, check_preset, preset_names
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
    """`value` for one key (`entry` names the entry where `leaf` is a table), not yet checked.

    origin: who set it, for people. location: put before an error message. literal: "${...}" in it is plain text.
    """

    leaf: Leaf
    entry: str
    value: Any
    rank: Precedence
    origin: str
    location: str = ""
    literal: bool = False

    @property
    def key(self) -> str:
        return f"{self.leaf.key}.{self.entry}" if self.entry else self.leaf.key


@dataclass
class ConfigSource:
    """What one source says: group -> preset, and settings in their order."""

    presets: dict[str, str] = field(default_factory=dict)
    settings: list[Setting] = field(default_factory=list)


@dataclass
class CommandLine(ConfigSource):
    """A command line: presets, settings, and the configuration files it names."""

    files: list[str] = field(default_factory=list)


def read_command_line(overrides: Sequence[str]) -> CommandLine:
    """Overrides such as `task=mcq`, `lora.r=8`, `data.algebra=F`, `config=my.yaml`.

    The last of two values for one key counts. Raises ConfigError for text that is no override and for unknown
    keys and presets."""
    line = CommandLine()
    for override in overrides:
        key, text = _halves(override)
        if key == "config":
            line.files.append(unquote(text))
        elif key in GROUPS:
            line.presets[key] = check_preset(key, unquote(text))
        else:
            leaf, entry = find(key)
            value = parse(leaf, entry, text)
            line.settings.extend(spread(leaf, entry, value, rank=Precedence.COMMAND_LINE, origin="command line"))
    return line


def read_arguments(arguments: Mapping[str, object]) -> CommandLine:
    """The same from Python, with values as they are: {"training": "tiny", "lora.r": 8, "data": {"algebra": path}}.

    Raises ConfigError for unknown keys and presets."""
    line = CommandLine()
    for key, value in arguments.items():
        if key == "config":
            line.files.append(str(value))
        elif key in GROUPS:
            line.presets[key] = check_preset(key, str(value))
        else:
            leaf, entry = find(key)
            settings = spread(leaf, entry, _plain(value), rank=Precedence.COMMAND_LINE, origin="argument", literal=True)
            line.settings.extend(settings)
    return line


def _plain(value: object) -> object:
    """Paths as texts and tuples as lists, which is what keys take."""
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, PurePath) else value


def _halves(override: str) -> tuple[str, str]:
    key, equals, text = override.partition("=")
    key = key.removeprefix("+").removeprefix("+")  # Hydra's "+" for new keys is never needed here
    if key.startswith("~"):
        raise ConfigError(f"{override!r} would delete a key", fix="leave the key out, or set it to its default")
    if key.startswith("-") or not equals or not key:
        hint = f"an option is written {key.lstrip('-')}={text or 'VALUE'}" if key.startswith("-") else ""
        raise ConfigError(f"{override!r} is not an override of the form KEY=VALUE", fix=hint or _example(key))
    return key, text


def _example(word: str) -> str:
    for group in GROUPS:
        if word in preset_names(group):
            return f"write {group}={word}"
    if word in leaves():
        return f"write {word}=VALUE"
    return "examples: task=mcq lora.r=8 data.algebra=algebra.jsonl"


def spread(
    leaf: Leaf, entry: str, value: Any, *, rank: Precedence, origin: str, location: str = "", literal: bool = False
) -> Iterator[Setting]:
    """The settings that a value makes: one for each entry of a whole table, one otherwise."""
    if leaf.value_type == "table" and not entry and isinstance(value, Mapping):
        for name, item in value.items():
            if not isinstance(name, str) or not name:
                raise ConfigError(f"{location}{leaf.key}: the name {name!r} is not a text", fix=f"quote it: '{name}'")
            own, entry = find(f"{leaf.key}.{name}")  # a name in a table may be a key of its own
            yield Setting(own, entry, item, rank, origin, location, literal)
    else:
        yield Setting(leaf, entry, value, rank, origin, location, literal)


def flatten(
    tree: Mapping[Any, Any], *, rank: Precedence, origin: str, location: str, prefix: str = ""
) -> Iterator[Setting]:
    """The settings in nested values, as YAML files hold them. Raises ConfigError for unknown keys."""
    for name, value in tree.items():
        key = f"{prefix}{name}"
        if key not in sections() or key in leaves():
            leaf, entry = find(key, location=location)
            yield from spread(leaf, entry, value, rank=rank, origin=origin, location=location)
        elif isinstance(value, Mapping):
            yield from flatten(value, rank=rank, origin=origin, location=location, prefix=key + ".")
        elif value is not None:  # a section whose keys are all commented out is empty
            fix = (
                f"choose a preset under `defaults:` as `- {key}: {value}`"
                if key in GROUPS
                else f"nest keys under {key}:"
            )
            raise ConfigError(f"{location}{key} is a section of keys; got {value!r}", fix=fix)
