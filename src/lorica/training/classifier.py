"""An encoder under a classification head, as what a training changes: all of its weights, or LoRA factors and the head.

Shapes: B rows of a batch.
"""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lorica.adapters.classifier_config import MODEL_CONFIG, MODEL_WEIGHTS
from lorica.adapters.config import AdapterConfig
from lorica.adapters.folder import write_files
from lorica.errors import TrainingError
from lorica.models.classifiers import classify, label_logprobs
from lorica.training.batches import EVALUATION_TOKENS, evaluation_plan, name_rows, refuse_foreign_tokens
from lorica.training.outcome import Wording
from lorica.training.trainable import ADAPTER_FILES, Evaluated, MemberFiles, MixedPrecision, lora_manifest
from lorica.training.types import Example

CLASSIFIER_FILES = MemberFiles(MODEL_WEIGHTS, MODEL_CONFIG)
FEWEST_ROWS = 2
"""Training rows of each label: from one, nothing is learned that a row could be held against."""

_WORDING = Wording("classifier", "one answer to every row", "before training", "row")
# Scores of so many different rows that differ by less (in log-odds, or by rounding) are one value.
_ONE_VALUE, _ROUNDING, _FEWEST_COMPARED = 1e-3, 4, 8


@dataclass(frozen=True)
class ClassifierBatch:
    """Rows to classify together. sequences: their tokens. targets: [B] their labels."""

    ids: tuple[str, ...]
    sequences: tuple[tuple[int, ...], ...]
    targets: Tensor

    @property
    def row_tokens(self) -> int:
        """Of all rows, without padding."""
        return sum(map(len, self.sequences))


@dataclass
class TrainableClassifier:
    """A `training.trainable.Trainable`. model: transformers' classifier, or PEFT's model around it, float32. adapter:
    the complete config of a LoRA adapter, None where all weights are learned. separator: id of the token that ends a
    segment. positive_share: of the training rows. extra_files: of a full classifier's folder, such as its tokenizer."""

    model: Any
    adapter: AdapterConfig | None
    precision: MixedPrecision
    separator: int
    positive_share: float
    extra_files: Mapping[str, bytes]
    description: Mapping[str, str]
    wording: Wording = _WORDING

    @property
    def device(self) -> torch.device:
        """Of the model."""
        return next(self.model.parameters()).device  # type: ignore[no-any-return]

    @property
    def files(self) -> MemberFiles:
        """An adapter's, or those of a model of its own."""
        return CLASSIFIER_FILES if self.adapter is None else ADAPTER_FILES

    @cached_property
    def _learned(self) -> dict[str, Tensor]:
        return {
            (parameter_name if self.adapter is None else _saved_name(parameter_name)): parameter
            for parameter_name, parameter in self.model.named_parameters()
            if parameter.requires_grad
        }

    def tensors(self) -> Mapping[str, Tensor]:
        """All weights by the model's names, or LoRA factors and head by PEFT's."""
        return self._learned

    def set_training(self, training: bool) -> None:
        """The dropout of all layers, on or off."""
        self.model.train(training)

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """Matrix products in the precision of the training."""
        return self.precision.autocast()

    def loss(self, batch: ClassifierBatch) -> Tensor:
        """Summed cross-entropy of two classes, or binary cross-entropy of one logit, in nats, scalar."""
        return F.nll_loss(self._logprobs(batch.sequences), batch.targets, reduction="sum")

    def _logprobs(self, sequences: Sequence[Sequence[int]]) -> Tensor:
        """[B, 2] log-probabilities of label 0 and label 1."""
        return label_logprobs(classify(self.model, sequences, separator=self.separator))

    def evaluate(self, batches: Sequence[ClassifierBatch]) -> Evaluated:
        """The losses, and how far scores are apart where different rows with both labels can be told apart at all."""
        outputs = [self._logprobs(batch.sequences) for batch in batches]
        pairs = zip(outputs, batches, strict=True)
        losses = [F.nll_loss(output, batch.targets, reduction="sum") for output, batch in pairs]
        different_rows = {sequence for batch in batches for sequence in batch.sequences}
        labels = {label for batch in batches for label in batch.targets.tolist()}
        if len(different_rows) < _FEWEST_COMPARED or len(labels) < 2:
            return Evaluated(losses)
        logprobs = torch.cat(outputs)
        log_odds = logprobs[:, 1] - logprobs[:, 0]
        rounding = _ROUNDING * torch.finfo(self.precision.dtype or torch.float32).eps * float(log_odds.abs().max())
        spread = float(log_odds.max() - log_odds.min())
        return Evaluated(losses, spread=spread, resolution=max(_ONE_VALUE, rounding))

    def constant_loss(self, batches: Sequence[ClassifierBatch]) -> float:
        """Of the share of the training rows' label 1 as the probability of every row."""
        label_counts = Counter(label for batch in batches for label in batch.targets.tolist())
        share = min(max(self.positive_share, 1e-6), 1 - 1e-6)
        total = -label_counts[1] * math.log(share) - label_counts[0] * math.log1p(-share)
        return total / label_counts.total()

    def base_fails(self, batches: Sequence[ClassifierBatch]) -> bool:
        """No question: there is no classifier without what is learned."""
        return False

    def update_batches(self, examples: Sequence[Example], planned: Sequence[Sequence[int]]) -> list[ClassifierBatch]:
        """As planned."""
        return [self._batch([examples[row] for row in rows]) for rows in planned]

    def evaluation_batches(self, examples: Sequence[Example]) -> list[ClassifierBatch]:
        """Rows of about one length, within a budget of tokens."""
        plan = evaluation_plan(examples, token_budget=EVALUATION_TOKENS, share_prefixes=False)
        return self.update_batches(examples, plan)

    def _batch(self, examples: Sequence[Example]) -> ClassifierBatch:
        return ClassifierBatch(
            tuple(example.id for example in examples),
            tuple(example.encoded.tokens for example in examples),
            torch.tensor([example.label for example in examples]).to(self.device),
        )

    def check(self, examples: Sequence[Example], *, set_name: str) -> None:
        """Every row has tokens that the model has; training rows have both labels, each more than once."""
        refuse_foreign_tokens(examples, vocab_size=int(self.model.config.vocab_size), set_name=set_name)
        if set_name == "training":
            check_labels(examples)

    def manifest(self) -> Mapping[str, str]:
        """The description, and the adapter's config."""
        return {**self.description, **({} if self.adapter is None else lora_manifest(self.adapter))}

    def save(self, folder: Path, extra_files: Mapping[str, bytes] | None = None) -> None:
        """Write a folder that transformers, or PEFT over the same base, loads."""
        from safetensors.torch import save

        stored = self.model.state_dict() if self.adapter is None else self._learned
        weights = save(
            {name: tensor.detach().to("cpu").contiguous() for name, tensor in stored.items()}, {"format": "pt"}
        )
        config_bytes = self._model_config() if self.adapter is None else self.adapter.to_json()
        further = {**(self.extra_files if self.adapter is None else {}), **(extra_files or {})}
        contents = {self.files.weights: [weights], **{name: [further[name]] for name in sorted(further)}}
        write_files(folder, {**contents, self.files.config: [config_bytes]})

    def _model_config(self) -> bytes:
        """`config.json` as `save_pretrained` writes it."""
        self.model.config.architectures = [type(self.model).__name__]
        self.model.config.dtype = "float32"
        return self.model.config.to_json_string().encode("utf-8")  # type: ignore[no-any-return]

    def load(self, folder: Path) -> None:
        """Copy the weights of a saved classifier or adapter."""
        from safetensors.torch import load_file

        stored = load_file(folder / self.files.weights)
        with torch.no_grad():
            for tensor_name, parameter in self._learned.items():
                parameter.copy_(stored[tensor_name])

    def scores(self, examples: Sequence[Example]) -> dict[str, tuple[float, float]]:
        """Row id -> log-probabilities of label 0 and label 1, in float32 and each row alone, as an engine answers."""
        self.model.eval()
        with torch.inference_mode():
            tokens = [example.encoded.tokens for example in examples]
            logits = [classify(self.model, [sequence], separator=self.separator) for sequence in tokens]
            rows = [label_logprobs(row_logits.double())[0].tolist() for row_logits in logits]
        return {example.id: (row[0], row[1]) for example, row in zip(examples, rows, strict=True)}


def check_labels(examples: Sequence[Example]) -> None:
    """Raise TrainingError for training rows of one label alone, or with a single row of one."""
    label_counts = Counter(example.label for example in examples)
    rarest_label = min((0, 1), key=lambda label: label_counts[label])
    if not label_counts[rarest_label]:
        raise TrainingError(
            f"all {len(examples)} training rows have label {1 - rarest_label}: a classifier learns to tell two labels "
            "apart",
            fix="add rows of the other label, or see whether the file's label column is read as it is meant",
        )
    if label_counts[rarest_label] < FEWEST_ROWS:
        row_ids = [example.id for example in examples if example.label == rarest_label]
        raise TrainingError(
            f"only {label_counts[rarest_label]} of {len(examples)} training rows has label {rarest_label}: "
            f"{name_rows(row_ids)}",
            fix=f"give at least {FEWEST_ROWS} rows of each label",
        )


def _saved_name(parameter_name: str) -> str:
    """The name under which PEFT saves a parameter of its model."""
    return parameter_name.replace(".modules_to_save.default.", ".").replace(".default.", ".")
