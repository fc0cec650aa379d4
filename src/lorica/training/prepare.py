"""A run as it is prepared: the learner, the evaluation batches and the resumed state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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
    """One run under way, continued from `state`."""

    learner: Learner[BatchT]
    examples: Sequence[Example]
    validation: Sequence[Example]
    settings: TrainingConfig
    lock: FolderLock
    listener: Listener
    log: TrainingLog
    state: State
    window_seconds: float = 0.0
    window_all_tokens: int = 0

    def __post_init__(self) -> None:
        settings, trainable = self.settings, self.learner.trainable
        self.folder = self.lock.folder
        self.saved_best = self.state.best_step  # the best adapter that the newest checkpoint refers to
        self.per_epoch = updates_per_epoch(
            len(self.examples), batch_size=settings.batch_size, accumulation=settings.gradient_accumulation_steps
        )
        self.total = self.per_epoch * settings.epochs
        self.warmup = warmup_steps(self.total, settings.warmup_ratio)
        # Training rows, to evaluate on; the probe when nothing is held out.
        self.training_probe = trainable.evaluation_batches(self.examples[:PROBE_ROWS])
        self.probe = trainable.evaluation_batches(self.validation) if self.validation else self.training_probe


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
        "environment": {"torch": torch.__version__, "device": device.type, "threads": torch.get_num_threads()},
    }


def make_learner(trainable: Trainable[BatchT], settings: TrainingConfig) -> Learner[BatchT]:
    """What is learned, with its optimizer."""
    optimizer = make_optimizer(trainable.tensors(), weight_decay=settings.weight_decay)
    return Learner(trainable, optimizer, settings.max_grad_norm)
