"""The decoder against transformers and PEFT, on tiny random models of every family, in float32."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from lorica.adapters.folder import open_adapter  # noqa: E402
from lorica.models.adapter_weights import load_lora  # noqa: E402
from lorica.models.base_folder import BaseFolder  # noqa: E402
from lorica.models.lora import LoraSpan, LoraWeights  # noqa: E402
from lorica.models.packed_attention import PackedAttention  # noqa: E402
from lorica.models.weights import load_decoder  # noqa: E402

TOLERANCE = 2e-5  # the promise is 1e-4
KINDS = [
    "llama",
    "llama-no-groups",
    "llama-biases-tied",
    "llama-llama3-rope",
    "llama-linear-rope",
    "mistral",
    "mistral-window",
    "qwen2",
    "qwen2-window",
    "qwen3",
    "qwen3-bias-tied",
    "qwen3-layer-types",
]
FAMILIES = ["llama-biases-tied", "mistral-window", "qwen2", "qwen3"]
LORA_SETTINGS: dict[str, dict[str, Any]] = {
    "attention": {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]},
    "all-linear": {"r": 3, "lora_alpha": 7, "target_modules": "all-linear"},
    "one-module": {"r": 2, "lora_alpha": 2, "target_modules": ["down_proj"]},
    "rslora": {"r": 9, "lora_alpha": 4, "use_rslora": True, "target_modules": ["q_proj", "up_proj"]},
    "patterns": {
        "r": 4,
        "lora_alpha": 8,
        "target_modules": ["q_proj", "v_proj", "gate_proj"],
        "rank_pattern": {"v_proj": 2, "layers.1.self_attn.q_proj": 6},
        "alpha_pattern": {"gate_proj": 3, "layers.2.self_attn.v_proj": 12},
    },
    "some-layers": {"r": 4, "target_modules": ["v_proj", "up_proj"], "layers_to_transform": [0, 2]},
}


def packed_logits(
    decoder: Any, sequences: Sequence[Any], adapters: Sequence[LoraWeights | None] = (), **options: Any
) -> list[Any]:
    """Run several sequences in one pass, each with its own adapter; logits of each."""
    lengths = [len(sequence) for sequence in sequences]
    positions = torch.cat([torch.arange(length) for length in lengths])
    spans, start = [], 0
    for index, length in enumerate(lengths):
        adapter = adapters[index] if adapters else None
        if adapter is not None:
            spans.append(LoraSpan(adapter, start, start + length))
        start += length
    attention = PackedAttention(lengths, decoder.config)
    hidden = decoder.hidden(torch.cat(list(sequences)), positions, attention, spans, **options)
    return list(decoder.logits(hidden).split(lengths))


def reference_logits(model: Any, tokens: Any) -> Any:
    return model(tokens[None], use_cache=False).logits[0]


def adapter(name: str, folder: Path, decoder: Any) -> LoraWeights:
    return load_lora(name, open_adapter(folder), decoder.config)


def gap(ours: Any, theirs: Any) -> float:
    return float((ours - theirs).detach().abs().max())


@pytest.mark.parametrize("kind", KINDS)
def test_base_logits_equal_those_of_transformers(kind: str, tiny: Any, tokens_of: Callable[..., Any]) -> None:
    made, tokens = tiny(kind), tokens_of(40)
    expected = reference_logits(made.reference, tokens)
    assert expected.abs().max() > 1  # logits near 0 would agree by themselves
    assert gap(packed_logits(made.decoder, [tokens])[0], expected) < TOLERANCE


@pytest.mark.parametrize("kind", ["mistral-window", "qwen2-window", "qwen3-layer-types"])
def test_the_sliding_window_changes_the_result(kind: str, tiny: Any, tokens_of: Callable[..., Any]) -> None:
    made, tokens = tiny(kind), tokens_of(40)
    open_window = copy.copy(made.decoder)
    open_window.config = replace(made.decoder.config, windows=(None,) * 3)
    assert gap(packed_logits(open_window, [tokens])[0], packed_logits(made.decoder, [tokens])[0]) > 0.1


@pytest.mark.parametrize("settings", LORA_SETTINGS)
@pytest.mark.parametrize("kind", FAMILIES)
def test_adapted_logits_equal_those_of_peft(
    kind: str, settings: str, tiny: Any, adapter_of: Callable[..., Any], tokens_of: Callable[..., Any]
) -> None:
    made, tokens = tiny(kind), tokens_of(19)
    model, folder = adapter_of(made.reference, **LORA_SETTINGS[settings])
    expected = reference_logits(model, tokens)
    assert gap(expected, reference_logits(made.reference, tokens)) > 0.1
    ours = packed_logits(made.decoder, [tokens], [adapter("one", folder, made.decoder)])[0]
    assert gap(ours, expected) < TOLERANCE


@pytest.mark.parametrize("kind", KINDS)
def test_a_packed_batch_of_several_adapters_equals_peft_one_at_a_time(
    kind: str, tiny: Any, adapter_of: Callable[..., Any], tokens_of: Callable[..., Any]
) -> None:
    made = tiny(kind)
    models: list[Any] = [made.reference]
    adapters: list[LoraWeights | None] = [None]
    for seed, name in enumerate(["attention", "all-linear", "patterns"], start=1):
        model, folder = adapter_of(made.reference, seed, **LORA_SETTINGS[name])
        models.append(model)
        adapters.append(adapter(name, folder, made.decoder))
    plan = [(9, 1), (30, 0), (1, 2), (12, 3), (13, 1), (2, 0), (28, 2)]  # (length, which model)
    sequences = [tokens_of(length, seed) for seed, (length, _) in enumerate(plan)]
    ours = packed_logits(made.decoder, sequences, [adapters[which] for _, which in plan])
    for tokens, got, (_, which) in zip(sequences, ours, plan, strict=True):
        assert gap(got, reference_logits(models[which], tokens)) < TOLERANCE


def _peft_gradients(model: Any, sequences: Sequence[Any]) -> dict[str, Any]:
    for parameter in model.parameters():
        parameter.grad = None
    loss = sum(
        torch.nn.functional.cross_entropy(reference_logits(model, tokens)[:-1], tokens[1:], reduction="sum")
        for tokens in sequences
    )
    loss.backward()
    return {
        name.replace(".default", ""): parameter.grad for name, parameter in model.named_parameters() if "lora_" in name
    }


def _our_gradients(decoder: Any, lora: LoraWeights, sequences: Sequence[Any], **options: Any) -> dict[str, Any]:
    for tensor in lora.parameters():
        tensor.requires_grad_(True).grad = None
    logits = packed_logits(decoder, sequences, [lora] * len(sequences), **options)
    loss = sum(
        torch.nn.functional.cross_entropy(each[:-1], tokens[1:], reduction="sum")
        for each, tokens in zip(logits, sequences, strict=True)
    )
    loss.backward()
    return {name: tensor.grad for name, tensor in lora.to_tensors().items()}


@pytest.mark.parametrize("kind", [*FAMILIES, "qwen3-layer-types"])
def test_packed_gradients_equal_those_of_peft_with_and_without_checkpointing(
    kind: str, tiny: Any, adapter_of: Callable[..., Any], tokens_of: Callable[..., Any]
) -> None:
    made = tiny(kind)
    sequences = [tokens_of(7, 1), tokens_of(15, 2), tokens_of(14, 3)]
    model, folder = adapter_of(made.reference, **LORA_SETTINGS["all-linear"])
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name)
    expected = _peft_gradients(model, sequences)
    lora = adapter("one", folder, made.decoder)
    plain = _our_gradients(made.decoder, lora, sequences)
    recomputed = _our_gradients(made.decoder, lora, sequences, checkpoint=True)
    assert set(plain) == set(expected)
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    assert largest > 0.1
    for name, gradient in expected.items():
        assert gap(plain[name], gradient) <= 1e-5 * max(1.0, largest), name
        assert torch.equal(recomputed[name], plain[name]), name


@pytest.mark.parametrize("kind", ["llama-llama3-rope", "llama-linear-rope", "qwen3"])
def test_the_config_style_before_transformers_5_gives_the_same_logits(
    kind: str, tiny: Any, tokens_of: Callable[..., Any], tmp_path: Path
) -> None:
    made, tokens = tiny(kind), tokens_of(40)
    raw = json.loads((made.folder / "config.json").read_text("utf-8"))
    rope = raw.pop("rope_parameters")
    raw["rope_theta"] = rope.pop("rope_theta")
    # Both spellings of the kind are in the wild.
    if kind == "llama-linear-rope":
        rope["type"] = rope.pop("rope_type")
    raw["rope_scaling"] = None if rope.get("rope_type") == "default" else rope
    (tmp_path / "config.json").write_text(json.dumps(raw), "utf-8")
    (tmp_path / "model.safetensors").symlink_to(made.folder / "model.safetensors")
    decoder = load_decoder(BaseFolder(tmp_path))
    assert decoder.config == made.decoder.config
    expected = reference_logits(made.reference, tokens)
    assert gap(packed_logits(decoder, [tokens])[0], expected) < TOLERANCE


def test_sharded_weights_load_to_the_same_logits(tiny: Any, tokens_of: Callable[..., Any], tmp_path: Path) -> None:
    made, tokens = tiny("qwen2-window"), tokens_of(11)
    made.reference.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    decoder = load_decoder(BaseFolder(tmp_path))
    assert torch.equal(packed_logits(decoder, [tokens])[0], packed_logits(made.decoder, [tokens])[0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
@pytest.mark.parametrize("kind", FAMILIES)
def test_half_precision_is_as_close_to_float32_as_that_of_transformers(
    kind: str, dtype: Any, tiny: Any, adapter_of: Callable[..., Any], tokens_of: Callable[..., Any]
) -> None:
    made = tiny(kind)
    sequences = [tokens_of(20, 1), tokens_of(11, 2)]
    expected = torch.cat([reference_logits(made.reference, tokens) for tokens in sequences])
    decoder = load_decoder(BaseFolder(made.folder), dtype=dtype)
    assert (decoder.dtype, decoder.device.type) == (dtype, "cpu")
    ours = torch.cat(packed_logits(decoder, sequences))
    half = copy.deepcopy(made.reference).to(dtype)
    theirs = torch.cat([reference_logits(half, tokens) for tokens in sequences])
    assert ours.dtype == dtype
    error, their_error = (ours - expected).abs().mean(), (theirs - expected).abs().mean()
    assert 0 < error < 1.5 * their_error

    # A float32 adapter (as trained) on a half-precision base: in one span, and in a part of the batch.
    _, folder = adapter_of(made.reference, **LORA_SETTINGS["attention"])
    lora = adapter("one", folder, decoder)
    assert packed_logits(decoder, sequences[:1], [lora])[0].dtype == dtype
    mixed = packed_logits(decoder, sequences, [lora, None])
    assert gap(mixed[1], torch.as_tensor(ours)[20:]) < 0.1
    exact = packed_logits(made.decoder, sequences, [lora, None])[0]
    assert (mixed[0] - exact).abs().mean() < 3 * their_error


def test_without_a_dtype_the_precision_of_the_file_is_kept(tiny: Any, tmp_path: Path) -> None:
    made = tiny("llama")
    copy.deepcopy(made.reference).to(torch.bfloat16).save_pretrained(tmp_path)
    kept = load_decoder(BaseFolder(tmp_path))
    assert {parameter.dtype for parameter in kept.parameters()} == {torch.bfloat16}
    widened = load_decoder(BaseFolder(tmp_path), dtype=torch.float32)
    for name, parameter in widened.named_parameters():
        assert torch.equal(parameter, kept.get_parameter(name).float())
        assert not parameter.requires_grad
