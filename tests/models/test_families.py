"""`config.json` of every family, as transformers reads it, and each reason to refuse one."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from lorica.errors import ModelError
from lorica.models.families import FAMILIES, read_decoder_config

SHARED = Path(__file__).resolve().parents[2] / ".." / "shared" / "data"

GOOD: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 67,
    "rms_norm_eps": 1e-5,
}
_LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8,
    "low_freq_factor": 1,
    "high_freq_factor": 4,
    "original_max_position_embeddings": 64,
}


def write(folder: Path, changes: dict[str, Any], drop: tuple[str, ...] = ()) -> Path:
    values = {key: value for key, value in {**GOOD, **changes}.items() if key not in drop}
    (folder / "config.json").write_text(json.dumps(values), "utf-8")
    return folder


@pytest.mark.parametrize(
    ("changes", "drop", "said"),
    [
        ({"model_type": "gpt2"}, (), "model_type 'gpt2' is not one of llama, mistral, qwen2, qwen3"),
        ({}, ("model_type",), "model_type None"),
        ({"model_type": ["llama"]}, (), "model_type"),
        ({}, ("hidden_size",), "'hidden_size' is missing"),
        ({}, ("num_hidden_layers",), "'num_hidden_layers' is missing"),
        ({"hidden_size": 0}, (), "hidden_size is 0, not a positive whole number"),
        ({"hidden_size": "32"}, (), "hidden_size is '32'"),
        ({"num_attention_heads": 4.5}, (), "num_attention_heads is 4.5"),
        ({"vocab_size": True}, (), "vocab_size is True"),
        ({"num_key_value_heads": 3}, (), "no multiple of num_key_value_heads 3"),
        ({"head_dim": 7}, (), "head_dim 7 is odd"),
        ({"rms_norm_eps": "small"}, (), "unusable value"),
        ({"hidden_act": "gelu"}, (), "hidden_act 'gelu'"),
        ({"rope_scaling": {"type": "longrope", "factor": 4}}, (), "rope scaling 'longrope'"),
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 2}}, (), "rope scaling 'dynamic'"),
        ({"rope_scaling": "linear"}, (), "rope_scaling is 'linear', not an object"),
        ({"rope_scaling": {"type": "linear"}}, (), "'factor' is missing"),
        ({"rope_scaling": {**_LLAMA3, "factor": None}}, (), "unusable value"),
        ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, (), "per kind of layer"),
        ({"partial_rotary_factor": 0.5}, (), "partial_rotary_factor 0.5"),
        ({"layer_types": ["full_attention", "linear_attention", "x"]}, (), "linear_attention, x"),
        ({"layer_types": 3}, (), "unusable value"),
        (
            {"model_type": "mistral", "sliding_window": 4}
            | {"layer_types": ["sliding_attention", "full_attention", "full_attention"]},
            (),
            "some layers only",
        ),
        (
            {"model_type": "qwen2", "use_sliding_window": True, "layer_types": ["full_attention"]},
            (),
            "layer_types names 1 layers, num_hidden_layers is 3",
        ),
        ({"model_type": "mistral", "sliding_window": -1}, (), "sliding_window is -1"),
        ({"quantization_config": {"quant_method": "gptq"}}, (), "quantised (gptq)"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 3}}, (), "quantised (gptq: bits 3)"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 0}}, (), "quantised (gptq: bits 4)"),
        ({"quantization_config": {"quant_method": "awq", "bits": 4, "version": "gemv"}}, (), "version gemv)"),
        ({"quantization_config": {"quant_method": "fp8"}}, (), "quantised (fp8)"),
        ({"quantization_config": "awq"}, (), "quantised (method unknown)"),
    ],
)
def test_a_config_the_decoder_cannot_follow_is_refused(
    changes: dict[str, Any], drop: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelError) as caught:
        read_decoder_config(write(tmp_path, changes, drop))
    assert said in caught.value.message
    assert str(tmp_path / "config.json") in caught.value.message
    assert caught.value.fix


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no config.json"),
        (b"{not json", "not valid JSON"),
        (b"", "not valid JSON"),
        (b"\xff\xfe{}", "not valid JSON"),
        (b"[1, 2]", "expected a JSON object, got list"),
        (b"[" * 200_000, "not valid JSON"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 7\n", "Git LFS pointer"),
    ],
)
def test_a_broken_config_file_is_refused(content: bytes | None, said: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ModelError, match=said) as caught:
        read_decoder_config(tmp_path)
    assert caught.value.fix


def test_a_folder_that_does_not_exist_and_a_config_that_is_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no config\.json"):
        read_decoder_config(tmp_path / "absent")
    (tmp_path / "config.json").mkdir()
    with pytest.raises(ModelError, match="cannot be read"):
        read_decoder_config(tmp_path)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
        {"head_dim": 24, "rope_theta": 500000.0},
        {"num_key_value_heads": None},
        {"sliding_window": 7},
        {"sliding_window": 7, "use_sliding_window": True, "max_window_layers": 2},
        {"use_sliding_window": True},
        {"sliding_window": None, "use_sliding_window": True},
        {"rope_theta": 1234.0, "rope_scaling": _LLAMA3},
        {"rope_scaling": {"type": "linear", "factor": 2.0}},
        {"rope_scaling": {"type": "yarn", "factor": 2.0}},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 77.0}},
    ],
)
def test_missing_and_given_keys_mean_what_they_mean_to_transformers(
    family: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    changes = {"model_type": family, "num_attention_heads": 32, "hidden_size": 64, **changes}
    drop: tuple[str, ...] = ("num_key_value_heads", "rms_norm_eps") if "num_key_value_heads" not in changes else ()
    if family == "mistral" and changes.get("num_key_value_heads", 0) is None:
        drop = ("num_key_value_heads",)  # transformers refuses null here
    if family == "llama" and changes.get("sliding_window"):
        changes["max_position_embeddings"] = changes["sliding_window"]  # a shorter one is refused
    folder = write(tmp_path, changes, drop)
    ours = read_decoder_config(folder)
    theirs = transformers.AutoConfig.from_pretrained(folder)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(theirs)
    parameters = {name: tuple(tensor.shape) for name, tensor in model.named_parameters()}
    for path, shape in ours.linear_shapes().items():
        assert parameters[f"{path}.weight"] == shape
    first = "model.layers.0."
    assert (f"{first}self_attn.q_proj.bias" in parameters) == ours.qkv_bias
    assert (f"{first}self_attn.o_proj.bias" in parameters) == ours.output_bias
    assert (f"{first}mlp.up_proj.bias" in parameters) == ours.mlp_bias
    assert (f"{first}self_attn.q_norm.weight" in parameters) == ours.qk_norm
    assert ("lm_head.weight" not in parameters) == ours.tied_embeddings
    assert ours.rms_norm_eps == theirs.rms_norm_eps
    assert ours.max_positions == theirs.max_position_embeddings
    assert ours.rope_theta == theirs.rope_parameters["rope_theta"]
    assert ours.rope_scaling.rope_type == theirs.rope_parameters["rope_type"]
    assert ours.windows == _their_windows(theirs)


def _their_windows(config: Any) -> tuple[int | None, ...]:
    layers: int = config.num_hidden_layers
    size: int | None = getattr(config, "sliding_window", None)
    if config.model_type in ("llama", "mistral"):
        return (size if config.model_type == "mistral" else None,) * layers
    return tuple(size if kind == "sliding_attention" else None for kind in config.layer_types)


def _published() -> list[dict[str, str]]:
    path = SHARED / "base_models" / "architectures.csv"
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return [
            row
            for row in csv.DictReader(file)
            if row["model_type"] in FAMILIES and row["hidden_size"] and row["intermediate_size"]
        ]


@pytest.mark.skipif(not _published(), reason="the shared table of published architectures is absent")
@pytest.mark.parametrize("row", _published(), ids=lambda row: f"{row['source']}-{row['model']}")
def test_published_models_get_the_shapes_that_transformers_gives_them(row: dict[str, str], tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    values = {
        "model_type": row["model_type"],
        "hidden_size": int(row["hidden_size"]),
        "intermediate_size": int(row["intermediate_size"]),
        "num_hidden_layers": int(row["num_layers"]),
        "num_attention_heads": int(row["num_heads"]),
        "num_key_value_heads": int(row["num_kv_heads"]),
        "vocab_size": int(row["vocab_size"]),
        "tie_word_embeddings": row["tie_word_embeddings"] == "True",
        **({"head_dim": int(row["head_dim_stated"])} if row["head_dim_stated"] else {}),
    }
    (tmp_path / "config.json").write_text(json.dumps(values), "utf-8")
    config = read_decoder_config(tmp_path)
    assert config.head_dim == int(row["head_dim"])
    assert config.tied_embeddings == (row["tie_word_embeddings"] == "True")
    shapes = config.linear_shapes()
    assert len(shapes) == 7 * int(row["num_layers"])
    theirs = transformers.AutoConfig.for_model(**{**values, "num_hidden_layers": 1})
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(theirs)
    linear = {
        name: tuple(module.weight.shape)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and name != "lm_head"
    }
    assert linear == {path: shape for path, shape in shapes.items() if path.startswith("model.layers.0.")}
