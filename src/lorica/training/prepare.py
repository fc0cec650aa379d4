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

# Padded tokens per batch of an evaluation, which keeps no activations.
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


def complete_config(config: AdapterConfig, shape: DecoderConfig) -> AdapterConfig:
    """Targets as a sorted list of names, and what PEFT expects of a finished adapter."""
    targets = config.target_modules
    if targets == "all-linear":
        targets = list({path.rsplit(".", 1)[1] for path in shape.linear_shapes()})
    if isinstance(targets, list):
        targets = sorted(set(targets))
    return msgspec.structs.replace(config, target_modules=targets, other={**config.other, "inference_mode": True})


def run_facts(
    name: str, decoder: Decoder, examples: Sequence[Example], validation: Sequence[Example]
) -> dict[str, object]:
    """What `training.json` says of the inputs."""
    return {
        "name": name,
        "rows": {"training": len(examples), "held_out": len(validation)},
        "answer_tokens": sum(map(answer_tokens, examples)),
        "dropped_tokens": sum(example.encoded.dropped for example in examples),
        "environment": {
            "torch": torch.__version__,
            "device": decoder.device.type,
            "threads": torch.get_num_threads(),
        },
    }


def make_learner(decoder: Decoder, name: str, config: AdapterConfig, settings: TrainingConfig) -> Learner:
    """New LoRA weights on the device of the base, with their optimizer."""
    lora: LoraWeights = create_lora(name, decoder.config, config, seed=settings.seed)
    for pair in lora.pairs.values():
        pair.a = pair.a.detach().to(decoder.device).requires_grad_()
        pair.b = pair.b.detach().to(decoder.device).requires_grad_()
    return Learner(
        decoder=decoder,
        lora=lora,
        optimizer=make_optimizer(lora, weight_decay=settings.weight_decay),
        precision=choose_precision(decoder, fp16=settings.fp16, bf16=settings.bf16),
        max_grad_norm=settings.max_grad_norm,
        gradient_checkpointing=settings.gradient_checkpointing,
    )


def prepare(
    learner: Learner,
    config: AdapterConfig,
    examples: Sequence[Example],
    validation: Sequence[Example],
    settings: TrainingConfig,
    lock: FolderLock,
    listener: Listener,
    log: TrainingLog,
    state: State,
) -> Run:
    """The run, continued from `state`."""
    per_epoch = updates_per_epoch(
        len(examples), batch_size=settings.batch_size, accumulation=settings.gradient_accumulation_steps
    )
    run = Run(
        learner=learner,
        config=config,
        examples=examples,
        validation=validation,
        settings=settings,
        folder=lock.folder,
        lock=lock,
        listener=listener,
        log=log,
        state=state,
        saved_best=state.best_step,
        per_epoch=per_epoch,
        total=per_epoch * settings.epochs,
    )
    run.training_probe = _batches(examples[:PROBE_ROWS], learner)
    run.probe = _batches(validation, learner) if validation else run.training_probe
    return run


def _batches(rows: Sequence[Example], learner: Learner) -> list[TrainingBatch]:
    plan = evaluation_plan([len(row.encoded.tokens) for row in rows], token_budget=EVALUATION_TOKENS)
    return [make_batch([rows[index] for index in indices], learner.decoder.device) for indices in plan]
