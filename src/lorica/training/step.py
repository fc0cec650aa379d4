"""One training step (forward, backward, gradient clipping, AdamW), and one evaluation."""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lorica.errors import BaseNotFiniteError, NotFiniteError
from lorica.memory_limit import memory_limit
from lorica.models.cpu.training_decoder import TrainingDecoder
from lorica.models.decoder import Decoder
from lorica.models.lora import LoraSpan, LoraWeights
from lorica.models.nf4 import is_quantized
from lorica.models.packed_attention import Attention, PackedAttention
from lorica.models.tree_attention import TreeAttention
from lorica.training.batches import TrainingBatch, name_rows

# float16 overflows now and then, and the scaler answers by skipping an update; so many in a row mean
# something else.
MAX_SKIPPED = 50

# Of the machine's memory, for copies of the frozen weights in the form that is multiplied fastest. Not of what is free:
# a resumed run must multiply as it did before.
_COPIES_SHARE = 0.25


@dataclass(frozen=True)
class MixedPrecision:
    """How numbers are computed: `dtype` None is float32 throughout; `scaler` is there for float16 only."""

    device: str
    dtype: torch.dtype | None
    scaler: torch.amp.GradScaler | None

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """Matrix products in `dtype`, sums and norms in float32."""
        if self.dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device, dtype=self.dtype)


def choose_precision(decoder: Decoder, *, fp16: bool, bf16: bool) -> MixedPrecision:
    """The precision asked for, else that of the base weights. Adapter weights and their moments are always
    float32.
    """
    device = decoder.device.type
    dtype = torch.bfloat16 if bf16 else torch.float16 if fp16 else decoder.dtype
    scaler = torch.amp.GradScaler(device) if dtype == torch.float16 else None
    return MixedPrecision(device, None if dtype == torch.float32 else dtype, scaler)


@dataclass
class Learner:
    """The adapter with its optimizer and precision: all that an update changes, and what computes it."""

    decoder: Decoder
    lora: LoraWeights
    optimizer: torch.optim.Optimizer
    precision: MixedPrecision
    max_grad_norm: float
    gradient_checkpointing: bool
    share_prefixes: bool = False
    skipped: int = 0  # updates skipped in a row (float16 only)
    _training_decoder: TrainingDecoder | None = None

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """Where the decoder's products do not have a dtype of their own."""
        return contextlib.nullcontext() if self.training_decoder() is not None else self.precision.autocast()

    def training_decoder(self) -> TrainingDecoder | None:
        """The decoder with the adapter for plain layers on a CPU, made when it is first needed; None for others."""
        dtype = self.precision.dtype or torch.float32
        if self.decoder.device.type != "cpu" or dtype == torch.float16 or is_quantized(self.decoder):
            return None
        if self._training_decoder is None:
            weights = sum(math.prod(shape) for shape in self.decoder.config.linear_shapes().values())
            fits = 2 * weights * dtype.itemsize <= _COPIES_SHARE * (memory_limit() or 0)
            self._training_decoder = TrainingDecoder(self.decoder, self.lora, dtype, prepack=fits)
        return self._training_decoder


@dataclass(frozen=True)
class UpdateReport:
    """loss: nats per answer token. grad_norm: L2 norm over all adapter weights before clipping."""

    loss: float
    grad_norm: float
    answer_tokens: int
    tokens: int


def make_optimizer(lora_weights: LoraWeights, *, weight_decay: float) -> torch.optim.AdamW:
    """AdamW (https://arxiv.org/abs/1711.05101); the learning rate is set at each update."""
    return torch.optim.AdamW(
        lora_weights.parameters(), lr=0.0, betas=(0.9, 0.999), eps=1e-8, weight_decay=weight_decay, fused=True
    )


def step_seed(seed: int, step: int) -> int:
    """The seed of an update's dropout: a function of its number, so that resuming has no generator to
    restore.
    """
    return int.from_bytes(hashlib.sha256(f"lorica:{seed}:{step}".encode()).digest()[:7], "little")


def answer_weight(learner: Learner) -> float:
    """Memory of the logits of an answer token, with their softmax and its gradient, in activations of a token."""
    shape = learner.decoder.config
    layer = 8 * shape.hidden_size + 5 * shape.intermediate_size
    activations = shape.layers * shape.hidden_size + layer if learner.gradient_checkpointing else shape.layers * layer
    return 3 * shape.vocab_size / activations


def answer_loss(learner: Learner, batch: TrainingBatch, *, adapter: bool = True) -> Tensor:
    """Summed cross-entropy in nats over the answer tokens of a batch, scalar; the head meets only their
    positions. adapter: false for the base model alone.
    """
    decoder = learner.decoder
    token_count = batch.tokens.shape[0]
    attention: Attention
    if decoder.device.type == "cpu":
        attention = TreeAttention(batch.spans, batch.positions, decoder.config.windows)
    else:
        lengths = [span.stop - span.start for span in batch.spans]
        attention = PackedAttention(lengths, decoder.config, batch.tokens.device)
    checkpoint = learner.gradient_checkpointing and torch.is_grad_enabled()
    training_decoder = learner.training_decoder() if adapter else None
    if training_decoder is None:
        lora_spans = (LoraSpan(learner.lora, 0, token_count),) if adapter else ()
        hidden = decoder.hidden(
            batch.tokens, batch.positions, attention, lora_spans, output_rows=batch.outputs, checkpoint=checkpoint
        )
        logits = decoder.logits(hidden.index_select(0, batch.sources))
    else:
        hidden = training_decoder.hidden(
            batch.tokens, batch.positions, attention, output_rows=batch.outputs, checkpoint=checkpoint
        )
        logits = training_decoder.logits(hidden.index_select(0, batch.sources))
    return F.cross_entropy(logits.float(), batch.targets, reduction="sum")


def update(
    learner: Learner, batches: Sequence[TrainingBatch], *, step: int, learning_rate: float, seed: int
) -> UpdateReport:
    """One AdamW update from the mean loss over all answer tokens of all batches, however they are spread.

    step: 1-based, for messages. Raises TrainingError, leaving the weights as they were, when the loss or the
    gradient is not finite.
    """
    learner.lora.training = True
    torch.manual_seed(seed)
    learner.optimizer.zero_grad(set_to_none=True)
    target_count = sum(batch.targets.shape[0] for batch in batches)
    scaler = learner.precision.scaler
    losses: list[Tensor] = []
    for batch in batches:
        with learner.autocast():
            loss = answer_loss(learner, batch) / target_count
        (loss if scaler is None else scaler.scale(loss)).backward()  # type: ignore[no-untyped-call]
        losses.append(loss.detach())
    if scaler is not None:
        scaler.unscale_(learner.optimizer)
    gradient_norm = _clip(learner)
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


def evaluate(learner: Learner, batches: Sequence[TrainingBatch], *, step: int) -> float:
    """Mean cross-entropy in nats per answer token, without dropout. Raises TrainingError when it is not
    finite.
    """
    learner.lora.training = False
    loss_sums: list[Tensor] = []
    with torch.inference_mode(), learner.autocast():
        loss_sums = [answer_loss(learner, batch) for batch in batches]
    values = torch.stack(loss_sums).tolist()
    broken = [batch for batch, loss_value in zip(batches, values, strict=True) if not math.isfinite(loss_value)]
    if broken:
        rows = [row for batch in broken for row in batch.ids]
        message = f"the loss after update {step} is not finite; rows: {name_rows(rows)}"
        raise _base_failure(learner, broken, message) or NotFiniteError(message, fix="lower training.learning_rate")
    return math.fsum(values) / sum(batch.targets.shape[0] for batch in batches)


def _clip(learner: Learner) -> Tensor:
    longest = learner.max_grad_norm or math.inf
    return torch.nn.utils.clip_grad_norm_(learner.lora.parameters(), longest, foreach=True).to(torch.float32)


def _refuse_non_finite(
    learner: Learner,
    batches: Sequence[TrainingBatch],
    losses: Sequence[float],
    gradient_norm: float,
    *,
    step: int,
    learning_rate: float,
) -> None:
    finite = all(map(math.isfinite, losses))
    learner.skipped = 0 if math.isfinite(gradient_norm) else learner.skipped + 1
    if finite and (learner.skipped == 0 or (learner.precision.scaler and learner.skipped <= MAX_SKIPPED)):
        return
    broken = [batch for batch, loss in zip(batches, losses, strict=True) if not math.isfinite(loss)]
    rows = [row for batch in broken or batches for row in batch.ids]
    quantity = "gradient" if finite else "loss"
    repeat_words = f" ({learner.skipped} updates in a row)" if learner.skipped > 1 else ""
    advice = "training.bf16=true in place of fp16" if learner.precision.scaler else "training.max_grad_norm=1"
    message = (
        f"the {quantity} is not finite at update {step}{repeat_words}, learning rate {learning_rate:.3g}; "
        f"rows in the batch: {name_rows(rows)}"
    )
    raise _base_failure(learner, broken, message) or NotFiniteError(
        message, fix=f"lower training.learning_rate, try {advice}, and look at these rows"
    )


def _base_failure(learner: Learner, batches: Sequence[TrainingBatch], message: str) -> BaseNotFiniteError | None:
    """The error to raise where the base model alone fails on batches whose loss is not finite; else None."""
    with torch.inference_mode(), learner.autocast():
        if all(math.isfinite(answer_loss(learner, batch, adapter=False).item()) for batch in batches):
            return None
    return BaseNotFiniteError(
        message,
        fix="the base model itself fails on these rows, without an adapter: try model.dtype=float32, check its "
        "weights, or leave these rows out",
    )
