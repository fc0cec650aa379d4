"""The engines that answer requests, by name. Each is imported only when it is loaded."""

from __future__ import annotations

from importlib import import_module
from typing import cast

from lorica.engine_table import ENGINES
from lorica.engines.base import Engine, EngineFactory, EngineSettings
from lorica.errors import EngineError
from lorica.models.base_folder import BaseFolder
from lorica.names import did_you_mean

__all__ = ["load_engine"]


def load_engine(name: str, base: BaseFolder, settings: EngineSettings) -> Engine:
    """The engine of this name, with the base model loaded and no adapter yet.

    Raises EngineError for an unknown name or a setting this engine cannot follow, ModelError for a model it cannot
    load, MissingExtraError for a package it lacks.
    """
    if name not in ENGINES:
        hint = did_you_mean(name, ENGINES, form="engine={}", otherwise="choose one of these with engine=NAME")
        raise EngineError(f"no engine {name!r}; there are: {', '.join(ENGINES)}", fix=hint)
    module, function = ENGINES[name].factory.split(":")
    factory = cast(EngineFactory, getattr(import_module(module), function))
    return factory(base, settings)
