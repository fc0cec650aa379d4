from __future__ import annotations

import pytest

from lorica.adapters.tensor_names import TensorName, module_of, parse_tensor_name, tensor_name
from lorica.errors import AdapterError

Q = "model.layers.0.self_attn.q_proj"
PARSED = {
    f"base_model.model.{Q}.lora_A.weight": TensorName(Q, "lora_A"),
    f"base_model.model.{Q}.lora_B.weight": TensorName(Q, "lora_B"),
    f"base_model.model.{Q}.lora_A.default.weight": TensorName(Q, "lora_A", "default"),
    f"base_model.model.{Q}.lora_B.my-adapter_1.weight": TensorName(Q, "lora_B", "my-adapter_1"),
    f"base_model.model.{Q}.lora_B.bias": TensorName(Q, "lora_B.bias", "", "bias"),
    f"base_model.model.{Q}.lora_B.default.bias": TensorName(Q, "lora_B.bias", "default", "bias"),
    f"base_model.model.{Q}.lora_magnitude_vector": TensorName(Q, "lora_magnitude_vector", "", ""),
    f"base_model.model.{Q}.lora_magnitude_vector.weight": TensorName(Q, "lora_magnitude_vector"),
    f"base_model.model.{Q}.lora_magnitude_vector.default.weight": TensorName(Q, "lora_magnitude_vector", "default"),
    "base_model.model.model.embed_tokens.lora_embedding_A": TensorName(
        "model.embed_tokens", "lora_embedding_A", "", ""
    ),
    "base_model.model.model.embed_tokens.lora_embedding_B.default": TensorName(
        "model.embed_tokens", "lora_embedding_B", "default", ""
    ),
    "base_model.model.lm_head.weight": TensorName("lm_head", "saved"),
    "base_model.model.lm_head.modules_to_save.default.weight": TensorName("lm_head", "saved", "default"),
    "base_model.model.model.embed_tokens.base_layer.weight": TensorName("model.embed_tokens", "saved"),
    f"base_model.model.{Q}.bias": TensorName(Q, "saved", "", "bias"),
}


@pytest.mark.parametrize("name", PARSED)
def test_names_are_split(name: str) -> None:
    assert parse_tensor_name(name) == PARSED[name]
    assert module_of(name) == (PARSED[name].module, PARSED[name].parameter)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("lora_unet_down_blocks_0_attn.lora_down.weight", "kohya"),
        ("model.layers.0.self_attn.q_proj.lora_a", "MLX"),
        ("base_model.model.layers.0.mlp.hada_w1_a", "LoHa"),
        (f"base_model.model.{Q}.ia3_l", "IA3"),
        (f"base_model.model.{Q}.lora_E", "AdaLoRA"),
        (f"base_model.model.{Q}.vera_lambda_b", "VeRA"),
        ("prompt_embeddings", "prompt"),
        (f"{Q}.lora_A.weight", "does not begin with"),
        ("base_model.model.weight", "not one of PEFT's LoRA"),
    ],
)
def test_other_formats_are_named(name: str, kind: str) -> None:
    with pytest.raises(AdapterError, match=kind):
        parse_tensor_name(name)


def test_name_and_module_are_inverse() -> None:
    assert module_of(tensor_name(Q, "lora_A")) == (Q, "lora_A")
