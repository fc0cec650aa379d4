"""Training encoder classifiers, by all weights or LoRA: what all jobs share, and a passport for each."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from lorica.adapters.member import open_member
from lorica.adapters.passport import Passport
from lorica.commands import build
from lorica.commands.load_once import LoadOnce
from lorica.commands.trainers import TrainerParts, training_provenance
from lorica.config.schema import Config, TrainingConfig
from lorica.encoder_families import EncoderFamily
from lorica.engines import load_engine
from lorica.engines.base import EngineSettings, resolve_device
from lorica.errors import ConfigError
from lorica.hardware import this_machine
from lorica.locks import FolderLock
from lorica.models.base_folder import BaseFolder
from lorica.models.classifiers import base_family
from lorica.pipeline.answer import check_prompt_fits
from lorica.pipeline.train import LossExample, TrainJob, TrainVal
from lorica.pipeline.train_classifier import train_classifier
from lorica.precision_choice import for_accelerator
from lorica.tasks.base import Task
from lorica.training.make_classifier import load_new_model
from lorica.training.types import Listener, TrainResult


@dataclass(frozen=True)
class ClassifierTrainer(TrainerParts):
    """A `pipeline.trainer.Trainer` of encoder classifiers. untrained: holds the base for further trainings, of which
    each has a copy; None to load it for each. proves_reload: whether what is saved is loaded in a fresh process."""

    untrained: LoadOnce | None
    proves_reload: bool

    def engine(self) -> None:
        """A classifier has weights of its own."""

    def train(
        self,
        job: TrainJob,
        split_rows: TrainVal,
        folder_lock: FolderLock,
        tell_example: Callable[[LossExample], None] | None,
        *,
        listener: Listener,
    ) -> TrainResult:
        return train_classifier(
            job,
            split_rows,
            task=self.task,
            encoder=self.encoder,
            base=self.base_model,
            adapter=build.adapter_config(self.config, self.base_model),
            settings=self.config.training,
            engine_settings=self._engine_settings(),
            truncate=self.config.task.truncate,
            provenance=self.provenance,
            listener=listener,
            issue_passport=partial(self._passport, job, split_rows),
            folder_lock=folder_lock,
            tell_example=tell_example,
            new_model=self._new_model,
            fresh_reload=self.proves_reload,
        )

    def _new_model(self, base: BaseFolder, head_labels: Sequence[str], seed: int) -> Any:
        if self.untrained is None:
            return load_new_model(base, head_labels, seed)
        loading = (base.digest, tuple(head_labels), seed)
        return copy.deepcopy(self.untrained.get(loading, partial(load_new_model, base, head_labels, seed)))

    def _engine_settings(self) -> EngineSettings:
        """In float32, in which classifiers are saved, and by as many threads as train."""
        return EngineSettings(
            dtype="float32",
            device=resolve_device(self.config.model.device),
            batch_tokens=self.config.inference.batch_tokens,
            threads=torch.get_num_threads(),
        )

    def _passport(self, job: TrainJob, split_rows: TrainVal, folder: Path, train_result: TrainResult) -> Passport:
        """The passport of the trained classifier in `folder`, asked through the engine that will answer."""
        engine = load_engine("encoder", self.base_model, self._engine_settings())
        return self.passport(job, split_rows, train_result, open_member(folder), engine)


def make_trainer(config: Config, task: Task, reading: Mapping[str, str], base: LoadOnce | None) -> ClassifierTrainer:
    """Open the base model. Raises ModelError, PromptError and ConfigError for what cannot be used, AdapterError for a
    base with a head that has other labels than the task."""
    base_model = build.base_folder(config)
    family = base_family(base_model)
    if task.answer_type != "score" or task.settings.method != "choice":
        raise ConfigError(
            f"an encoder classifier has two labels; task={task.name} with task.method={task.settings.method} asks for "
            "something else",
            fix="use task=rules, or train a decoder such as model=lorica_tiny",
        )
    if config.retrieval.train:
        raise ConfigError(
            "retrieval.train=true puts passages into the prompts of decoders, and an encoder has none",
            fix="leave it out, or train a decoder",
        )
    build.check_labels_of_base(task, base_model)
    encoder = build.build_encoder(config, base_model)
    check_prompt_fits(task, build.answer_settings(config, base_model))
    if config.engine.threads:
        torch.set_num_threads(config.engine.threads)
    return ClassifierTrainer(
        config=replace(config, training=classifier_precision(config, family)),
        task=task,
        base_model=base_model,
        encoder=encoder,
        provenance=training_provenance(config, task, encoder, base_model, reading),
        untrained=base,
        proves_reload=base is None or base.is_empty,
    )


def classifier_precision(config: Config, family: EncoderFamily) -> TrainingConfig:
    """The settings with `bf16` and `fp16` decided: float32 on a CPU, and on a GPU what it multiplies fastest and the
    family survives. Weights are float32 always. Raises ConfigError for what the family overflows in, and for weights
    that are not trained.
    """
    model, training = config.model, config.training
    if model.load_in_4bit or model.dtype not in ("auto", "float32"):
        key_text = "model.load_in_4bit=true" if model.load_in_4bit else f"model.dtype={model.dtype}"
        fix = "leave it out; training.bf16=true multiplies in bfloat16"
        raise ConfigError(f"{key_text}: the weights of a classifier are trained in float32", fix=fix)
    if training.fp16 and "float16" not in family.dtypes:
        raise ConfigError(
            f"training.fp16=true: {family.model_type} overflows in float16; allowed: {', '.join(family.dtypes)}",
            fix="training.bf16=true, or neither",
        )
    if training.fp16 or training.bf16 or model.dtype == "float32" or resolve_device(model.device) == "cpu":
        return training
    fast = for_accelerator(this_machine()).dtype
    return replace(training, bf16=fast == "bfloat16", fp16=fast == "float16" and fast in family.dtypes)
