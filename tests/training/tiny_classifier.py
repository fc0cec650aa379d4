"""Encoders small enough to train in a test, at their families' real architecture, and rows for them."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
import transformers
from tests.encoders import config_of

from lorica.adapters.config import AdapterConfig
from lorica.config.schema import TrainingConfig
from lorica.models.base_folder import BaseFolder
from lorica.records import Encoded
from lorica.training.classifier import TrainableClassifier
from lorica.training.listeners import SilentListener
from lorica.training.loop import train
from lorica.training.make_classifier import make_classifier
from lorica.training.types import Example, TrainResult

SEPARATOR = 3
LORA = AdapterConfig(r=4, lora_alpha=8, lora_dropout=0.1, target_modules="all-linear", base_model_name_or_path="tiny")
FULL = TrainingConfig(
    method="full",
    epochs=3,
    batch_size=4,
    gradient_accumulation_steps=1,
    learning_rate=3e-3,
    scheduler="linear",
    weight_decay=0.01,
    logging_steps=1,
    save_steps=2,
    eval_steps=4,
    seed=5,
)


def save_base(folder: Path, kind: str = "bert", **more: Any) -> BaseFolder:
    """An encoder without a head, of random weights. kind, more: as `tests.encoders.config_of` takes them."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        transformers.AutoModel.from_config(config_of(kind, **more)).save_pretrained(folder)
    return BaseFolder(folder)


def rows(count: int, *, seed: int = 0, prefix: str = "row", least: int = 3, most: int = 14) -> list[Example]:
    """Rows whose label is the parity of their second token: learnable. Lengths differ; a third has label 1."""
    chance = random.Random(seed)
    examples = []
    for index in range(count):
        label = int(index % 3 == 0)
        first = chance.choice([token for token in range(8, 24) if token % 2 == label])
        others = [chance.randrange(24, 64) for _ in range(chance.randrange(least, most))]
        tokens = (1, first, *others, SEPARATOR)
        examples.append(Example(f"{prefix}-{index}", Encoded(tokens, len(tokens)), label))
    return examples


def trainable(
    base: BaseFolder, settings: TrainingConfig = FULL, *, lora: AdapterConfig = LORA, share: float = 1 / 3
) -> TrainableClassifier:
    """A fresh classifier on the base."""
    return make_classifier(
        base, settings, lora, labels=("No", "Yes"), separator=SEPARATOR, positive_share=share, device="cpu"
    )


def run(
    base: BaseFolder,
    folder: Path,
    settings: TrainingConfig = FULL,
    *,
    listener: SilentListener | None = None,
    examples: list[Example] | None = None,
    validation: list[Example] | None = None,
) -> TrainResult:
    """Train on the base."""
    return train(
        trainable(base, settings),
        rows(24) if examples is None else examples,
        rows(12, seed=1, prefix="held") if validation is None else validation,
        settings,
        folder,
        adapter_name="tiny",
        listener=listener or SilentListener(),
        digests={"base": base.digest},
    )
