"""Every key of a config.json is read, known to change nothing, refused by name or told of; never passed over."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from lorica.errors import ModelConfigError, ModelError
from lorica.models.base_folder import BaseFolder
from lorica.models.config_keys import HEEDED, IRRELEVANT, OTHER_MODELS, READ
from lorica.models.families import FAMILIES, read_decoder_config

SHAPE: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 67,
}
LINEAR = {"rope_type": "linear", "factor": 4.0}
PARAMETERS = {"rope_type": "default", "rope_theta": 5000.0}


def folder_of(folder: Path, **changes: Any) -> Path:
    values = {"num_key_value_heads": 2, **SHAPE, **changes}
    values = {key: value for key, value in values.items() if value is not ...}
    (folder / "config.json").write_text(json.dumps(values), "utf-8")
    return folder


@pytest.mark.parametrize("family", FAMILIES)
def test_every_key_of_the_installed_configuration_class_has_its_table(family: str) -> None:
    transformers = pytest.importorskip("transformers")
    passed = READ | FAMILIES[family].keys | HEEDED.keys() | {key for group in IRRELEVANT.values() for key in group}
    assert {field.name for field in dataclasses.fields(transformers.CONFIG_MAPPING[family])} <= passed
    assert set(transformers.GenerationConfig._get_default_generation_params()) <= passed


def test_no_key_stands_in_two_tables() -> None:
    own = frozenset().union(*(family.keys for family in FAMILIES.values()))
    keys = [*READ, *own, *HEEDED, *OTHER_MODELS, *(key for group in IRRELEVANT.values() for key in group)]
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"is_causal": False}, ["the native decoder does not do is_causal false (only true)"]),
        ({"is_causal": None}, ["is_causal null"]),
        ({"per_layer_config": {"0": {"rms_norm_eps": 0.5}}}, ["per_layer_config"]),
        ({"text_config": {"model_type": "llama"}}, ["text_config", "language model alone"]),
        ({"transformers_weights": "other.safetensors"}, ['transformers_weights "other.safetensors"']),
        ({"attention_multiplier": 0.1}, ["attention_multiplier 0.1", "no llama model", "remove the key"]),
        ({"logits_scaling": 8.0}, ["logits_scaling 8.0 (only null or 1)", "model_type of the architecture"]),
        ({"num_experts": 8}, ["num_experts 8"]),
        ({"norm_eps": 0.1}, ["norm_eps 0.1 beside rms_norm_eps 1e-06", "keep rms_norm_eps alone"]),
        ({"hidden_activation": "gelu"}, ["hidden_activation 'gelu' beside hidden_act 'silu'"]),
        ({"tie_word_embeddings": "false"}, ["tie_word_embeddings is 'false', not true or false"]),
        ({"attention_bias": 0}, ["attention_bias is 0, not true or false"]),
        ({"rms_norm_eps": None}, ["rms_norm_eps is None, not a fraction such as 1e-06"]),
        ({"quantization_config": {}}, ["quantised (method unknown)"]),
        ({"rope_scaling": {"factor": 4.0}}, ["without rope_type (factor)", "add rope_type"]),
        ({"rope_scaling": {"rope_tpye": "linear", "factor": 4.0}}, ["without rope_type (factor, rope_tpye)"]),
        ({"rope_scaling": {**LINEAR, "factor": "4"}}, ["factor is '4', not a number"]),
        ({"rope_scaling": {**LINEAR, "factor": -4}}, ["factor -4 (only above 0)"]),
        ({"rope_scaling": {**LINEAR, "rope_theta": None}}, ["rope_theta is None"]),
        ({"rope_theta": None}, ["rope_theta is None"]),
        ({"rope_theta": float("inf")}, ["rope_theta is inf"]),
        ({"rope_theta": 10**400}, ["unusable value"]),
        ({"rope_scaling": {**LINEAR, "rope_type": None}}, ["rope_type is None, not a name"]),
        (
            {"rope_parameters": PARAMETERS, "rope_scaling": LINEAR},
            ["rope_theta 5000.0 would be lost", "remove"],
        ),
        (
            {"rope_parameters": {**LINEAR, "rope_type": "yarn"}, "rope_scaling": LINEAR},
            ["rope_scaling beside rope_parameters", "rope_type 'yarn' would be lost"],
        ),
        (
            {"rope_scaling": {**LINEAR, "rope_type": "llama3", "low_freq_factor": 4, "high_freq_factor": 1}},
            ["high_freq_factor 1 (only above low_freq_factor 4)"],
        ),
        ({"hidden_size": 30, "head_dim": 8}, ["hidden_size 30 is no multiple of num_attention_heads 4"]),
        ({"model_type": "qwen2", "head_dim": None}, ["head_dim is None"]),
        ({"model_type": "mistral", "num_key_value_heads": None}, ["num_key_value_heads is None"]),
        ({"model_type": "qwen2", "use_sliding_window": "false"}, ["use_sliding_window is 'false'"]),
        ({"model_type": "qwen2", "max_window_layers": None}, ["max_window_layers is None"]),
        (
            {"model_type": "qwen3", "layer_types": ["sliding_attention"] * 2},
            ["where no sliding_window is in use", "remove layer_types"],
        ),
        ({"sliding_window": 5}, ["sliding_window 5: this model_type has no window", "set sliding_window to null"]),
        ({"layer_types": ["full_attention"]}, ["layer_types names 1 layers, num_hidden_layers is 2"]),
        ({"model_type": "mistral", "sliding_window": None, "layer_types": None}, ["layer_types null where no sliding"]),
    ],
)
def test_what_would_be_another_model_is_refused(changes: dict[str, Any], told: list[str], tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        read_decoder_config(folder_of(tmp_path, **changes))
    assert caught.value.fix
    for part in told:
        assert part in str(caught.value)


def test_the_advice_for_two_rotary_objects_leads_on(tmp_path: Path) -> None:
    read_decoder_config(folder_of(tmp_path, rope_parameters={**PARAMETERS, **LINEAR}))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"rope_scalling": LINEAR},
            ["llama model, by transformers neither: rope_scalling (did you mean rope_sc"],
        ),
        ({"num_kv_heads": 1, "x-author": "me"}, ["num_kv_heads", "x-author"]),
        ({"model_type": "mistral", "use_sliding_window": True}, ["not heeded in a mistral model"]),
        ({"auto_map": {"AutoModelForCausalLM": "m.M"}}, ["own code is never run"]),
        (
            {"architectures": ["MistralForCausalLM"]},
            ["says MistralForCausalLM; model_type llama decides"],
        ),
        ({"rope_theta": 500.0, "rope_parameters": PARAMETERS}, ["rope_theta 500.0 is stated beside 5000.0"]),
        ({"rope_scaling": {**LINEAR, "type": "yarn"}}, ["type 'yarn' is stated beside 'linear'"]),
        ({"rope_scaling": {**LINEAR, "beta_fast": 32}}, ["beta_fast of the rotary parameters: rope_type 'linear'"]),
        (
            {
                "rope_scaling": {**LINEAR, "rope_type": "yarn", "original_max_position_embeddings": 64},
                "original_max_position_embeddings": 32,
            },
            ["original_max_position_embeddings 32 is used, not 64"],
        ),
    ],
)
def test_what_changes_nothing_is_told_once(changes: dict[str, Any], told: list[str], tmp_path: Path) -> None:
    folder = folder_of(tmp_path, **changes)
    read_decoder_config(folder)
    notes = BaseFolder(folder).notes
    assert len(notes) == 1
    assert str(folder / "config.json") in notes[0]
    for part in told:
        assert part in notes[0]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"torch_dtype": "bfloat16", "use_cache": False, "pretraining_tp": 2, "temperature": 0.6, "unsloth_fixed": True},
        {"rope_scaling": None, "rope_parameters": None, "quantization_config": None, "is_causal": True},
        {"num_experts": None, "hidden_activation": "silu", "norm_eps": 1e-6, "qk_layernorm": False, "new_key": None},
        {"rope_scaling": {"type": "yarn", "factor": 4.0, "finetuned": True}},
        {"architectures": "LlamaForCausalLM"},
        {"sliding_window": 2048},
        {"architectures": [["x"], 3]},
    ],
)
def test_what_is_plain_is_not_told_of(changes: dict[str, Any], tmp_path: Path) -> None:
    folder = folder_of(tmp_path, **changes)
    read_decoder_config(folder)
    assert BaseFolder(folder).notes == ()


@pytest.mark.parametrize("changes", [{"model_type": "gpt2"}, {"model_type": ...}, {"is_causal": False}])
def test_models_of_other_engines_are_not_told_of(changes: dict[str, Any], tmp_path: Path) -> None:
    assert BaseFolder(folder_of(tmp_path, **changes)).notes == ()


@pytest.mark.parametrize("changes", [{"rope_scaling": "linear"}, {"rope_scaling": {"factor": 4}}, {"logit_scale": 0.1}])
def test_what_another_engine_may_go_on_with_is_told(changes: dict[str, Any], tmp_path: Path) -> None:
    folder = folder_of(tmp_path, **changes)
    with pytest.raises(ModelConfigError) as caught:
        read_decoder_config(folder)
    assert BaseFolder(folder).notes == (caught.value.message,)


@pytest.mark.parametrize("scaling", ["linear", {"factor": 4}, {"rope_type": None}])
def test_broken_rotary_parameters_of_another_engines_model_are_told_too(scaling: Any, tmp_path: Path) -> None:
    (told,) = BaseFolder(folder_of(tmp_path, is_causal=False, rope_scaling=scaling)).notes
    assert "rope" in told


def test_null_key_heads_are_as_many_as_heads_and_absent_ones_the_familys(tmp_path: Path) -> None:
    changes = {"model_type": "qwen2", "hidden_size": 256, "num_attention_heads": 64}
    assert read_decoder_config(folder_of(tmp_path, **changes, num_key_value_heads=None)).kv_heads == 64
    assert read_decoder_config(folder_of(tmp_path, **changes, num_key_value_heads=...)).kv_heads == 32
