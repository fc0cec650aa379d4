"""LoRA weights on a frozen decoder, as what a training changes."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch
import torch.nn.functional as F
from torch import Tensor

from lorica.adapters.config import AdapterConfig
from lorica.adapters.folder import open_adapter, save_adapter
from lorica.config.schema import TrainingConfig
from lorica.memory_limit import memory_limit
from lorica.models.adapter_weights import create_lora, load_lora
from lorica.models.cpu.training_decoder import TrainingDecoder
from lorica.models.decoder import Decoder
from lorica.models.families import DecoderConfig
from lorica.models.lora import LoraSpan, LoraWeights
from lorica.models.nf4 import is_quantized
from lorica.models.packed_attention import Attention, PackedAttention
from lorica.models.tree_attention import TreeAttention
from lorica.training.batches import (
    EVALUATION_TOKENS,
    TrainingBatch,
    check_examples,
    evaluation_plan,
    make_batch,
    regroup_update,
)
from lorica.training.outcome import ADAPTER_WORDING, Wording
from lorica.training.trainable import (
    ADAPTER_FILES,
    Evaluated,
    MemberFiles,
    MixedPrecision,
    choose_precision,
    lora_manifest,
)
from lorica.training.types import Example

# Of the machine's memory, for copies of the frozen weights in the form that is multiplied fastest. Not of what is free:
# a resumed run must multiply as it did before.
_COPIES_SHARE = 0.25


@dataclass
class LoraDecoder:
    """A `training.trainable.Trainable`: an adapter, and the decoder beneath it. config: complete, as it is saved."""

    decoder: Decoder
    lora: LoraWeights
    config: AdapterConfig
    precision: MixedPrecision
    gradient_checkpointing: bool = False
    share_prefixes: bool = False
    files: MemberFiles = ADAPTER_FILES
    wording: Wording = ADAPTER_WORDING
    _training_decoder: TrainingDecoder | None = None

    @classmethod
    def create(cls, name: str, decoder: Decoder, config: AdapterConfig, settings: TrainingConfig) -> LoraDecoder:
        """New LoRA weights on the device of the base, which is frozen. Raises what `create_lora` raises."""
        decoder.requires_grad_(False)
        complete = complete_config(config, decoder.config)
        lora_weights = create_lora(name, decoder.config, complete, seed=settings.seed)
        for factor_pair in lora_weights.pairs.values():
            factor_pair.a = factor_pair.a.detach().to(decoder.device).requires_grad_()
            factor_pair.b = factor_pair.b.detach().to(decoder.device).requires_grad_()
        return cls(
            decoder,
            lora_weights,
            complete,
            choose_precision(decoder.device.type, decoder.dtype, fp16=settings.fp16, bf16=settings.bf16),
            gradient_checkpointing=settings.gradient_checkpointing,
            share_prefixes=settings.share_prefixes and decoder.device.type == "cpu",
        )

    @property
    def device(self) -> torch.device:
        """Of the decoder."""
        return self.decoder.device

    def tensors(self) -> Mapping[str, Tensor]:
        """The factors of all modules, by PEFT's names."""
        return self.lora.to_tensors()

    def set_training(self, training: bool) -> None:
        """Dropout of the adapter's inputs, on or off."""
        self.lora.training = training

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

    def loss(self, batch: TrainingBatch, *, adapter: bool = True) -> Tensor:
        """Summed cross-entropy in nats over the answer tokens of a batch, scalar; the head meets only their
        positions. adapter: false for the base model alone.
        """
        decoder = self.decoder
        token_count = batch.tokens.shape[0]
        attention: Attention
        if decoder.device.type == "cpu":
            attention = TreeAttention(batch.spans, batch.positions, decoder.config.windows)
        else:
            lengths = [span.stop - span.start for span in batch.spans]
            attention = PackedAttention(lengths, decoder.config, batch.tokens.device)
        checkpoint = self.gradient_checkpointing and torch.is_grad_enabled()
        training_decoder = self.training_decoder() if adapter else None
        if training_decoder is None:
            lora_spans = (LoraSpan(self.lora, 0, token_count),) if adapter else ()
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

    def evaluate(self, batches: Sequence[TrainingBatch]) -> Evaluated:
        """The loss of each batch."""
        return Evaluated([self.loss(batch) for batch in batches])

    def constant_loss(self, batches: Sequence[TrainingBatch]) -> float:
        """No question: the base model has answers of its own."""
        return math.inf

    def base_fails(self, batches: Sequence[TrainingBatch]) -> bool:
        """Whether the decoder alone fails on these rows."""
        return not all(math.isfinite(self.loss(batch, adapter=False).item()) for batch in batches)

    def answer_weight(self) -> float:
        """Memory of the logits of an answer token, with their softmax and its gradient, in activations of a token."""
        shape = self.decoder.config
        layer = 8 * shape.hidden_size + 5 * shape.intermediate_size
        activations = shape.layers * shape.hidden_size + layer if self.gradient_checkpointing else shape.layers * layer
        return 3 * shape.vocab_size / activations

    def update_batches(self, examples: Sequence[Example], planned: Sequence[Sequence[int]]) -> list[TrainingBatch]:
        """As planned, or by the beginnings of their rows."""
        if self.share_prefixes:
            planned = regroup_update(examples, planned, answer_weight=self.answer_weight())
        return self._batches(examples, planned)

    def evaluation_batches(self, examples: Sequence[Example]) -> list[TrainingBatch]:
        """Within a budget of tokens."""
        plan = evaluation_plan(examples, token_budget=EVALUATION_TOKENS, share_prefixes=self.share_prefixes)
        return self._batches(examples, plan)

    def _batches(self, examples: Sequence[Example], planned: Sequence[Sequence[int]]) -> list[TrainingBatch]:
        return [
            make_batch([examples[row] for row in rows], self.device, share_prefixes=self.share_prefixes)
            for rows in planned
        ]

    def check(self, examples: Sequence[Example], *, set_name: str) -> None:
        """Every row has an answer token, and tokens that the decoder has."""
        check_examples(examples, vocab_size=self.decoder.config.vocab_size, set_name=set_name)

    def manifest(self) -> Mapping[str, str]:
        """The adapter's config, and the decoder's shape and dtype."""
        base_dtype = str(self.decoder.model.embed_tokens.weight.dtype)
        return {**lora_manifest(self.config), "base.shape": repr(self.decoder.config), "base.dtype": base_dtype}

    def save(self, folder: Path, extra_files: Mapping[str, bytes] | None = None) -> None:
        """Write the adapter in PEFT's format, float32."""
        save_lora(folder, self.config, self.lora, extra_files)

    def load(self, folder: Path) -> None:
        """Copy the factors of a saved adapter."""
        stored = load_lora(self.lora.name, open_adapter(folder), self.decoder.config)
        with torch.no_grad():
            for module_path, factor_pair in self.lora.pairs.items():
                factor_pair.a.copy_(stored.pairs[module_path].a)
                factor_pair.b.copy_(stored.pairs[module_path].b)


def complete_config(config: AdapterConfig, model_shape: DecoderConfig) -> AdapterConfig:
    """Targets as a sorted list of names, and what PEFT expects of a finished adapter."""
    targets = config.target_modules
    if targets == "all-linear":
        targets = list({module_path.rsplit(".", 1)[1] for module_path in model_shape.linear_shapes()})
    if isinstance(targets, list):
        targets = sorted(set(targets))
    return msgspec.structs.replace(config, target_modules=targets, other={**config.other, "inference_mode": True})


def save_lora(
    folder: Path, config: AdapterConfig, lora_weights: LoraWeights, extra_files: Mapping[str, bytes] | None = None
) -> None:
    """Write an adapter in PEFT's format, float32."""
    tensors = {}
    for tensor_name, tensor in lora_weights.to_tensors().items():
        plain_tensor = tensor.detach().to("cpu", torch.float32).contiguous()
        tensors[tensor_name] = ("F32", tuple(plain_tensor.shape), plain_tensor.numpy().tobytes())
    save_adapter(folder, config, tensors, extra_files=extra_files)
