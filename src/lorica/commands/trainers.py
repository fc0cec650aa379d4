"""Which trainer makes members of a base: that of the engine which answers with them; and what trainers of every kind
have in common: task, base and tokenizer, and the passport of what they trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import cast

from lorica.adapters.member import Member
from lorica.adapters.passport import Passport
from lorica.admission.make_passport import (
    data_facts,
    make_passport,
    measure_on_rows,
    prompt_facts,
    shipped_canaries,
    training_facts,
)
from lorica.admission.provenance import base_facts, package_versions, trained_as
from lorica.commands import build
from lorica.commands.load_once import LoadOnce
from lorica.config.schema import Config
from lorica.engine_table import ENGINES
from lorica.engines.base import Engine
from lorica.errors import ConfigError
from lorica.models.base_folder import BaseFolder
from lorica.pipeline.retrieve import Retriever
from lorica.pipeline.train import TrainJob, TrainVal
from lorica.pipeline.trainer import Trainer
from lorica.prompts.encoder import Encoder
from lorica.tasks.base import Task
from lorica.training.types import TrainResult

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


@dataclass(frozen=True)
class TrainerParts:
    """A `pipeline.trainer.Trainer` but for `train`. config: with the precision of its training decided. provenance: see
    `training_provenance`."""

    config: Config
    task: Task
    base_model: BaseFolder
    encoder: Encoder
    provenance: Mapping[str, str]

    @property
    def digests(self) -> tuple[str, str]:
        """Of the base and of the tokenizer that spells prompts."""
        return self.base_model.digest, self.encoder.tokenizer_digest

    def passport(
        self,
        job: TrainJob,
        split_rows: TrainVal,
        result: TrainResult,
        member: Member,
        engine: Engine,
        retriever: Retriever | None = None,
    ) -> Passport:
        """The passport of what a job trained, asked through the engine that will answer, to which it is added."""
        engine.add_adapter(job.name, member)
        return make_passport(
            member,
            base=base_facts(self.base_model, model_name=self.config.model.path, revision=self.config.model.revision),
            prompt=prompt_facts(self.encoder, self.task, build.prompt_settings(self.config)),
            canaries=shipped_canaries(
                engine, job.name, self.task, self.encoder, build.tokenizer_folder(self.config, self.base_model)
            ),
            metrics=measure_on_rows(
                self.task,
                self.encoder,
                engine,
                job.name,
                job.held_out or split_rows.validation,
                build.answer_settings(self.config, self.base_model),
                row_source="held_out" if job.held_out else "validation",
                retriever=retriever,
            ),
            data=data_facts(job, split_rows),
            training=training_facts(self.config.training, result),
        )


def training_provenance(
    config: Config, task: Task, encoder: Encoder, base_model: BaseFolder, reading: Mapping[str, str]
) -> dict[str, str]:
    """What identifies a training beside its rows and settings. reading: what of its files was not read."""
    return {**trained_as(task, encoder, base_model), "model": config.model.name, **package_versions(), **reading}
