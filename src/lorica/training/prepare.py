"""Preparing a run: the completed adapter config, the learner, the evaluation batches and the resumed state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import torch

from lorica.adapters.config import AdapterConfig
from lorica.config.schema import TrainingConfig
from lorica.locks import FolderLock
from lorica.models.adapter_weights import create_lora
from lorica.models.decoder import Decoder
from lorica.models.families import DecoderConfig
from lorica.models.lora import LoraWeights
from lorica.training.batches import TrainingBatch, answer_tokens, evaluation_plan, make_batch, updates_per_epoch
from lorica.training.log import TrainingLog
from lorica.training.state import State
from lorica.training.step import Learner, choose_precision, make_optimizer
from lorica.training.types import Example, Listener

# Tokens per batch of an evaluation, which keeps no activations.
EVALUATION_TOKENS = 4096
# Training rows on which base and result are compared.
PROBE_ROWS = 64


@dataclass
class Run:
    """One run under way."""

    learner: Learner
    config: AdapterConfig
    examples: Sequence[Example]
    validation: Sequence[Example]
    settings: TrainingConfig
    folder: Path
    listener: Listener
    log: TrainingLog
    state: State
    lock: FolderLock
    per_epoch: int
    total: int
    saved_best: int  # the best adapter that the newest checkpoint refers to
    window_seconds: float = 0.0
    window_all_tokens: int = 0
    probe: list[TrainingBatch] = field(default_factory=list)
    training_probe: list[TrainingBatch] = field(
        default_factory=list
    )  # training rows, to evaluate on; the probe when nothing is held out


def complete_config(config: AdapterConfig, model_shape: DecoderConfig) -> AdapterConfig:
    """Targets as a sorted list of names, and what PEFT expects of a finished adapter."""
    targets = config.target_modules
    if targets == "all-linear":
        targets = list({module_path.rsplit(".", 1)[1] for module_path in model_shape.linear_shapes()})
    if isinstance(targets, list):
        targets = sorted(set(targets))
    return msgspec.structs.replace(config, target_modules=targets, other={**config.other, "inference_mode": True})


def run_facts(
    adapter_name: str, decoder: Decoder, examples: Sequence[Example], validation: Sequence[Example]
) -> dict[str, object]:
    """What `training.json` says of the inputs."""
    return {
        "name": adapter_name,
        "rows": {"training": len(examples), "held_out": len(validation)},
        "answer_tokens": sum(map(answer_tokens, examples)),
        "dropped_tokens": sum(example.encoded.dropped for example in examples),
        "environment": {
            "torch": torch.__version__,
            "device": decoder.device.type,
            "threads": torch.get_num_threads(),
        },
    }


def make_learner(decoder: Decoder, adapter_name: str, config: AdapterConfig, settings: TrainingConfig) -> Learner:
    """New LoRA weights on the device of the base, with their optimizer."""
    lora_weights: LoraWeights = create_lora(adapter_name, decoder.config, config, seed=settings.seed)
    for factor_pair in lora_weights.pairs.values():
        factor_pair.a = factor_pair.a.detach().to(decoder.device).requires_grad_()
        factor_pair.b = factor_pair.b.detach().to(decoder.device).requires_grad_()
    return Learner(
        decoder=decoder,
        lora=lora_weights,
        optimizer=make_optimizer(lora_weights, weight_decay=settings.weight_decay),
        precision=choose_precision(decoder, fp16=settings.fp16, bf16=settings.bf16),
        max_grad_norm=settings.max_grad_norm,
        gradient_checkpointing=settings.gradient_checkpointing,
        share_prefixes=settings.share_prefixes and decoder.device.type == "cpu",
    )


def prepare(
    learner: Learner,
    config: AdapterConfig,
    examples: Sequence[Example],
    validation: Sequence[Example],
    settings: TrainingConfig,
    folder_lock: FolderLock,
    listener: Listener,
    training_log: TrainingLog,
    run_state: State,
) -> Run:
    """The run, continued from `run_state`."""
    per_epoch = updates_per_epoch(
        len(examples), batch_size=settings.batch_size, accumulation=settings.gradient_accumulation_steps
    )
    training_run = Run(
        learner=learner,
        config=config,
        examples=examples,
        validation=validation,
        settings=settings,
        folder=folder_lock.folder,
        lock=folder_lock,
        listener=listener,
        log=training_log,
        state=run_state,
        saved_best=run_state.best_step,
        per_epoch=per_epoch,
        total=per_epoch * settings.epochs,
    )
    training_run.training_probe = _batches(examples[:PROBE_ROWS], learner)
    training_run.probe = _batches(validation, learner) if validation else training_run.training_probe
    return training_run


def _batches(rows: Sequence[Example], learner: Learner) -> list[TrainingBatch]:
    share_prefixes = learner.share_prefixes
    batch_plan = evaluation_plan(rows, token_budget=EVALUATION_TOKENS, share_prefixes=share_prefixes)
    device = learner.decoder.device
    return [
        make_batch([rows[index] for index in indices], device, share_prefixes=share_prefixes) for indices in batch_plan
    ]
