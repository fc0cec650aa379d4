"""The keys of `adapters`; `config.schema` says how keys are written."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from lorica.config.value_types import LocalPath

Fallback = Literal["general", "base", "error"]
Gate = Literal["auto", "require", "off"]


@dataclass(frozen=True)
class AdaptersConfig:
    """Which adapters answer rows."""

    dir: LocalPath = ""
    """Folder whose subfolders are adapters, each named after its task or subject, or `general`. A subject is met
    in any spelling: `world_history` answers `World History`. Two adapters in spellings of one name are an error."""

    paths: dict[str, LocalPath] = field(default_factory=dict)
    """Single adapters: name -> folder, as in `adapters.paths.algebra=runs/algebra`. Overrides an adapter of this name,
    in any spelling, in `adapters.dir`."""

    fallback: Fallback = "general"
    """What answers a row whose task and subject have no adapter: the `general` adapter (the base model if there is
    none), the `base` model, or an `error`."""

    use: str = ""
    """The one adapter that answers every row; empty chooses per row: task, subject, general, base."""

    gate: Gate = "auto"
    """What an adapter must prove before it answers. `auto`: that the engine reproduces the canaries of its passport
    (`lorica.json`), or without a passport that it changes the base's answers; `require`: the same, and every adapter
    has a passport; `off`: nothing."""

    calibration: Literal["off", "auto", "require"] = "off"
    """Whether `rules` and `mcq` scores are calibrated by the file that `lorica calibrate` saved with their adapter.
    `off`: never; `auto`: if there is one; `require`: always, and a missing one is an error."""
