"""Adapters made from the shapes of real architectures, a header each, to try the fingerprint on."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from lorica.adapters.bases import BaseShape
from lorica.adapters.config import AdapterConfig
from lorica.adapters.fingerprint import BaseMatch, match_bases, shapes_of
from lorica.adapters.header import Header, TensorInfo
from lorica.adapters.module_roles import scheme_of
from lorica.adapters.tensor_map import map_tensors
from tools.bases.__main__ import HERE, find

SETS = ("q,v", "q,k,v,o", "gate,up,down", "all linear")

_SPLIT = "self_attn.q_proj self_attn.v_proj | self_attn.k_proj self_attn.o_proj"
_ROUTED = "mlp.experts.{e}.gate_proj mlp.experts.{e}.up_proj mlp.experts.{e}.down_proj"
_BERT = "intermediate.dense output.dense"
_4H = "mlp.dense_h_to_4h mlp.dense_4h_to_h"
# Scheme -> query and value | key and output | feed-forward, as transformers names them within a layer.
TARGETS = {
    "split": f"{_SPLIT} | mlp.gate_proj mlp.up_proj mlp.down_proj",
    "phi3": "self_attn.qkv_proj | self_attn.o_proj | mlp.gate_up_proj mlp.down_proj",
    "glm4": f"{_SPLIT} | mlp.gate_up_proj mlp.down_proj",
    "phi": "self_attn.q_proj self_attn.v_proj | self_attn.k_proj self_attn.dense | mlp.fc1 mlp.fc2",
    "starcoder2": f"{_SPLIT} | mlp.c_fc mlp.c_proj",
    "plain_mlp": f"{_SPLIT} | mlp.up_proj mlp.down_proj",
    "opt": "self_attn.q_proj self_attn.v_proj | self_attn.k_proj self_attn.out_proj | fc1 fc2",
    "gptj": "attn.q_proj attn.v_proj | attn.k_proj attn.out_proj | mlp.fc_in mlp.fc_out",
    "codegen": "attn.qkv_proj | attn.out_proj | mlp.fc_in mlp.fc_out",
    "gpt_neo": "attn.attention.q_proj attn.attention.v_proj | attn.attention.k_proj attn.attention.out_proj"
    " | mlp.c_fc mlp.c_proj",
    "gpt2": "attn.c_attn | attn.c_proj | mlp.c_fc mlp.c_proj",
    "exaone": "attn.attention.q_proj attn.attention.v_proj | attn.attention.k_proj attn.attention.out_proj"
    " | mlp.c_fc_0 mlp.c_fc_1 mlp.c_proj",
    "neox": f"attention.query_key_value | attention.dense | {_4H}",
    "falcon": f"self_attention.query_key_value | self_attention.dense | {_4H}",
    "chatglm": f"self_attention.query_key_value | self_attention.dense | {_4H}",
    "mpt": "attn.Wqkv | attn.out_proj | ffn.up_proj ffn.down_proj",
    "dbrx": "norm_attn_norm.attn.Wqkv | norm_attn_norm.attn.out_proj |",
    "baichuan": "self_attn.W_pack | self_attn.o_proj | mlp.gate_proj mlp.up_proj mlp.down_proj",
    "internlm2": "attention.wqkv | attention.wo | feed_forward.w1 feed_forward.w3 feed_forward.w2",
    "qwen": "attn.c_attn | attn.c_proj | mlp.w1 mlp.w2 mlp.c_proj",
    "mixtral": f"{_SPLIT} | block_sparse_moe.experts.{{e}}.w1 block_sparse_moe.experts.{{e}}.w3 "
    "block_sparse_moe.experts.{e}.w2",
    "experts": f"{_SPLIT} | {_ROUTED}",
    "llama4": f"{_SPLIT} | feed_forward.shared_expert.gate_proj feed_forward.shared_expert.up_proj "
    "feed_forward.shared_expert.down_proj",
    "latent": f"self_attn.q_proj self_attn.q_b_proj self_attn.kv_b_proj | self_attn.kv_a_proj_with_mqa "
    f"self_attn.o_proj | {_ROUTED}",
    "olmo": "att_proj | attn_out | ff_proj ff_out",
    "bert": f"attention.self.query attention.self.value | attention.self.key attention.output.dense | {_BERT}",
    "deberta": f"attention.self.in_proj | attention.output.dense | {_BERT}",
    "deberta_v2": "attention.self.query_proj attention.self.value_proj | attention.self.key_proj "
    f"attention.output.dense | {_BERT}",
    "distilbert": "attention.q_lin attention.v_lin | attention.k_lin attention.out_lin | ffn.lin1 ffn.lin2",
    "mpnet": f"attention.attn.q attention.attn.v | attention.attn.k attention.attn.o | {_BERT}",
    "modernbert": "attn.Wqkv | attn.Wo | mlp.Wi mlp.Wo",
    "t5": "layer.0.SelfAttention.q layer.0.SelfAttention.v | layer.0.SelfAttention.k layer.0.SelfAttention.o"
    " | layer.1.DenseReluDense.wi_0 layer.1.DenseReluDense.wo",
    "mamba": "mixer.in_proj | mixer.out_proj |",
    "rwkv": "attention.receptance attention.value | attention.key attention.output"
    " | feed_forward.key feed_forward.value",
    "zamba2": "shared_transformer.self_attn.q_proj shared_transformer.self_attn.v_proj | "
    "shared_transformer.self_attn.k_proj shared_transformer.self_attn.o_proj | "
    "shared_transformer.feed_forward.gate_up_proj shared_transformer.feed_forward.down_proj",
}


def targets(base: BaseShape, name: str) -> list[str]:
    """The modules within a layer that a set of targets means for a base; empty when it has no such linear layers."""
    attention, rest, wide = (part.split() for part in TARGETS[scheme_of(base.family)].split("|"))
    if base.family == "gpt_oss":
        wide = []  # its experts are one tensor each
    chosen = {
        "q,v": attention,
        "q,k,v,o": attention + rest,
        "gate,up,down": wide,
        "all linear": attention + rest + wide,
    }
    return [each for each in chosen[name] if _widths(base, each)]


def _widths(base: BaseShape, module: str) -> tuple[int, int] | None:
    """(in, out) where both are one known number."""
    found = base.widths(".".join(part for part in module.split(".") if not part.isdigit() and part != "{e}"))
    return (found[0][1], found[1][1]) if found and found[0][1] and found[1][1] else None


def adapter(base: BaseShape, modules: list[str], rank: int = 8) -> tuple[Header, AdapterConfig]:
    """The header that PEFT would write for a base (its tensors' names and shapes), and the config beside it."""
    container = {"gpt2": "transformer.h", "falcon": "transformer.h", "bert": "bert.encoder.layer"}
    inside = container.get(scheme_of(base.family), "model.layers")
    experts = sorted({0, max(base.experts - 1, 0)})
    tensors = {}
    for layer in range(base.layers):
        for module in modules:
            widths = _widths(base, module)
            assert widths is not None
            for path in dict.fromkeys(module.format(e=expert) for expert in experts):
                stem = f"base_model.model.{inside}.{layer}.{path}"
                tensors[f"{stem}.lora_A.weight"] = TensorInfo("F32", (rank, widths[0]), 0, 0)
                tensors[f"{stem}.lora_B.weight"] = TensorInfo("F32", (widths[1], rank), 0, 0)
    names = [module.rsplit(".", 1)[-1] for module in modules]
    return Header(tensors, {}), AdapterConfig(r=rank, target_modules=names)


def identify(base: BaseShape, name: str, *, with_config: bool = True) -> BaseMatch | None:
    """What the fingerprint says of an adapter made for a base; None when the base has no such targets."""
    modules = targets(base, name)
    if not modules:
        return None
    header, config = adapter(base, modules)
    return match_bases(shapes_of(map_tensors(header), config if with_config else None))


def as_stated(line: Mapping[str, str], ours: BaseShape) -> tuple[BaseShape, bool]:
    """Our row with every number that the other table states; and whether something had to be filled from ours."""
    columns = {
        "hidden": "hidden_size",
        "layers": "num_layers",
        "heads": "num_heads",
        "kv_heads": "num_kv_heads",
        "head_dim": "head_dim",
        "ffn": "intermediate_size",
    }
    stated = {mine: int(line[theirs]) for mine, theirs in columns.items() if line[theirs] and int(line[theirs])}
    filled = not {"hidden", "layers", "heads"} <= set(stated)
    return msgspec.structs.replace(ours, **stated), filled


def rows(table: Path) -> Iterator[tuple[dict[str, str], BaseShape | None]]:
    """Every line of the other table, and our row for the same model."""
    with (HERE / "labels.csv").open(encoding="utf-8", newline="") as file:
        labels = {(line["source"], line["label"]): line["model"] for line in csv.DictReader(file)}
    with table.open(encoding="utf-8", newline="") as file:
        for line in csv.DictReader(file):
            yield line, find(labels.get((line["source"], line["model"]), line["model"]))
