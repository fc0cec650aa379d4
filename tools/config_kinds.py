"""Random model folders as people and tools leave them: saved by transformers, then edited.

Rotary scalings of any kind, keys in two spellings or in two places, windows, heads, biases, keys of other models and
misspelt ones; tensors too many, too few, renamed, in shards. Everything follows from a seed.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

VOCABULARY = 61
WEIGHTS = "model.safetensors"

Raw = dict[str, Any]


def draw(folder: Path, seed: str) -> tuple[str, ...]:
    """Write a random model folder; returns what is unusual about it."""
    rng = random.Random(seed)
    family = rng.choice(("llama", "mistral", "qwen2", "qwen3"))
    write_model(folder, family, _shape(rng, family), seed=rng.randrange(2**31))
    path = folder / "config.json"
    raw = json.loads(path.read_text("utf-8"))
    chosen = rng.choices(list(CONFIG_EDITS), k=rng.choice((0, 1, 1, 2, 2, 3)))
    for name in dict.fromkeys(chosen):
        CONFIG_EDITS[name](rng, raw)
    path.write_text(json.dumps(raw), "utf-8")
    edits = [rng.choice(list(TENSOR_EDITS))] if rng.random() < 0.3 else []
    for name in edits:
        TENSOR_EDITS[name](rng, folder)
    return (family, *dict.fromkeys(chosen), *edits)


def _shape(rng: random.Random, family: str) -> Raw:
    heads = rng.choice((2, 4))
    shape: Raw = {
        "vocab_size": VOCABULARY,
        "hidden_size": heads * rng.choice((8, 12)),
        "intermediate_size": 40,
        "num_hidden_layers": rng.choice((1, 2, 3)),
        "num_attention_heads": heads,
        "num_key_value_heads": rng.choice((heads, heads // 2)),
        "max_position_embeddings": rng.choice((32, 64, 128)),
        "tie_word_embeddings": rng.random() < 0.4,
        "rms_norm_eps": rng.choice((1e-6, 1e-5, 1e-2)),
        "rope_parameters": {"rope_type": "default", "rope_theta": rng.choice((10000.0, 10000.0, 500.0, 1e6))},
    }
    if family == "qwen3" or rng.random() < 0.3:
        shape["head_dim"] = rng.choice((8, 16))
    if family in ("llama", "qwen3"):
        shape["attention_bias"] = rng.random() < 0.4
    if family == "llama":
        shape["mlp_bias"] = rng.random() < 0.4
    if family == "mistral":
        shape["sliding_window"] = rng.choice((None, 5, 4096))
    if family.startswith("qwen") and rng.random() < 0.5:
        shape |= {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": rng.choice((0, 1, 2))}
    return shape


def write_model(folder: Path, family: str, shape: Raw, *, seed: int) -> None:
    """A random model whose every parameter matters (biases not 0, norms not 1), saved by transformers."""
    from transformers import AutoConfig, AutoModelForCausalLM

    generator = torch.Generator().manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **shape))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.3 * noise if "norm" in name else noise * (0.5 if parameter.dim() == 1 else 0.3))
    model.save_pretrained(folder)


def _put(**values: Any) -> Callable[[random.Random, Raw], None]:
    return lambda _, raw: raw.update(values)


def _drop(*keys: str) -> Callable[[random.Random, Raw], None]:
    def edit(_: random.Random, raw: Raw) -> None:
        for key in keys:
            raw.pop(key, None)

    return edit


def _any(**values: list[Any]) -> Callable[[random.Random, Raw], None]:
    return lambda rng, raw: raw.update({key: rng.choice(choices) for key, choices in values.items()})


def scaling(rng: random.Random) -> Raw:
    """Rotary parameters of any kind, spelt in either way, with what is optional given or not."""
    kind = rng.choice(("linear", "llama3", "llama3", "yarn", "yarn", "yarn", "dynamic", "longrope", "default", "ntk"))
    values: Raw = {rng.choice(("rope_type", "type")): kind, "factor": rng.choice((2, 4.0, 8.0, 1.0, 0.5))}
    if rng.random() < 0.1:
        values |= {"rope_type": kind, "type": rng.choice(("linear", "mrope", kind))}
    if kind == "llama3":
        values |= {"low_freq_factor": rng.choice((1, 1.0, 2)), "high_freq_factor": rng.choice((4.0, 8, 1.5))}
    if kind == "longrope":
        values |= {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
    if kind in ("llama3", "yarn", "longrope") and rng.random() < 0.8:
        values["original_max_position_embeddings"] = rng.choice((8, 16, 32, 64))
    if kind == "yarn":
        optional: Raw = {
            "attention_factor": rng.choice((1.0, 0.8, 2)),
            "beta_fast": rng.choice((32, 4.0, None)),
            "beta_slow": rng.choice((1, 0.5)),
            "mscale": rng.choice((1.0, 0.7, 0)),
            "mscale_all_dim": rng.choice((1.0, 0.4)),
            "truncate": rng.choice((True, False)),
        }
        values |= {key: value for key, value in optional.items() if rng.random() < 0.3}
    if rng.random() < 0.3:
        values["rope_theta"] = rng.choice((10000.0, 500, 1e5))
    if rng.random() < 0.1:
        values |= rng.choice(({"finetuned": True}, {"beta_fast": 32}, {"factr": 8}, {"partial_rotary_factor": 1.0}))
    return values


def _scaling_alone(rng: random.Random, raw: Raw) -> None:
    stated = raw.pop("rope_parameters", None)
    theta = stated.get("rope_theta", 10000.0) if isinstance(stated, dict) else 10000.0
    raw |= {"rope_theta": theta, "rope_scaling": scaling(rng)}


def _scaling_beside(rng: random.Random, raw: Raw) -> None:
    raw["rope_scaling"] = scaling(rng)
    if rng.random() < 0.3:
        raw["rope_theta"] = rng.choice((10000.0, 500.0))


def _scaling_inside(rng: random.Random, raw: Raw) -> None:
    raw["rope_parameters"] = {"rope_theta": 10000.0, **scaling(rng)}


def _broken_rope(rng: random.Random, raw: Raw) -> None:
    key = rng.choice(("rope_scaling", "rope_parameters"))
    raw[key] = rng.choice(
        (
            {"factor": 4.0},
            {"rope_type": None, "factor": 4.0},
            {"rope_type": "linear", "factor": "4"},
            {"rope_type": "linear", "factor": None},
            {"rope_tpye": "linear", "factor": 4.0},
            {"rope_type": "linear", "factor": 2.0, "rope_theta": None},
            {"full_attention": {"rope_type": "default", "rope_theta": 500.0}},
            {"rope_type": "default", "rope_theta": "10000"},
            {"rope_type": "default", "partial_rotary_factor": 0.5},
            {"rope_type": "linear", "factor": 2.0, "partial_rotary_factor": 0.5},
            {"type": "linear", "factor": True},
            "linear",
            "default",
            [],
        )
    )


def _layer_types(rng: random.Random, raw: Raw) -> None:
    kinds = ("full_attention", "sliding_attention", "full_attention", "sliding_attention", "attention", "x")
    count = raw["num_hidden_layers"] + (rng.random() < 0.1)
    raw["layer_types"] = rng.choice([[], None, [rng.choice(kinds[: rng.choice((2, 2, 6))]) for _ in range(count)]])


def _two_eps(rng: random.Random, raw: Raw) -> None:
    raw[rng.choice(("norm_eps", "layer_norm_eps", "layer_norm_epsilon"))] = rng.choice((raw.get("rms_norm_eps"), 0.1))
    if rng.random() < 0.3:
        raw.pop("rms_norm_eps", None)


def _original_above(rng: random.Random, raw: Raw) -> None:
    raw["original_max_position_embeddings"] = rng.choice((8, 16, None))
    if rng.random() < 0.7:
        _scaling_inside(rng, raw)


_OTHER_MODELS: dict[str, list[Any]] = {
    "attention_multiplier": [0.2, None],
    "embedding_multiplier": [12.0, 1.0],
    "residual_multiplier": [0.5, 1],
    "logits_scaling": [8.0, 1.0],
    "logit_scale": [0.0625, None],
    "attn_logit_softcapping": [50.0, None],
    "final_logit_softcapping": [30.0, None],
    "query_pre_attn_scalar": [144, None],
    "clip_qkv": [8.0, None],
    "scale_emb": [12, 1],
    "alibi": [True, False],
    "qk_layernorm": [True, False],
    "no_rope_layers": [[1, 0], None],
    "attention_chunk_size": [8, None],
    "num_experts": [4, 0],
    "rotary_pct": [0.25, 1.0],
}


def _other_model(rng: random.Random, raw: Raw) -> None:
    key = rng.choice(list(_OTHER_MODELS))
    raw[key] = rng.choice(_OTHER_MODELS[key])


def _misspelt(rng: random.Random, raw: Raw) -> None:
    key = rng.choice(("rope_scalling", "rms_norm_epsilon", "num_kv_heads", "n_layer", "x-author", "tied_embeddings"))
    raw[key] = rng.choice((1, "x", {"rope_type": "linear", "factor": 4.0}))


CONFIG_EDITS: dict[str, Callable[[random.Random, Raw], None]] = {
    "scaling alone": _scaling_alone,
    "scaling alone again": _scaling_alone,
    "scaling beside parameters": _scaling_beside,
    "scaling in parameters": _scaling_inside,
    "broken rope": _broken_rope,
    "theta above": _any(rope_theta=[500.0, 1000000, 10000.0, None, "10000"]),
    "theta above alone": lambda rng, raw: raw.update(rope_parameters=None, rope_theta=rng.choice((500.0, 20000))),
    "theta nowhere": _drop("rope_parameters"),
    "empty scaling": _any(rope_scaling=[None, {}]),
    "original above": _original_above,
    "partial above": _any(partial_rotary_factor=[1.0, 0.5, None]),
    "key heads": _any(num_key_value_heads=[None, 1, 2, 3]),
    "key heads absent": _drop("num_key_value_heads"),
    "head width": _any(head_dim=[None, 8, 12, 16, 7]),
    "head width absent": _drop("head_dim"),
    "activation": _any(hidden_act=["swish", "gelu", "silu", "relu", None]),
    "other activation": _any(hidden_activation=["gelu_pytorch_tanh", "silu", None]),
    "tied": _any(tie_word_embeddings=[True, False, None, "false", 1]),
    "tied absent": _drop("tie_word_embeddings"),
    "biases": _any(attention_bias=[True, False, None, "false"]),
    "other biases": _any(qkv_bias=[True, False], mlp_bias=[True, False, None]),
    "two eps": _two_eps,
    "eps": _any(rms_norm_eps=[1e-3, 1, None, "1e-6"]),
    "eps absent": _drop("rms_norm_eps"),
    "window": _any(sliding_window=[None, 4, 7, 0, "4"]),
    "window used": _any(use_sliding_window=[True, False, "false", None], sliding_window=[None, 5, 9]),
    "window layers": _any(max_window_layers=[0, 1, 2, None, "1"]),
    "window keys absent": _drop("sliding_window", "max_window_layers"),
    "layer types": _layer_types,
    "dtypes": _any(torch_dtype=["float16", "bfloat16", None], dtype=["float32", "bfloat16", None]),
    "causal": _any(is_causal=[False, True, None]),
    "per layer": _any(per_layer_config=[{"0": {"hidden_act": "gelu"}}, {"0": {"rms_norm_eps": 0.1}}, None]),
    "nested": lambda rng, raw: raw.update({rng.choice(("text_config", "decoder")): rng.choice((dict(raw), None))}),
    "quantised": _any(quantization_config=[None, {}, {"quant_method": "fp8"}]),
    "encoder": _any(is_encoder_decoder=[True, False]),
    "other model's key": _other_model,
    "other model's key again": _other_model,
    "architectures": _any(architectures=[["MistralForCausalLM"], ["LlamaForSequenceClassification"], [], None]),
    "own code": _put(auto_map={"AutoModelForCausalLM": "modeling_x.XForCausalLM"}),
    "misspelt": _misspelt,
    "shapes": lambda rng, raw: raw.update(
        num_hidden_layers=max(1, raw["num_hidden_layers"] + rng.choice((-1, 1))),
    ),
    "plain extras": _put(pretraining_tp=2, use_cache=False, attention_dropout=0.5, temperature=0.3, _name_or_path="x"),
    "other file": _any(transformers_weights=["other.safetensors", None]),
    "other family": _any(model_type=["llama", "mistral", "qwen2", "qwen3"]),
}


def _change(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / WEIGHTS, {"format": "pt"})


def _add(name: str, *shape: int) -> Callable[[random.Random, Path], None]:
    return lambda _, folder: _change(folder, lambda tensors: tensors.update({name: torch.randn(shape)}))


def _head(rng: random.Random, folder: Path) -> None:
    other = rng.random() < 0.5

    def change(tensors: dict[str, Tensor]) -> None:
        table = tensors["model.embed_tokens.weight"]
        tensors["lm_head.weight"] = torch.randn_like(table) if other else table.clone()

    _change(folder, change)


def _take_away(rng: random.Random, folder: Path) -> None:
    def change(tensors: dict[str, Tensor]) -> None:
        wanted = ("lm_head.weight", "model.embed_tokens.weight", "model.norm.weight", "bias")
        del tensors[rng.choice([name for name in sorted(tensors) if name.endswith(wanted)])]

    _change(folder, change)


def _table_as_head(_: random.Random, folder: Path) -> None:
    _change(folder, lambda tensors: tensors.update({"lm_head.weight": tensors.pop("model.embed_tokens.weight")}))


def _renamed(rng: random.Random, folder: Path) -> None:
    old, new = rng.choice((("model.", ""), ("model.", "model.model."), ("", "base_model.model."), ("norm", "ln")))

    def change(tensors: dict[str, Tensor]) -> None:
        for name in list(tensors):
            tensors[name.replace(old, new, 1) if old else new + name] = tensors.pop(name)

    _change(folder, change)


def _stored(rng: random.Random, folder: Path) -> None:
    def change(tensors: dict[str, Tensor]) -> None:
        for name in tensors:
            tensors[name] = tensors[name].to(rng.choice((torch.float32, torch.bfloat16, torch.float64)))

    _change(folder, change)


def _shards(rng: random.Random, folder: Path) -> None:
    """Two shards with an index; sometimes one holds a tensor of the other, or the whole file stays beside them."""
    tensors = load_file(folder / WEIGHTS)
    names = sorted(tensors)
    parts = [names[::2], names[1::2]]
    if rng.random() < 0.3:
        parts[1].append(names[0])
    if rng.random() < 0.7:
        (folder / WEIGHTS).unlink()
    placed = {}
    for number, part in enumerate(parts, 1):
        file = f"model-0000{number}-of-00002.safetensors"
        changed = {name: tensors[name] + (number - 1) * 0.1 for name in part}
        save_file(changed, folder / file, {"format": "pt"})
        placed.update(dict.fromkeys(part, file))
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": placed}), "utf-8")


TENSOR_EDITS: dict[str, Callable[[random.Random, Path], None]] = {
    "own head": _head,
    "own head again": _head,
    "table as head": _table_as_head,
    "taken away": _take_away,
    "renamed": _renamed,
    "stored otherwise": _stored,
    "shards": _shards,
    "bias too many": _add("model.layers.0.self_attn.o_proj.bias", 16),
    "query norm": _add("model.layers.0.self_attn.q_norm.weight", 8),
    "rotary table": _add("model.layers.0.self_attn.rotary_emb.inv_freq", 4),
    "head bias": _add("lm_head.bias", VOCABULARY),
    "adapter inside": _add("model.layers.0.self_attn.q_proj.lora_A.weight", 2, 16),
    "layer too many": _add("model.layers.7.input_layernorm.weight", 16),
    "score": _add("score.weight", 2, 16),
}
