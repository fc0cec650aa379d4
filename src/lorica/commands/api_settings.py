"""How functions of the Python API make a configuration of their arguments."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from lorica.commands import arguments_of_api as argument
from lorica.commands.arguments import resolve
from lorica.config.schema import Config

PathLike = str | Path
Settings = Mapping[str, object] | None


def all_settings(arguments: Mapping[str, object], base: PathLike | None, settings: Settings) -> dict[str, object]:
    """Configuration from Python: what was given by name overrides `settings`."""
    named_settings = {**arguments, "model.path": argument.optional_text(base, "base")}
    named_settings = {key: value for key, value in named_settings.items() if value is not None}
    return {**argument.checked_settings(settings), **named_settings}


def configuration(arguments: Mapping[str, object], base: PathLike | None, settings: Settings) -> Config:
    """As `all_settings`, composed with presets and environment and checked."""
    return resolve(all_settings(arguments, base, settings)).config
