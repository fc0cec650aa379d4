"""Which trainer makes members of a base: that of the engine which answers with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import cast

from lorica.commands.load_once import LoadOnce
from lorica.config.schema import Config
from lorica.engine_table import ENGINES
from lorica.errors import ConfigError
from lorica.pipeline.trainer import Trainer
from lorica.tasks.base import Task

MakeTrainer = Callable[[Config, Task, Mapping[str, str], LoadOnce | None], Trainer]
"""The signature of the functions that `engine_table.ENGINES` names as `trainer`: the configuration, its task, what of
the training files was not read, for the record, and what holds the base for further trainings, if there will be some.
They load what all jobs share."""


def check_trainable(config: Config) -> None:
    """Raise ConfigError for an engine whose members nothing trains."""
    if not ENGINES[config.engine.name].trainer:
        raise ConfigError(
            f"engine={config.engine.name} cannot train", fix="leave engine=native; the adapters run on every engine"
        )


def load_trainer(config: Config, task: Task, reading: Mapping[str, str], base: LoadOnce | None = None) -> Trainer:
    """The trainer for the configured engine, imported now, on the base that is held, where it is the same in the same
    precision. Raises ConfigError where there is none, and what loading the base raises."""
    check_trainable(config)
    module, function = ENGINES[config.engine.name].trainer.split(":")
    make_trainer = cast(MakeTrainer, getattr(import_module(module), function))
    return make_trainer(config, task, reading, base)
