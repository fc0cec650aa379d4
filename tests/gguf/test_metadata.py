"""What the metadata of a GGUF file becomes in the words of config.json, and what is refused or reported."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from tools.gguf_files import SHAPE, gguf_bytes, model_metadata, model_tensors, write_model

from lorica.errors import LoricaError, ModelError
from lorica.gguf.metadata import read_config
from lorica.models.base_folder import BaseFolder
from lorica.models.locate import locate_model


def file_of(tmp_path: Path, family: str = "llama", **changes: Any) -> Path:
    """A model whose metadata was changed; None removes a key. Keys are written with "__" for "."."""
    metadata = model_metadata(family, SHAPE)
    for key, value in changes.items():
        metadata[key.replace("__", ".")] = value
    path = tmp_path / "model.gguf"
    tensors = model_tensors(family, "Q8_0")
    path.write_bytes(gguf_bytes({key: value for key, value in metadata.items() if value is not None}, tensors))
    return path


def test_metadata_becomes_the_config_of_the_family(tmp_path: Path) -> None:
    base = BaseFolder(file_of(tmp_path, "qwen3"))
    config = base.decoder_config
    assert (config.family, config.layers, config.hidden_size, config.heads, config.kv_heads) == ("qwen3", 2, 256, 4, 2)
    assert (config.head_dim, config.vocab_size, config.max_positions) == (64, 80, 128)
    assert config.tied_embeddings
    assert config.qk_norm
    assert base.notes == ()
    assert (base.max_positions, base.vocabulary_size) == (128, 80)


@pytest.mark.parametrize(
    ("changes", "rope"),
    [
        ({}, {"rope_type": "default"}),
        ({"llama__rope__scaling__type": "none"}, {"rope_type": "default"}),
        ({"llama__rope__scale_linear": 2.0}, {"rope_type": "linear", "factor": 2.0}),
        # As llama.cpp reads them: a factor without a type is linear, and of "none" there is none.
        ({"llama__rope__scaling__factor": 4.0}, {"rope_type": "linear", "factor": 4.0}),
        (
            {"llama__rope__scaling__factor": 4.0, "llama__rope__scale_linear": 2.0},
            {"rope_type": "linear", "factor": 4.0},
        ),
        ({"llama__rope__scaling__type": "none", "llama__rope__scale_linear": 2.0}, {"rope_type": "default"}),
        (
            {"llama__rope__scaling__type": "linear", "llama__rope__scaling__factor": 4.0},
            {"rope_type": "linear", "factor": 4.0},
        ),
        (
            {
                "llama__rope__scaling__type": "yarn",
                "llama__rope__scaling__factor": 4.0,
                "llama__rope__scaling__original_context_length": 32,
            },
            {
                "rope_type": "yarn",
                "factor": 4.0,
                "original_max_position_embeddings": 32,
                "beta_fast": 32.0,
                "beta_slow": 1.0,
            },
        ),
    ],
)
def test_rope_scaling_is_stated_as_transformers_states_it(
    tmp_path: Path, changes: dict[str, Any], rope: dict[str, Any]
) -> None:
    base = BaseFolder(file_of(tmp_path, **changes))
    assert base.config["rope_parameters"] == {"rope_theta": 10000.0, **rope}
    assert base.decoder_config.rope_scaling.rope_type == rope["rope_type"]
    assert base.notes == ()


def test_the_attention_factor_of_yarn_is_multiplied_as_llama_cpp_does(tmp_path: Path) -> None:
    path = file_of(
        tmp_path,
        llama__rope__scaling__type="yarn",
        llama__rope__scaling__factor=4.0,
        llama__rope__scaling__attn_factor=0.5,
    )
    assert read_config(path)["rope_parameters"]["attention_factor"] == pytest.approx(0.5 * (1 + 0.1 * math.log(4)))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"general__architecture": "gemma3"}, "'gemma3', not one of llama, qwen2, qwen3"),
        ({"general__architecture": None}, "general.architecture is missing"),
        ({"general__type": "adapter"}, "general.type is 'adapter'"),
        ({"split__count": 3}, "one of several parts"),
        ({"split__count": 3, "split__no": 1, "general__architecture": None}, "one of several parts"),
        ({"llama__expert_count": 8}, "llama.expert_count is 8"),
        ({"llama__logit_scale": 0.5}, "llama.logit_scale is 0.5"),
        ({"llama__attention__causal": False}, "llama.attention.causal is False"),
        ({"llama__attention__sliding_window": 64}, "sliding_window is 64"),
        ({"llama__block_count": None}, "llama.block_count is missing"),
        ({"llama__block_count": 0}, "llama.block_count is 0"),
        ({"llama__block_count": "2"}, "llama.block_count is 2"),
        ({"llama__feed_forward_length": [256, 128]}, "llama.feed_forward_length"),
        ({"llama__rope__dimension_count": 32}, "rope.dimension_count is 32; only 64"),
        ({"llama__vocab_size": 81}, "llama.vocab_size is 81; token_embd has 80 rows"),
        ({"llama__embedding_length": 128}, "rows of 128"),
        ({"llama__attention__layer_norm_rms_epsilon": float("nan")}, "layer_norm_rms_epsilon is nan"),
        ({"llama__rope__freq_base": -1.0}, "rope.freq_base is -1.0"),
        ({"llama__rope__scaling__type": "longrope"}, "'longrope'"),
        ({"llama__rope__scaling__type": "yarn"}, "rope.scaling.factor is missing"),
        ({"llama__rope__scaling__attn_factor": 0.5}, "attn_factor beside none scaling"),
    ],
)
def test_what_would_be_another_model_is_refused(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    path = file_of(tmp_path, **changes)
    with pytest.raises(LoricaError) as caught:
        BaseFolder(path).decoder_config  # noqa: B018  (raises)
    assert reason in caught.value.message
    assert str(path) in caught.value.message


def test_equal_values_for_each_layer_are_one(tmp_path: Path) -> None:
    assert read_config(file_of(tmp_path, llama__feed_forward_length=[256, 256]))["intermediate_size"] == 256


def test_keys_that_nothing_heeds_are_reported(tmp_path: Path) -> None:
    path = file_of(
        tmp_path, llama__rope__freq_base=None, llama__rope__freq_bas=1.0, general__url="x", quantize__imatrix__file="y"
    )
    (note,) = BaseFolder(path).notes
    assert "'llama.rope.freq_bas' (did you mean llama.rope.freq_base?)" in note
    assert "general.url" not in note


def test_a_folder_stands_for_the_one_file_in_it(tmp_path: Path) -> None:
    path = write_model(tmp_path / "Some.Q4_0.GGUF")
    assert locate_model(str(path), environ={}) == locate_model(str(tmp_path), environ={}) == path
    write_model(tmp_path / "other.gguf")
    with pytest.raises(ModelError, match=r"2 GGUF files \(Some\.Q4_0\.GGUF, other\.gguf\)"):
        locate_model(str(tmp_path), environ={})
    (tmp_path / "config.json").write_text("{}")
    assert locate_model(str(tmp_path), environ={}) == tmp_path


def test_a_folder_with_the_parts_of_one_model_is_told_to_join_them(tmp_path: Path) -> None:
    for number in (1, 2):
        write_model(tmp_path / f"model-0000{number}-of-00002.gguf")
    with pytest.raises(ModelError, match="a model in 2 parts") as caught:
        locate_model(str(tmp_path), environ={})
    assert "llama-gguf-split --merge" in caught.value.fix


def test_the_digest_is_of_the_content_and_not_of_the_name(tmp_path: Path) -> None:
    first, second = write_model(tmp_path / "a.gguf"), write_model(tmp_path / "b.gguf")
    assert BaseFolder(first).digest == BaseFolder(second).digest
    raw = bytearray(second.read_bytes())
    raw[-1] ^= 1
    second.write_bytes(raw)
    assert BaseFolder(first).digest != BaseFolder(second).digest
    assert BaseFolder(first).weights_digest != BaseFolder(second).weights_digest
