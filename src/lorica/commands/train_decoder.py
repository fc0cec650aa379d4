"""Training LoRA adapters of a decoder: the base loaded once, and each adapter with a passport of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from lorica.adapters.folder import open_adapter
from lorica.adapters.passport import Passport
from lorica.admission.provenance import RETRIEVAL, WITH_PASSAGES
from lorica.commands import build
from lorica.commands.build_retrieval import training_passages
from lorica.commands.dtypes import TrainingPrecision, training_precision
from lorica.commands.load_once import LoadOnce
from lorica.commands.trainers import TrainerParts, training_provenance
from lorica.config.schema import Config
from lorica.engines.base import resolve_device
from lorica.engines.native.engine import NativeEngine
from lorica.errors import ConfigError
from lorica.locks import FolderLock
from lorica.models.base_folder import BaseFolder
from lorica.models.decoder import Decoder
from lorica.models.upcast import multiply_in_float32
from lorica.models.weights import DTYPES, load_decoder
from lorica.pipeline.answer import check_prompt_fits
from lorica.pipeline.train import LossExample, TrainJob, TrainVal, train_adapter
from lorica.pipeline.training_passages import TrainingPassages
from lorica.tasks.base import Task
from lorica.training.types import Listener, TrainResult


@dataclass(frozen=True)
class DecoderTrainer(TrainerParts):
    """A `pipeline.trainer.Trainer` of LoRA adapters."""

    decoder: Decoder
    passages: TrainingPassages | None

    def engine(self) -> NativeEngine | None:
        """On a GPU, where answers are computed by the same layers in the same precision."""
        return None if self.decoder.device.type == "cpu" else self._native_engine()

    def _native_engine(self) -> NativeEngine:
        config = self.config
        return NativeEngine(
            self.decoder, batch_tokens=config.inference.batch_tokens, share_prefixes=config.engine.share_prefixes
        )

    def train(
        self,
        job: TrainJob,
        split_rows: TrainVal,
        folder_lock: FolderLock,
        tell_example: Callable[[LossExample], None] | None,
        *,
        listener: Listener,
    ) -> TrainResult:
        return train_adapter(
            job,
            task=self.task,
            encoder=self.encoder,
            decoder=self.decoder,
            adapter=build.adapter_config(self.config, self.base_model),
            settings=self.config.training,
            truncate=self.config.task.truncate,
            provenance=self.provenance,
            split_rows=split_rows,
            issue_passport=partial(self._passport, job, split_rows),
            folder_lock=folder_lock,
            tell_example=tell_example,
            passages=self.passages,
            listener=listener,
        )

    def _passport(
        self, job: TrainJob, split_rows: TrainVal, adapter_folder: Path, train_result: TrainResult
    ) -> Passport:
        """The passport of the trained adapter in `adapter_folder`, asked through the engine that will answer."""
        engine = self._native_engine()
        retriever = None if self.passages is None else self.passages.retriever
        return self.passport(job, split_rows, train_result, open_adapter(adapter_folder), engine, retriever)


def make_trainer(config: Config, task: Task, reading: Mapping[str, str], base: LoadOnce | None) -> DecoderTrainer:
    """Load the base model, where it is not. Raises ModelError, PromptError, ConfigError and RetrievalError for what
    cannot be used."""
    if config.training.method != "lora":
        fix = "training.method=lora, or an encoder such as model=minilm"
        raise ConfigError(f"training.method={config.training.method}: a decoder is trained with LoRA", fix=fix)
    passages = training_passages(config.retrieval, config.training.seed)
    base_model = build.base_folder(config)
    encoder = build.build_encoder(config, base_model)
    # For the passport's metrics, when all is trained.
    check_prompt_fits(task, build.answer_settings(config, base_model))
    if config.engine.threads:
        torch.set_num_threads(config.engine.threads)
    precision = training_precision(config, base_model)
    device, in_4_bits = resolve_device(config.model.device), config.model.load_in_4bit
    loading = (base_model.digest, precision.weights, precision.upcast, device, in_4_bits)
    decoder = (base or LoadOnce()).get(loading, partial(_load, config, base_model, precision))
    build.tell_base(base_model)
    return DecoderTrainer(
        config=replace(config, training=precision.settings),  # what a resumed run must share, and the passport says
        task=task,
        base_model=base_model,
        encoder=encoder,
        decoder=decoder,
        passages=passages,
        provenance={
            **training_provenance(config, task, encoder, base_model, reading),
            **({} if passages is None else {RETRIEVAL: WITH_PASSAGES, **passages.manifest()}),
        },
    )


def _load(config: Config, base_model: BaseFolder, precision: TrainingPrecision) -> Decoder:
    decoder = load_decoder(
        base_model,
        dtype=DTYPES[precision.weights],
        device=resolve_device(config.model.device),
        load_in_4bit=config.model.load_in_4bit,
    )
    return multiply_in_float32(decoder) if precision.upcast else decoder
