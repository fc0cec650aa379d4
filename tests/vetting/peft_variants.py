"""Legal adapters of many kinds, made by the installed PEFT on tiny random models: what must never be rejected."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, TaskType, get_peft_model
from tests.vetting.specimens import INTRO
from transformers import (
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    MixtralConfig,
    MixtralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from lorica.adapters.config import CONFIG_NAME

_SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 64,
}
_TOKENS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
_QV = ["q_proj", "v_proj"]
_ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

# name -> (model, arguments of LoraConfig); "dtype" and "save_embedding_layers" are taken out first.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("llama", {"target_modules": _QV}),
    "rank-1": ("llama", {"target_modules": _QV, "r": 1}),
    "rank-64": ("llama", {"target_modules": _QV, "r": 64, "lora_alpha": 128}),
    "tiny-scale": ("llama", {"target_modules": _QV, "r": 16, "lora_alpha": 1}),
    "large-scale": ("llama", {"target_modules": _QV, "r": 4, "lora_alpha": 256}),
    "rslora": ("llama", {"target_modules": _QV, "r": 16, "lora_alpha": 32, "use_rslora": True}),
    "dora": ("llama", {"target_modules": _ALL, "use_dora": True}),
    "all-linear": ("llama", {"target_modules": "all-linear"}),
    "one-target": ("llama", {"target_modules": ["q_proj"]}),
    "feed-forward": ("llama", {"target_modules": ["gate_proj", "up_proj", "down_proj"]}),
    "o-and-down": ("llama", {"target_modules": ["o_proj", "down_proj"]}),
    "expression": ("llama", {"target_modules": r".*\.(q_proj|v_proj)$"}),
    "expression-of-layers": ("llama", {"target_modules": r"model\.layers\.[02]\.self_attn\.(q_proj|v_proj)"}),
    "long-expression": ("llama", {"target_modules": r"(?:.*?(?:self_attn|mlp).*?(?:q_proj|down_proj).*?)"}),
    "paths": ("llama", {"target_modules": ["layers.0.self_attn.q_proj", "layers.2.mlp.up_proj"]}),
    "foreign-targets": ("llama", {"target_modules": ["q_proj", "v_proj", "query_key_value", "c_attn"]}),
    "rank-pattern": ("llama", {"target_modules": _QV, "rank_pattern": {"q_proj": 2, "layers.1.self_attn.v_proj": 6}}),
    "alpha-pattern": ("llama", {"target_modules": _QV, "alpha_pattern": {"layers.1.self_attn.v_proj": 5}}),
    "both-patterns": (
        "llama",
        {
            "target_modules": _QV,
            "rank_pattern": {r".*\.q_proj": 2},
            "alpha_pattern": {"^model.layers.0.self_attn.q_proj": 3},
        },
    ),
    "some-layers": ("llama", {"target_modules": _QV, "layers_to_transform": [0, 2]}),
    "one-layer": ("llama", {"target_modules": _QV, "layers_to_transform": 1, "layers_pattern": "layers"}),
    "exclude": ("llama", {"target_modules": "all-linear", "exclude_modules": ["o_proj"]}),
    "exclude-expression": ("llama", {"target_modules": _QV, "exclude_modules": r".*layers\.1\..*"}),
    "saved-head": ("llama", {"target_modules": _QV, "modules_to_save": ["lm_head"]}),
    "saved-embeddings": ("llama", {"target_modules": _QV, "modules_to_save": ["embed_tokens", "lm_head"]}),
    "saved-norms": ("llama", {"target_modules": _QV, "modules_to_save": ["input_layernorm", "norm"]}),
    "saved-block": ("llama", {"target_modules": ["q_proj"], "modules_to_save": ["mlp"]}),
    "embedding": ("llama", {"target_modules": ["q_proj", "embed_tokens"]}),
    "embedding-and-head": ("llama", {"target_modules": ["q_proj", "embed_tokens", "lm_head"]}),
    "embedding-dora": ("llama", {"target_modules": ["q_proj", "embed_tokens"], "use_dora": True}),
    "stored-embeddings": ("llama", {"target_modules": _QV, "save_embedding_layers": True}),
    "stored-tied-embeddings": ("tied", {"target_modules": _QV, "save_embedding_layers": True}),
    "tokens": ("llama", {"target_modules": _QV, "trainable_token_indices": [1, 2]}),
    "tokens-of-two": (
        "llama",
        {"target_modules": _QV, "trainable_token_indices": {"embed_tokens": [1, 2], "lm_head": [1]}},
    ),
    "tokens-tied": ("tied", {"target_modules": _QV, "trainable_token_indices": [1, 2, 3]}),
    "invocation-tokens": ("llama", {"target_modules": _QV, "alora_invocation_tokens": [1, 2]}),
    "replication": ("llama", {"target_modules": _QV, "layer_replication": [[0, 2], [1, 3]]}),
    "bf16": ("llama", {"target_modules": _QV, "dtype": torch.bfloat16}),
    "fp16": ("llama", {"target_modules": _QV, "dtype": torch.float16}),
    "qwen2": ("qwen2", {"target_modules": "all-linear"}),
    "qwen3": ("qwen3", {"target_modules": _ALL, "r": 2}),
    "no-biases-there": ("llama", {"target_modules": _QV, "bias": "all"}),
    "bias-all": ("opt", {"target_modules": _QV, "bias": "all"}),
    "bias-lora": ("opt", {"target_modules": _QV, "bias": "lora_only"}),
    "lora-bias": ("opt", {"target_modules": _QV, "lora_bias": True}),
    "opt-out-proj": ("opt", {"target_modules": ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]}),
    "gpt2": ("gpt2", {"target_modules": ["c_attn", "c_proj"]}),
    "gpt2-transposed": ("gpt2", {"target_modules": ["c_attn"], "fan_in_fan_out": True}),
    "experts": (
        "mixtral",
        {"target_modules": [], "target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]},
    ),
    "experts-and-attention": ("mixtral", {"target_modules": _QV, "target_parameters": ["mlp.experts.gate_up_proj"]}),
    "mixtral": ("mixtral", {"target_modules": "all-linear"}),
    "classifier": ("classifier", {"target_modules": _QV, "task_type": TaskType.SEQ_CLS}),
    "t5": ("t5", {"target_modules": ["q", "v"], "task_type": TaskType.SEQ_2_SEQ_LM}),
    "bert": ("bert", {"target_modules": ["query", "value"], "task_type": TaskType.FEATURE_EXTRACTION}),
    "no-task": ("llama", {"target_modules": _QV, "task_type": None}),
}


def build_model(kind: str) -> Any:
    """A tiny random model, always the same."""
    torch.manual_seed(0)
    if kind in ("llama", "tied"):
        return LlamaForCausalLM(LlamaConfig(**_SIZES, tie_word_embeddings=kind == "tied"))
    if kind == "classifier":
        return LlamaForSequenceClassification(LlamaConfig(**_SIZES, num_labels=2))
    if kind == "qwen2":
        return Qwen2ForCausalLM(Qwen2Config(**_SIZES))
    if kind == "qwen3":
        return Qwen3ForCausalLM(Qwen3Config(**_SIZES, head_dim=16))
    if kind == "mixtral":
        return MixtralForCausalLM(MixtralConfig(**_SIZES, num_local_experts=2))
    if kind == "opt":
        sizes = {"hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 64}
        return OPTForCausalLM(OPTConfig(**sizes, word_embed_proj_dim=32, max_position_embeddings=32))
    if kind == "gpt2":
        return GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=64, n_positions=32, **_TOKENS))
    if kind == "t5":
        return T5ForConditionalGeneration(
            T5Config(d_model=32, d_ff=48, d_kv=8, num_layers=2, num_heads=4, vocab_size=64, decoder_start_token_id=0)
        )
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    return BertModel(BertConfig(**sizes, vocab_size=64))


def save_variant(name: str, folder: Path) -> Path:
    """Make an adapter of VARIANTS with PEFT and save it into `folder`."""
    kind, arguments = VARIANTS[name]
    settings: dict[str, Any] = {"task_type": TaskType.CAUSAL_LM, "r": 4, "lora_alpha": 8} | arguments
    dtype = settings.pop("dtype", None)
    embeddings = settings.pop("save_embedding_layers", "auto")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(1)
        model = get_peft_model(build_model(kind), LoraConfig(init_lora_weights=False, **settings))
        model.peft_config["default"].init_lora_weights = True
        if dtype is not None:
            model.to(dtype)
        model.save_pretrained(folder, save_embedding_layers=embeddings)
    # Only now: PEFT would look the base up before it saves.
    config = folder / CONFIG_NAME
    config.write_text(json.dumps(json.loads(config.read_text("utf-8")) | {"base_model_name_or_path": INTRO}), "utf-8")
    return folder
