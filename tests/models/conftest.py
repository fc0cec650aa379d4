"""Tiny random models of every family, made by transformers and loaded by Lorica."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lorica.models.base_folder import BaseFolder

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

VOCABULARY = 67

_SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}

# Name -> (family, what differs from the shape above).
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama-no-groups": ("llama", {"num_key_value_heads": 4}),
    "llama-biases-tied": ("llama", {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}),
    "llama-llama3-rope": ("llama", {"rope_parameters": _LLAMA3}),
    "llama-linear-rope": (
        "llama",
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 3000.0, "factor": 2.5}},
    ),
    "mistral": ("mistral", {"sliding_window": None}),
    "mistral-window": ("mistral", {"sliding_window": 5}),
    "qwen2": ("qwen2", {"tie_word_embeddings": True}),
    "qwen2-window": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1},
    ),
    "qwen3": ("qwen3", {"head_dim": 24}),
    "qwen3-bias-tied": ("qwen3", {"head_dim": 8, "attention_bias": True, "tie_word_embeddings": True}),
    "qwen3-layer-types": (
        "qwen3",
        {
            "head_dim": 16,
            "use_sliding_window": True,
            "sliding_window": 4,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
    ),
}
# Rows of whole blocks of 64 weights, which transformers needs for correct 4-bit results on the CPU.
_WIDE = {"hidden_size": 64, "intermediate_size": 128}
KINDS |= {
    "llama-wide": ("llama", {**KINDS["llama-biases-tied"][1], **_WIDE}),
    "mistral-wide": ("mistral", {**KINDS["mistral-window"][1], **_WIDE}),
    "qwen2-wide": ("qwen2", {**KINDS["qwen2"][1], **_WIDE}),
    "qwen3-wide": ("qwen3", {**_WIDE, "head_dim": 32}),
}


@dataclass
class Tiny:
    """One random model: transformers' own, its saved folder, and Lorica's decoder in float32."""

    reference: Any
    folder: Path
    decoder: Any


def build_reference(kind: str) -> Any:
    """A random transformers model whose every parameter matters (biases not 0, norms not 1)."""
    from transformers import AutoConfig, AutoModelForCausalLM

    family, changes = KINDS[kind]
    config = AutoConfig.for_model(family, **{**_SHAPE, **changes})
    config._attn_implementation = "eager"
    torch.manual_seed(len(kind))
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.copy_(1 + 0.3 * torch.randn_like(parameter))
            else:
                parameter.copy_(torch.randn_like(parameter) * (1.0 if parameter.dim() == 1 else 0.25))
    return model.requires_grad_(False)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Tiny]:
    """Make (once) a tiny model of a kind."""
    from lorica.models.weights import load_decoder

    made: dict[str, Tiny] = {}

    def make(kind: str) -> Tiny:
        if kind not in made:
            reference = build_reference(kind)
            folder = tmp_path_factory.mktemp(kind)
            reference.save_pretrained(folder)
            made[kind] = Tiny(reference, folder, load_decoder(BaseFolder(folder)))
        return made[kind]

    return make


@pytest.fixture
def adapter_of(tmp_path: Path) -> Callable[..., tuple[Any, Path]]:
    """Give a copy of a reference model a random PEFT adapter and save it: (PEFT model, folder)."""
    peft = pytest.importorskip("peft")

    def make(reference: Any, seed: int = 0, **settings: Any) -> tuple[Any, Path]:
        config = peft.LoraConfig(**{"task_type": "CAUSAL_LM", "lora_dropout": 0.0, **settings})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # PEFT 0.21 asks transformers 5 an old question
            model = peft.get_peft_model(copy.deepcopy(reference), config).eval()
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_" in name:
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
        folder = tmp_path / f"adapter-{seed}"
        model.save_pretrained(folder)
        return model, folder

    return make


@pytest.fixture
def tokens_of() -> Callable[..., Any]:
    """Random token ids, reproducible."""

    def make(count: int, seed: int = 0) -> Any:
        return torch.randint(0, VOCABULARY, (count,), generator=torch.Generator().manual_seed(seed))

    return make
