"""Module roles: what model families call their linear layers, and which of a model's widths each one connects.

A scheme maps the end of a module's path within its layer ("q_proj", "attn.c_proj", "experts.w1") to the names of its
input and output widths; the longest end that is listed wins. Names and shapes are those of transformers' modules;
tests/adapters/test_module_roles.py holds them against the real ones.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

Scheme = Mapping[str, tuple[str, str]]

# Widths by name. "query" is what the query projection puts out, "context" what the output projection takes in: they
# differ where queries are gated or latent. "qkv" = query + 2 kv; "gate_up" = 2 ffn.
WIDTHS = {
    "hidden": "hidden",
    "query": "query width",
    "kv": "key/value width",
    "context": "attention output width",
    "qkv": "fused query-key-value width",
    "ffn": "feed-forward width",
    "gate_up": "fused gate-up width",
    "expert_ffn": "experts' feed-forward width",
    "shared_ffn": "shared experts' feed-forward width",
    "vocabulary": "vocabulary",
    "embedding": "embedding width",
    "experts": "experts",
    "query_rank": "rank of the latent query",
    "kv_a": "latent key/value width",
    "kv_rank": "rank of the latent key/value",
    "kv_b": "width of keys and values from the latent",
    "attention_in": "attention input width",
    "inner": "inner width",
    "inner_in": "input projection's width",
    "x_out": "state projection's width",
    "dt_rank": "rank of the step size",
}

# Parts of a path that say which branch of a layer it is: a scheme's entry counts only when it has them, too.
_BRANCHES = frozenset({"experts", "shared_expert", "shared_experts", "linear_attn"})


def _scheme(*tables: Mapping[str, str]) -> Scheme:
    return {
        role_name: (width_words.split()[0], width_words.split()[1])
        for role_table in tables
        for role_name, width_words in role_table.items()
    }


_EMBED = {"embed_tokens": "vocabulary embedding", "lm_head": "hidden vocabulary", "score": "hidden labels"}
_QKV = {"q_proj": "hidden query", "k_proj": "hidden kv", "v_proj": "hidden kv"}
_QKVO = {**_QKV, "o_proj": "context hidden"}
_GATED = {"gate_proj": "hidden ffn", "up_proj": "hidden ffn", "down_proj": "ffn hidden"}
_EXPERTS = {
    "experts.gate_proj": "hidden expert_ffn",
    "experts.up_proj": "hidden expert_ffn",
    "experts.down_proj": "expert_ffn hidden",
    "mlp.gate": "hidden experts",
}
_SHARED = {
    f"{branch}.{name}": widths
    for branch in ("shared_expert", "shared_experts")
    for name, widths in {
        "gate_proj": "hidden shared_ffn",
        "up_proj": "hidden shared_ffn",
        "down_proj": "shared_ffn hidden",
    }.items()
}
_LATENT = {
    "q_proj": "hidden query",
    "q_a_proj": "hidden query_rank",
    "q_b_proj": "query_rank query",
    "kv_a_proj_with_mqa": "hidden kv_a",
    "kv_b_proj": "kv_rank kv_b",
    "o_proj": "context hidden",
}
_FC = {"fc1": "hidden ffn", "fc2": "ffn hidden"}
_C_FC = {"c_fc": "hidden ffn", "mlp.c_proj": "ffn hidden"}
_WORDS = {"wte": "vocabulary embedding", "lm_head": "hidden vocabulary", "score": "hidden labels"}
_H_TO_4H = {"dense_h_to_4h": "hidden ffn", "dense_4h_to_h": "ffn hidden"}
_BERT_REST = {
    "attention.output.dense": "context hidden",
    "intermediate.dense": "hidden ffn",
    "output.dense": "ffn hidden",
    "word_embeddings": "vocabulary embedding",
    "pooler.dense": "hidden hidden",
    "classifier": "hidden labels",
}
_T5 = {
    **dict.fromkeys(("SelfAttention.q", "EncDecAttention.q"), "hidden query"),
    **{f"{attention}.{name}": "hidden kv" for attention in ("SelfAttention", "EncDecAttention") for name in "kv"},
    **dict.fromkeys(("SelfAttention.o", "EncDecAttention.o"), "context hidden"),
    **{f"DenseReluDense.{name}": "hidden ffn" for name in ("wi", "wi_0", "wi_1")},
    "DenseReluDense.wo": "ffn hidden",
    "shared": "vocabulary embedding",
    "lm_head": "hidden vocabulary",
}

SCHEMES: dict[str, Scheme] = {
    "split": _scheme(_QKVO, _GATED, _EMBED),
    "phi3": _scheme(
        {"qkv_proj": "hidden qkv", "o_proj": "context hidden"},
        {"gate_up_proj": "hidden gate_up", "down_proj": "ffn hidden"},
        _EMBED,
    ),
    "glm4": _scheme(_QKVO, {"gate_up_proj": "hidden gate_up", "down_proj": "ffn hidden"}, _EMBED),
    "phi": _scheme(_QKV, {"dense": "context hidden"}, _FC, _EMBED),
    "starcoder2": _scheme(_QKVO, {"c_fc": "hidden ffn", "c_proj": "ffn hidden"}, _EMBED),
    "plain_mlp": _scheme(_QKVO, {"up_proj": "hidden ffn", "down_proj": "ffn hidden"}, _EMBED),
    "opt": _scheme(_QKV, {"out_proj": "context hidden"}, _FC, _EMBED),
    "gptj": _scheme(
        _QKV, {"out_proj": "context hidden", "fc_in": "hidden ffn", "fc_out": "ffn hidden"}, _WORDS
    ),
    "codegen": _scheme(
        {"qkv_proj": "hidden qkv", "out_proj": "context hidden", "fc_in": "hidden ffn", "fc_out": "ffn hidden"},
        _WORDS,
    ),
    "gpt_neo": _scheme(_QKV, {"out_proj": "context hidden"}, _C_FC, _WORDS),
    "gpt2": _scheme({"attn.c_attn": "hidden qkv", "attn.c_proj": "context hidden"}, _C_FC, _WORDS),
    "exaone": _scheme(
        _QKV,
        {"out_proj": "context hidden", "c_fc_0": "hidden ffn", "c_fc_1": "hidden ffn", "mlp.c_proj": "ffn hidden"},
        _WORDS,
    ),
    "neox": _scheme(
        {"query_key_value": "hidden qkv", "attention.dense": "context hidden"},
        _H_TO_4H,
        {"embed_in": "vocabulary embedding", "embed_out": "hidden vocabulary"},
    ),
    "falcon": _scheme(
        {"query_key_value": "hidden qkv", "self_attention.dense": "context hidden"},
        _H_TO_4H,
        {"word_embeddings": "vocabulary embedding", "lm_head": "hidden vocabulary"},
    ),
    "chatglm": _scheme(
        {"query_key_value": "hidden qkv", "self_attention.dense": "context hidden"},
        {"dense_h_to_4h": "hidden gate_up", "dense_4h_to_h": "ffn hidden"},
        {"word_embeddings": "vocabulary embedding", "output_layer": "hidden vocabulary"},
    ),
    "mpt": _scheme(
        {"attn.Wqkv": "hidden qkv", "attn.out_proj": "context hidden"},
        {"ffn.up_proj": "hidden ffn", "ffn.down_proj": "ffn hidden"},
        _WORDS,
    ),
    "dbrx": _scheme({"attn.Wqkv": "hidden qkv", "attn.out_proj": "context hidden"}, _WORDS),
    "baichuan": _scheme({"W_pack": "hidden qkv", "o_proj": "context hidden"}, _GATED, _EMBED),
    "internlm2": _scheme(
        {"wqkv": "hidden qkv", "attention.wo": "context hidden"},
        {"feed_forward.w1": "hidden ffn", "feed_forward.w3": "hidden ffn", "feed_forward.w2": "ffn hidden"},
        {"tok_embeddings": "vocabulary embedding"},
    ),
    "qwen": _scheme(
        {"attn.c_attn": "hidden qkv", "attn.c_proj": "context hidden"},
        {"mlp.w1": "hidden ffn", "mlp.w2": "hidden ffn", "mlp.c_proj": "ffn hidden"},
        _WORDS,
    ),
    "mixtral": _scheme(
        _QKVO,
        {"experts.w1": "hidden expert_ffn", "experts.w3": "hidden expert_ffn", "experts.w2": "expert_ffn hidden"},
        {"block_sparse_moe.gate": "hidden experts", "mlp.gate": "hidden experts"},
        _EMBED,
    ),
    "experts": _scheme(_QKVO, _GATED, _EXPERTS, _SHARED, _EMBED),
    "llama4": _scheme(_QKVO, _GATED, _SHARED, _EMBED),
    "latent": _scheme(_LATENT, _GATED, _EXPERTS, _SHARED, _EMBED),
    "olmo": _scheme(
        {"att_proj": "hidden qkv", "attn_out": "context hidden"},
        {"ff_proj": "hidden gate_up", "ff_out": "ffn hidden"},
    ),
    "bert": _scheme({"query": "hidden query", "key": "hidden kv", "value": "hidden kv"}, _BERT_REST),
    "deberta": _scheme({"in_proj": "hidden qkv"}, _BERT_REST),
    "deberta_v2": _scheme(
        {"query_proj": "hidden query", "key_proj": "hidden kv", "value_proj": "hidden kv"}, _BERT_REST
    ),
    "distilbert": _scheme(
        {"q_lin": "hidden query", "k_lin": "hidden kv", "v_lin": "hidden kv", "out_lin": "context hidden"},
        {"lin1": "hidden ffn", "lin2": "ffn hidden", "word_embeddings": "vocabulary embedding"},
        {"classifier": "hidden labels", "pre_classifier": "hidden hidden"},
    ),
    "mpnet": _scheme(
        {"attn.q": "hidden query", "attn.k": "hidden kv", "attn.v": "hidden kv", "attn.o": "context hidden"},
        {name: widths for name, widths in _BERT_REST.items() if name != "attention.output.dense"},
    ),
    "modernbert": _scheme(
        {"Wqkv": "hidden qkv", "attn.Wo": "context hidden", "mlp.Wi": "hidden gate_up", "mlp.Wo": "ffn hidden"},
        {"tok_embeddings": "vocabulary embedding"},
    ),
    "t5": _scheme(_T5),
    "mamba": _scheme(
        {"in_proj": "hidden inner_in", "x_proj": "inner x_out", "dt_proj": "dt_rank inner", "out_proj": "inner hidden"},
        {"embeddings": "vocabulary embedding", "lm_head": "hidden vocabulary"},
    ),
    "rwkv": _scheme(
        {f"attention.{name}": "hidden query" for name in ("key", "value", "receptance", "gate")},
        {"attention.output": "query hidden"},
        {"feed_forward.key": "hidden ffn", "feed_forward.value": "ffn hidden"},
    ),
    "zamba2": _scheme(
        {"q_proj": "attention_in query", "k_proj": "attention_in kv", "v_proj": "attention_in kv"},
        {"o_proj": "context hidden", "gate_up_proj": "hidden gate_up", "down_proj": "ffn hidden"},
        {"in_proj": "hidden inner_in", "out_proj": "inner hidden"},
        _EMBED,
    ),
}  # fmt: skip

# Families, by the `model_type` of their config.json, whose scheme is not "split".
_FAMILIES = {
    "phi3": "phi3 phi4mm",
    "glm4": "glm glm4",
    "phi": "phi",
    "starcoder2": "starcoder2",
    "plain_mlp": "nemotron arcee",
    "opt": "opt bart mbart whisper xglm",
    "gptj": "gptj",
    "codegen": "codegen",
    "gpt_neo": "gpt_neo",
    "gpt2": "gpt2 gpt_bigcode",
    "exaone": "exaone",
    "neox": "gpt_neox",
    "falcon": "falcon bloom",
    "chatglm": "chatglm",
    "mpt": "mpt",
    "dbrx": "dbrx",
    "baichuan": "baichuan",
    "internlm2": "internlm2",
    "qwen": "qwen",
    "mixtral": "mixtral phimoe minicpm_moe",
    "experts": "qwen2_moe qwen3_moe qwen3_next olmoe glm4_moe ernie4_5_moe deepseek gpt_oss",
    "llama4": "llama4",
    "latent": "deepseek_v2 deepseek_v3 deepseek_v32 longcat_flash minicpm3",
    "olmo": "hf_olmo",
    "bert": "bert roberta xlm-roberta camembert electra",
    "deberta": "deberta",
    "deberta_v2": "deberta-v2",
    "distilbert": "distilbert",
    "mpnet": "mpnet",
    "modernbert": "modernbert",
    "t5": "t5 mt5",
    "mamba": "mamba mamba2 falcon_mamba",
    "rwkv": "rwkv5",
    "zamba2": "zamba2",
}
SCHEME_OF = {family: scheme for scheme, families in _FAMILIES.items() for family in families.split()}


def scheme_of(family: str) -> str:
    """The scheme of a family (`model_type`); "split" (q_proj ... down_proj) for those not listed."""
    return SCHEME_OF.get(family, "split")


def module_role(scheme: Scheme, module_slot: str) -> tuple[str, str] | None:
    """(input width, output width) by name of a place in a layer ("self_attn.q_proj"); None: the scheme has no such."""
    path_parts = module_slot.split(".")
    branches = _BRANCHES.intersection(path_parts)
    for suffix_start in range(max(0, len(path_parts) - 3), len(path_parts)):
        path_suffix = path_parts[suffix_start:]
        widths = scheme.get(".".join(path_suffix))
        if widths is not None and branches <= set(path_suffix):
            return widths
    return None


@functools.cache
def known_to_any(module_slot: str) -> bool:
    """Whether any family has a linear layer of this name."""
    return any(module_role(scheme, module_slot) is not None for scheme in SCHEMES.values())
