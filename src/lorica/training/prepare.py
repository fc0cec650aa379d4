"""Preparing a run: the learner, the evaluation batches and the resumed state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic

import torch

from lorica.config.schema import TrainingConfig
from lorica.locks import FolderLock
from lorica.training.batches import answer_tokens, updates_per_epoch
from lorica.training.log import TrainingLog
from lorica.training.schedule import warmup_steps
from lorica.training.state import State
from lorica.training.step import Learner, make_optimizer
from lorica.training.trainable import BatchT, Trainable
from lorica.training.types import Example, Listener

# Training rows on which base and result are compared.
PROBE_ROWS = 64


@dataclass
class Run(Generic[BatchT]):
    """One run under way."""

    learner: Learner[BatchT]
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
    warmup: int
    saved_best: int  # the best adapter that the newest checkpoint refers to
    window_seconds: float = 0.0
    window_all_tokens: int = 0
    probe: list[BatchT] = field(default_factory=list)
    training_probe: list[BatchT] = field(
        default_factory=list
    )  # training rows, to evaluate on; the probe when nothing is held out


def run_facts(
    adapter_name: str, device: torch.device, examples: Sequence[Example], validation: Sequence[Example]
) -> dict[str, object]:
    """What `training.json` says of the inputs."""
    labelled = any(example.label is not None for example in examples)
    return {
        "name": adapter_name,
        "rows": {"training": len(examples), "held_out": len(validation)},
        **({} if labelled else {"answer_tokens": sum(map(answer_tokens, examples))}),
        "dropped_tokens": sum(example.encoded.dropped for example in examples),
        "environment": {
            "torch": torch.__version__,
            "device": device.type,
            "threads": torch.get_num_threads(),
        },
    }


def make_learner(trainable: Trainable[BatchT], settings: TrainingConfig) -> Learner[BatchT]:
    """What is learned, with its optimizer."""
    optimizer = make_optimizer(trainable.tensors(), weight_decay=settings.weight_decay)
    return Learner(trainable, optimizer, settings.max_grad_norm)


def prepare(
    learner: Learner[BatchT],
    examples: Sequence[Example],
    validation: Sequence[Example],
    settings: TrainingConfig,
    folder_lock: FolderLock,
    listener: Listener,
    training_log: TrainingLog,
    run_state: State,
) -> Run[BatchT]:
    """The run, continued from `run_state`."""
    per_epoch = updates_per_epoch(
        len(examples), batch_size=settings.batch_size, accumulation=settings.gradient_accumulation_steps
    )
    total = per_epoch * settings.epochs
    training_run = Run(
        learner=learner,
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
        total=total,
        warmup=warmup_steps(total, settings.warmup_ratio),
    )
    trainable = learner.trainable
    training_run.training_probe = trainable.evaluation_batches(examples[:PROBE_ROWS])
    training_run.probe = trainable.evaluation_batches(validation) if validation else training_run.training_probe
    return training_run
