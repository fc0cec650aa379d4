"""Model and adapters as GGUF files, written tensor by tensor; no vocabulary is needed, for only token ids are used."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np

import gguf

_BF16 = gguf.GGMLQuantizationType.BF16
_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
Tensor = np.ndarray[Any, np.dtype[np.float32]]


def write_model(folder: Path, path: Path) -> Path:
    """The model in `folder` as GGUF with matrices in bfloat16 and vectors in float32, unless the file is there."""
    if path.exists():
        return path
    config = json.loads((folder / "config.json").read_text("utf-8"))
    arch = config["model_type"]
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    writer = gguf.GGUFWriter(part, arch)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    if "head_dim" in config:
        writer.add_key_length(config["head_dim"])
        writer.add_value_length(config["head_dim"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("no_vocab")
    for name, tensor in _tensors(folder / "model.safetensors"):
        target = _name(name)
        if tensor.ndim == 1:
            writer.add_tensor(target, tensor)
        else:
            writer.add_tensor(target, gguf.quants.quantize(tensor, _BF16), raw_dtype=_BF16)
    _finish(writer)
    part.rename(path)
    return path


def write_adapter(folder: Path, model: Path, path: Path, kind: str = "f32") -> Path:
    """The adapter in `folder` for the model in another as GGUF (kind: f32 or bf16), unless the file is there."""
    if path.exists():
        return path
    config = json.loads((folder / "adapter_config.json").read_text("utf-8"))
    base = json.loads((model / "config.json").read_text("utf-8"))
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    writer = gguf.GGUFWriter(part, base["model_type"])
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(config["lora_alpha"]))
    for name, tensor in _tensors(folder / "adapter_model.safetensors"):
        module, side = name.removeprefix("base_model.model.").removesuffix(".weight").rsplit(".lora_", 1)
        target = f"{_name(module + '.weight')}.lora_{side.lower()}"
        if kind == "bf16":
            writer.add_tensor(target, gguf.quants.quantize(tensor, _BF16), raw_dtype=_BF16)
        else:
            writer.add_tensor(target, tensor)
    _finish(writer)
    part.rename(path)
    return path


def _name(name: str) -> str:
    if name == "model.embed_tokens.weight":
        return "token_embd.weight"
    if name == "model.norm.weight":
        return "output_norm.weight"
    if name == "lm_head.weight":
        return "output.weight"
    layer, rest = name.removeprefix("model.layers.").split(".", 1)
    module, kind = rest.rsplit(".", 1)
    return f"blk.{layer}.{_NAMES[module]}.{kind}"


def _tensors(path: Path) -> list[tuple[str, Tensor]]:
    """Name -> float32 values; read here, for the safetensors package knows no bfloat16 without torch."""
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    found = []
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = (8 + size + at for at in entry["data_offsets"])
        raw = data[begin:end]
        if entry["dtype"] == "BF16":
            values = (np.frombuffer(raw, np.uint16).astype(np.uint32) << 16).view(np.float32)
        else:
            values = np.frombuffer(raw, np.float32)
        found.append((name, values.reshape(entry["shape"]).copy()))
    return found


def _finish(writer: Any) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
