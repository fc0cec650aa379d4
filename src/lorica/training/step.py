"""One training step (forward, backward, gradient clipping, AdamW), and one evaluation."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic

import torch
from torch import Tensor

from lorica.errors import BaseNotFiniteError, CollapsedError, NotFiniteError
from lorica.training.batches import name_rows
from lorica.training.trainable import BatchT, Trainable

# float16 overflows now and then, and the scaler answers by skipping an update; so many in a row mean something else.
MAX_SKIPPED = 50


@dataclass
class Learner(Generic[BatchT]):
    """What is learned with its optimizer: all that an update changes, and what computes it."""

    trainable: Trainable[BatchT]
    optimizer: torch.optim.Optimizer
    max_grad_norm: float
    skipped: int = 0  # updates skipped in a row (float16 only)

    def parameters(self) -> list[Tensor]:
        """What is learned, in the optimizer's order."""
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]


@dataclass(frozen=True)
class UpdateReport:
    """loss: nats per target. grad_norm: L2 norm over all that is learned, before clipping."""

    loss: float
    grad_norm: float
    targets: int
    tokens: int


def make_optimizer(tensors: Mapping[str, Tensor], *, weight_decay: float) -> torch.optim.AdamW:
    """AdamW (https://arxiv.org/abs/1711.05101); the learning rate is set at each update. Vectors (biases, the scales of
    norms) do not decay, as in transformers' Trainer."""
    ordered = [tensors[tensor_name] for tensor_name in sorted(tensors)]
    matrices = [tensor for tensor in ordered if tensor.dim() > 1]
    vectors = [tensor for tensor in ordered if tensor.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]], lr=0.0, betas=(0.9, 0.999), eps=1e-8, fused=True
    )


def step_seed(seed: int, step: int) -> int:
    """The seed of an update's dropout: a function of its number, so that resuming has no generator to restore."""
    return int.from_bytes(hashlib.sha256(f"lorica:{seed}:{step}".encode()).digest()[:7], "little")


def update(
    learner: Learner[BatchT], batches: Sequence[BatchT], *, step: int, learning_rate: float, seed: int
) -> UpdateReport:
    """One AdamW update from the mean loss over all targets of all batches, however they are spread.

    step: 1-based, for messages. Raises TrainingError, leaving the weights as they were, when the loss or the
    gradient is not finite.
    """
    trainable = learner.trainable
    trainable.set_training(True)
    torch.manual_seed(seed)
    learner.optimizer.zero_grad(set_to_none=True)
    target_count = sum(batch.targets.shape[0] for batch in batches)
    scaler = trainable.precision.scaler
    losses: list[Tensor] = []
    for batch in batches:
        with trainable.autocast():
            loss = trainable.loss(batch) / target_count
        (loss if scaler is None else scaler.scale(loss)).backward()  # type: ignore[no-untyped-call]
        losses.append(loss.detach())
    if scaler is not None:
        scaler.unscale_(learner.optimizer)
    longest = learner.max_grad_norm or math.inf
    gradient_norm = torch.nn.utils.clip_grad_norm_(learner.parameters(), longest, foreach=True).to(torch.float32)
    # The one moment at which the accelerator is waited for.
    *values, length = torch.stack([*losses, gradient_norm]).tolist()
    _refuse_non_finite(learner, batches, values, length, step=step, learning_rate=learning_rate)
    for parameter_group in learner.optimizer.param_groups:
        parameter_group["lr"] = learning_rate
    if scaler is None:
        learner.optimizer.step()
    else:
        scaler.step(learner.optimizer)
        scaler.update()
    tokens = sum(batch.row_tokens for batch in batches)
    return UpdateReport(math.fsum(values), length, target_count, tokens)


def evaluate(learner: Learner[BatchT], batches: Sequence[BatchT], *, step: int, warming_up: bool = False) -> float:
    """Mean loss in nats per target, without dropout. step: updates made, for messages. warming_up: one score for all
    rows is no failure yet. Raises NotFiniteError when it is not finite, CollapsedError for scores that are all one.
    """
    trainable = learner.trainable
    trainable.set_training(False)
    with torch.inference_mode(), trainable.autocast():
        evaluated = trainable.evaluate(batches)
    values = torch.stack(evaluated.losses).tolist()
    broken = [batch for batch, loss_value in zip(batches, values, strict=True) if not math.isfinite(loss_value)]
    if broken:
        rows = [row for batch in broken for row in batch.ids]
        message = f"the loss after update {step} is not finite; rows: {name_rows(rows)}"
        raise _base_failure(learner, broken, message) or NotFiniteError(message, fix="lower training.learning_rate")
    mean_loss = math.fsum(values) / sum(batch.targets.shape[0] for batch in batches)
    if evaluated.collapsed and not warming_up:
        row_count = sum(len(batch.ids) for batch in batches)
        raise CollapsedError(
            f"the scores collapsed to one value: after update {step} those of {row_count} rows with both labels differ "
            f"by {evaluated.spread:.1g} in log-odds (loss {mean_loss:.4f})",
            fix="lower training.learning_rate or raise training.warmup_ratio",
        )
    return mean_loss


def _refuse_non_finite(
    learner: Learner[BatchT],
    batches: Sequence[BatchT],
    losses: Sequence[float],
    gradient_norm: float,
    *,
    step: int,
    learning_rate: float,
) -> None:
    finite = all(map(math.isfinite, losses))
    learner.skipped = 0 if math.isfinite(gradient_norm) else learner.skipped + 1
    if finite and (learner.skipped == 0 or (learner.trainable.precision.scaler and learner.skipped <= MAX_SKIPPED)):
        return
    broken = [batch for batch, loss in zip(batches, losses, strict=True) if not math.isfinite(loss)]
    rows = [row for batch in broken or batches for row in batch.ids]
    quantity = "gradient" if finite else "loss"
    repeat_words = f" ({learner.skipped} updates in a row)" if learner.skipped > 1 else ""
    advice = "training.bf16=true in place of fp16" if learner.trainable.precision.scaler else "training.max_grad_norm=1"
    message = (
        f"the {quantity} is not finite at update {step}{repeat_words}, learning rate {learning_rate:.3g}; "
        f"rows in the batch: {name_rows(rows)}"
    )
    raise _base_failure(learner, broken, message) or NotFiniteError(
        message, fix=f"lower training.learning_rate, try {advice}, and look at these rows"
    )


def _base_failure(learner: Learner[BatchT], batches: Sequence[BatchT], message: str) -> BaseNotFiniteError | None:
    """The error to raise where the base model alone fails on batches whose loss is not finite; else None."""
    with torch.inference_mode(), learner.trainable.autocast():
        if not learner.trainable.base_fails(batches):
            return None
    return BaseNotFiniteError(
        message,
        fix="the base model itself fails on these rows, without an adapter: try model.dtype=float32, check its "
        "weights, or leave these rows out",
    )
