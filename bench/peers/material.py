"""Models of real shapes with random weights (speed does not depend on values), and random adapters, made once."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file

from lorica.adapters.config import AdapterConfig
from lorica.adapters.folder import save_adapter
from lorica.models.adapter_weights import create_lora
from lorica.models.decoder import Decoder
from lorica.models.families import DecoderConfig, read_decoder_config
from lorica.models.locate import locate_model

_COMMON = {
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "tie_word_embeddings": True,
    "vocab_size": 151936,
    "torch_dtype": "bfloat16",
    "bos_token_id": None,
    "eos_token_id": None,
}
CONFIGS: dict[str, dict[str, object]] = {
    "smollm2-135m": _COMMON
    | {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "max_position_embeddings": 8192,
        "vocab_size": 49152,
    },
    "qwen2.5-0.5b": _COMMON
    | {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "max_position_embeddings": 32768,
    },
    "qwen3-1.7b": _COMMON
    | {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "attention_bias": False,
        "max_position_embeddings": 40960,
    },
    "qwen3-4b": _COMMON
    | {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "hidden_size": 2560,
        "intermediate_size": 9728,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "attention_bias": False,
        "max_position_embeddings": 40960,
    },
    "qwen3-8b": _COMMON
    | {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "attention_bias": False,
        "tie_word_embeddings": False,
        "max_position_embeddings": 40960,
    },
}
EMBEDDED = "lorica-tiny"
RANK = 16
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj"]


def make_model(cache: Path, shape: str) -> Path:
    """The folder of the model, made unless it is there. `EMBEDDED` is the model that ships with the package."""
    if shape == EMBEDDED:
        return locate_model("embedded:lorica_tiny", environ={})
    folder = cache / shape
    if not (folder / "model.safetensors").exists():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(CONFIGS[shape], indent=1), "utf-8")
        generator = torch.Generator().manual_seed(0)
        with torch.device("meta"):
            shapes = {name: tensor.shape for name, tensor in Decoder(read_decoder_config(folder)).named_parameters()}
        tensors = {name: _random(name, size, generator) for name, size in shapes.items()}
        part = folder / "part.tmp"
        save_file(tensors, part, metadata={"format": "pt"})
        part.rename(folder / "model.safetensors")
    return folder


def read_shape(shape: str) -> DecoderConfig:
    """A shape of CONFIGS, as the decoder takes it; nothing is made."""
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "config.json").write_text(json.dumps(CONFIGS[shape]), "utf-8")
        return read_decoder_config(Path(place))


def make_adapters(cache: Path, shape: str, model: Path, names: list[str]) -> dict[str, Path]:
    """The folders of random adapters on query, key, value and output projections."""
    config, found = read_decoder_config(model), {}
    for seed, name in enumerate(names):
        found[name] = cache / f"{shape}-adapters" / name
        if not (found[name] / "adapter_config.json").exists():
            part = found[name].with_name(f"{name}.part")
            shutil.rmtree(part, ignore_errors=True)
            _make_adapter(part, config, seed)
            part.rename(found[name])
    return found


def _make_adapter(folder: Path, config: DecoderConfig, seed: int) -> None:
    adapter = AdapterConfig(peft_type="LORA", r=RANK, lora_alpha=32, target_modules=TARGETS)
    weights = create_lora("bench", config, adapter, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for pair in weights.pairs.values():
        pair.b = torch.randn(pair.b.shape, generator=generator) * 0.02
    tensors = {
        name: ("F32", tuple(tensor.shape), tensor.detach().contiguous().numpy().tobytes())
        for name, tensor in weights.to_tensors().items()
    }
    save_adapter(folder, adapter, tensors)


def _random(name: str, size: torch.Size, generator: torch.Generator) -> torch.Tensor:
    if len(size) == 1:
        value = torch.zeros(size) if name.endswith("bias") else torch.ones(size)
    else:
        value = torch.randn(size, generator=generator) * 0.03
    return value.to(torch.bfloat16)
