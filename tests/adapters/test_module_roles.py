"""Names and widths of linear layers, held against transformers' own modules (built without memory, on "meta")."""

from __future__ import annotations

from typing import Any

import pytest

from lorica.adapters.bases import BaseShape
from lorica.adapters.fingerprint import locate_module
from lorica.adapters.module_roles import SCHEME_OF, SCHEMES, module_role, scheme_of

# Numbers that no sum or product of others equals.
SIZES = {"hidden": 48, "layers": 2, "heads": 4, "kv_heads": 2, "head_dim": 20, "ffn": 88, "vocabulary": 136}
GQA = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 20,
    "intermediate_size": 88,
    "vocab_size": 136,
    "pad_token_id": 0,
}
MHA = {**GQA, "num_key_value_heads": 4, "head_dim": 12}
BARE = {key: value for key, value in MHA.items() if key != "head_dim"}
FULL = {"kv_heads": 4, "head_dim": 12}
GPT = {"n_embd": 48, "n_layer": 2, "n_head": 4, "n_inner": 88, "vocab_size": 136}
SHARED = {"moe_intermediate_size": 56, "first_k_dense_replace": 1}

# model_type -> (transformers' configuration, what of our sizes differs).
MODELS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "llama": (GQA, {}),
    "mistral": (GQA, {}),
    "qwen2": (MHA, FULL),
    "qwen3": (GQA, {}),
    "gemma": (GQA, {}),
    "gemma2": (GQA, {}),
    "gemma3_text": (GQA, {}),
    "olmo2": (MHA, FULL),
    "cohere": (MHA, FULL),
    "stablelm": (MHA, FULL),
    "granite": (MHA, FULL),
    "smollm3": (MHA, FULL),
    "phi3": (MHA, FULL),
    "glm": (GQA, {}),
    "glm4": (GQA, {}),
    "phi": (MHA, FULL),
    "starcoder2": (MHA, FULL),
    "nemotron": (MHA, FULL),
    "opt": ({**MHA, "ffn_dim": 88, "word_embed_proj_dim": 48}, FULL),
    "gptj": ({**GPT, "rotary_dim": 4}, FULL),
    "codegen": ({**GPT, "rotary_dim": 4}, FULL),
    "gpt_neo": ({**MHA, "num_layers": 2, "num_heads": 4, "attention_types": [[["global"], 2]]}, FULL),
    "gpt2": (GPT, FULL),
    "gpt_bigcode": (GPT, {"kv_heads": 1, "head_dim": 12}),
    "gpt_neox": (MHA, FULL),
    "falcon": ({**BARE, "ffn_hidden_size": 88}, {"kv_heads": 1, "head_dim": 12}),
    "bloom": ({"hidden_size": 48, "n_layer": 2, "n_head": 4, "vocab_size": 136}, {**FULL, "ffn": 192}),
    "mpt": ({"d_model": 48, "n_layers": 2, "n_heads": 4, "vocab_size": 136}, {**FULL, "ffn": 192}),
    "bert": (MHA, FULL),
    "roberta": (MHA, FULL),
    "electra": ({**MHA, "embedding_size": 48}, FULL),
    "deberta": (MHA, FULL),
    "deberta-v2": (MHA, FULL),
    "distilbert": ({"dim": 48, "n_layers": 2, "n_heads": 4, "hidden_dim": 88, "vocab_size": 136}, FULL),
    "mpnet": (MHA, FULL),
    "modernbert": ({**MHA, "global_attn_every_n_layers": 2}, FULL),
    "t5": (
        {"d_model": 48, "num_layers": 2, "num_heads": 4, "d_kv": 20, "d_ff": 88, "vocab_size": 136},
        {"kv_heads": 4},
    ),
    "bart": (
        {"d_model": 48, "vocab_size": 136}
        | {f"{side}_{key}": value for side in ("encoder", "decoder") for key, value in
           {"layers": 2, "attention_heads": 4, "ffn_dim": 88}.items()},
        FULL,
    ),
    "mamba": (
        {"hidden_size": 48, "num_hidden_layers": 2, "vocab_size": 136, "state_size": 6, "time_step_rank": 5},
        {"more": (("inner_in", 192), ("inner", 96), ("x_out", 17), ("dt_rank", 5))},
    ),
    "deepseek_v2": (
        {**MHA, **SHARED, "q_lora_rank": 10, "kv_lora_rank": 14, "qk_rope_head_dim": 8, "qk_nope_head_dim": 12}
        | {"v_head_dim": 18, "n_routed_experts": 4, "n_shared_experts": 2, "num_experts_per_tok": 2},
        {
            "more": (
                *(("query", 80), ("context", 72), ("query_rank", 10), ("kv_a", 22), ("kv_rank", 14), ("kv_b", 120)),
                *(("expert_ffn", 56), ("shared_ffn", 112)),
            ),
            "experts": 4,
        },
    ),
    "qwen2_moe": (
        {**MHA, "moe_intermediate_size": 56, "shared_expert_intermediate_size": 72, "num_experts": 4},
        {**FULL, "experts": 4, "more": (("expert_ffn", 56), ("shared_ffn", 72))},
    ),
    "glm4_moe": (
        {**GQA, **SHARED, "n_routed_experts": 4, "n_shared_experts": 2, "num_experts_per_tok": 2},
        {"experts": 4, "more": (("expert_ffn", 56), ("shared_ffn", 112))},
    ),
}  # fmt: skip
# Layers that adapt nothing worth knowing: gates, positions, heads' inner layers.
ASIDE = {"shared_expert_gate", "lm_head", "wpe", "embed_positions", "position_embeddings", "token_type_embeddings"}


@pytest.mark.parametrize("family", MODELS)
def test_names_and_widths_are_those_of_transformers(family: str) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    values, ours = MODELS[family]
    base = BaseShape(name="x", family=family, **{**SIZES, **ours})
    config = transformers.AutoConfig.for_model(family, **values)
    with torch.device("meta"):
        model = transformers.AutoModel.from_config(config)
    met: set[tuple[str, str]] = set()
    inside = 0
    for path, module in model.named_modules():
        widths = _in_out(module)
        if widths is None or path.rpartition(".")[2] in ASIDE:
            continue
        place = locate_module(path)
        found = base.widths(place.slot)
        if found is None:
            assert place.layer is None or not _is_linear(module), f"{path} has no name in {scheme_of(family)}"
            continue
        inside += place.layer is not None
        met.add((found[0][0], found[1][0]))
        assert (found[0][1], found[1][1]) == widths, f"{path}: {found}, transformers: {widths}"
    assert inside >= 2 * base.layers
    assert {"hidden"} < {name for pair in met for name in pair}


def _kinds(module: Any) -> set[str]:
    return {each.__name__ for each in type(module).__mro__}


def _is_linear(module: Any) -> bool:
    return bool(_kinds(module) & {"Linear", "Conv1D"})


def _in_out(module: Any) -> tuple[int, int] | None:
    kinds = _kinds(module)
    if "Linear" in kinds:
        return module.in_features, module.out_features
    if "Conv1D" in kinds:
        return module.nx, module.nf
    return (module.num_embeddings, module.embedding_dim) if "Embedding" in kinds else None


def test_every_listed_family_has_a_scheme() -> None:
    assert set(SCHEME_OF.values()) <= set(SCHEMES)
    assert scheme_of("a family of tomorrow") == "split"


@pytest.mark.parametrize(
    ("scheme", "slot", "expected"),
    [
        ("split", "self_attn.q_proj", ("hidden", "query")),
        ("split", "mlp.experts.gate_proj", None),  # an expert's gate is not the dense one
        ("experts", "mlp.experts.gate_proj", ("hidden", "expert_ffn")),
        ("experts", "mlp.shared_expert.gate_proj", ("hidden", "shared_ffn")),
        ("bert", "attention.output.dense", ("context", "hidden")),
        ("bert", "output.dense", ("ffn", "hidden")),
        ("gpt2", "mlp.c_proj", ("ffn", "hidden")),
        ("gpt2", "attn.c_proj", ("context", "hidden")),
        ("internlm2", "feed_forward.w2", ("ffn", "hidden")),
        ("qwen", "mlp.w2", ("hidden", "ffn")),
        ("split", "", None),
    ],
)
def test_the_longest_listed_end_wins(scheme: str, slot: str, expected: tuple[str, str] | None) -> None:
    assert module_role(SCHEMES[scheme], slot) == expected
