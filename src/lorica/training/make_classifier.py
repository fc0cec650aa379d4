"""A classifier to train: the base's own head or a new one, and LoRA around its linear layers where that is asked."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import torch

from lorica.adapters.config import AdapterConfig
from lorica.config.schema import TrainingConfig
from lorica.encoder_families import EncoderFamily, is_of_module
from lorica.errors import ConfigError, MissingExtraError
from lorica.models.adapter_weights import ALL_LINEAR, check_patterns
from lorica.models.base_folder import BaseFolder
from lorica.models.classifiers import base_family, check_finite, load_classifier, new_classifier
from lorica.models.offline import import_bitsandbytes_offline, offline
from lorica.names import closest
from lorica.training.classifier import TrainableClassifier
from lorica.training.trainable import choose_precision

# Base, names of the labels of the head's logits, and seed -> transformers' untrained classifier, the caller's own.
NewModel = Callable[[BaseFolder, Sequence[str], int], Any]

# What a tokenizer is read from, by transformers and by Lorica: a classifier's folder brings it along.
_TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt",
    "vocab.json", "merges.txt", "spm.model", "sentencepiece.bpe.model",
)  # fmt: skip


def load_new_model(base: BaseFolder, head_labels: Sequence[str], seed: int) -> Any:
    """The base in float32 with its own head, or a new one. head_labels: see `new_classifier`. Raises ModelError for a
    base that is no encoder, AdapterError for weights that are missing or no numbers."""
    if base.has_head:
        return load_classifier(base, torch.float32)
    model = new_classifier(base, head_labels, torch.float32, seed).model
    check_finite(model.named_parameters(), str(base.path))
    return model


def make_classifier(
    base: BaseFolder,
    settings: TrainingConfig,
    adapter: AdapterConfig,
    *,
    labels: tuple[str, str],
    separator: int,
    positive_share: float,
    device: str,
    new_model: NewModel = load_new_model,
) -> TrainableClassifier:
    """A base as its folder has it, in float32 on a device, with a head for two labels.

    adapter: what LoRA is made by, where `settings.method` is "lora". labels: names of label 0 and label 1. new_model:
    gives the untrained model. A base that classifies already keeps its head. Raises ModelError for a base that is no
    encoder, ConfigError for LoRA that fits no layer and for a head of one logit where the base has one of two classes,
    MissingExtraError for LoRA without PEFT.
    """
    family = base_family(base)
    model = new_model(base, labels if settings.head == "two_classes" else labels[1:], settings.seed)
    if settings.head == "one_logit" and model.config.num_labels > 1:
        raise ConfigError(
            f"training.head=one_logit: {base.path} has a head of {model.config.num_labels} classes already, which "
            "is trained further",
            fix="leave training.head out, or name a base without a head",
        )
    complete = None
    if settings.method == "lora":
        complete = complete_adapter(adapter, model, family)
        model = _with_lora(model, complete, seed=settings.seed)
    if settings.gradient_checkpointing:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*gradient_checkpointing", FutureWarning)  # transformers renames it
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return TrainableClassifier(
        model=model.to(device),
        adapter=complete,
        precision=choose_precision(torch.device(device).type, torch.float32, fp16=settings.fp16, bf16=settings.bf16),
        separator=separator,
        positive_share=positive_share,
        extra_files={
            name: (base.path / name).read_bytes() for name in _TOKENIZER_FILES if (base.path / name).is_file()
        },
        description={"base.model_type": family.model_type, "base.logits": str(model.config.num_labels)},
    )


def complete_adapter(adapter: AdapterConfig, model: Any, family: EncoderFamily) -> AdapterConfig:
    """The targets as a sorted list of names, the head as modules to save, and what PEFT expects of a finished adapter.

    Raises ConfigError for a target or a pattern that fits no linear layer of the encoder.
    """
    layers = linear_layers(model, family)
    targets = adapter.target_modules
    if targets == ALL_LINEAR:
        targets = short_names(layers, model)
    if not isinstance(targets, list):
        raise ConfigError(f"lora.target_modules: {targets!r} is no list of module names", fix=f"use {ALL_LINEAR}")
    known_names = sorted({layer.rsplit(".", 1)[1] for layer in layers})
    for target in targets:
        if not any(f".{layer}".endswith(f".{target}") for layer in layers):
            suggestion = closest(target, known_names, least_ratio=0.5)
            hint = f"did you mean {suggestion}? Otherwise " if suggestion else ""
            raise ConfigError(
                f"lora.target_modules: no {target!r} beneath the head; {family.model_type} has "
                f"{', '.join(known_names)}",
                fix=f"{hint}name some of these, or {ALL_LINEAR}",
            )
    complete = msgspec.structs.replace(
        adapter,
        task_type="SEQ_CLS",
        target_modules=sorted(set(targets)),
        modules_to_save=sorted(family.head),
        other={**adapter.other, "inference_mode": True},
    )
    check_patterns(complete, [layer for layer in layers if complete.targets(layer)])
    return complete


def linear_layers(model: Any, family: EncoderFamily) -> list[str]:
    """The paths of an encoder's linear layers beneath its head."""
    return [
        path
        for path, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
        and not any(is_of_module(f"{path}.weight", head_module) for head_module in family.head)
    ]


def short_names(layers: Sequence[str], model: Any) -> list[str]:
    """Names that mean these layers and no other of the model: the last part of their paths, or the last two."""
    other_names = {
        path.rsplit(".", 1)[-1]
        for path, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and path not in set(layers)
    }
    return sorted(
        {
            ".".join(path.split(".")[-2:]) if path.rsplit(".", 1)[-1] in other_names else path.rsplit(".", 1)[-1]
            for path in layers
        }
    )


def _with_lora(model: Any, adapter: AdapterConfig, *, seed: int) -> Any:
    """PEFT's model: frozen but for fresh factors, seeded, and copies of the head."""
    import_bitsandbytes_offline()
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise MissingExtraError("peft", extra="peft", needed_for="LoRA on an encoder") from error
    lora_config = LoraConfig(
        task_type="SEQ_CLS",
        r=adapter.r,
        lora_alpha=adapter.lora_alpha,
        lora_dropout=adapter.lora_dropout,
        use_rslora=adapter.use_rslora,
        target_modules=adapter.target_modules,
        modules_to_save=adapter.modules_to_save,
        rank_pattern=adapter.rank_pattern,
        alpha_pattern=adapter.alpha_pattern,
    )
    with offline(), warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        # PEFT reads this attribute, which transformers 5 deprecates; nothing a user could act on.
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
        torch.manual_seed(seed)
        return get_peft_model(model, lora_config)
