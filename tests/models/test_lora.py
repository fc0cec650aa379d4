"""Adapter weights: fresh ones against PEFT's, those of a folder against the base they are put on."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from lorica.adapters.config import AdapterConfig  # noqa: E402
from lorica.adapters.folder import open_adapter, save_adapter  # noqa: E402
from lorica.errors import AdapterError, ConfigError  # noqa: E402
from lorica.models.adapter_weights import create_lora, load_lora  # noqa: E402
from lorica.models.cpu.cpu_decoder import CpuDecoder  # noqa: E402
from lorica.models.lora import LoraPair, LoraSpan, LoraWeights, linear_with_lora  # noqa: E402
from lorica.models.packed_attention import PackedAttention  # noqa: E402


def test_fresh_weights_start_as_no_change_and_depend_on_the_seed(tiny: Callable[[str], Any]) -> None:
    shape = tiny("qwen3").decoder.config
    settings = AdapterConfig(r=8, lora_alpha=16, lora_dropout=0.1, target_modules=["q_proj", "down_proj"])
    first, again, other = (create_lora("one", shape, settings, seed=seed) for seed in (1, 1, 2))
    assert len(first.pairs) == 2 * shape.layers
    assert first.dropout == 0.1
    for path, pair in first.pairs.items():
        out_features, in_features = shape.linear_shapes()[path]
        assert pair.a.shape == (8, in_features)
        assert pair.b.shape == (out_features, 8)
        assert pair.a.dtype == torch.float32
        assert not pair.b.any()
        assert pair.scaling == 2.0
        bound = 1 / math.sqrt(in_features)  # kaiming uniform with a = sqrt 5
        assert 0.8 * bound < pair.a.abs().max() <= bound
        assert torch.equal(pair.a, again.pairs[path].a)
        assert not torch.equal(pair.a, other.pairs[path].a)
    assert all(tensor.requires_grad for tensor in first.parameters())


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": ["q_proj", "v_proj"]},
        {"target_modules": "all-linear"},
        {"target_modules": ["layers.1.self_attn.k_proj", "up_proj"]},
        {"target_modules": ["o_proj", "gate_proj"], "layers_to_transform": [0, 2]},
        {"target_modules": "all-linear", "exclude_modules": ["down_proj"]},
        {
            "target_modules": ["q_proj", "k_proj"],
            "rank_pattern": {"layers.0.self_attn.q_proj": 2, "k_proj": 6},
            "alpha_pattern": {"q_proj": 5},
        },
        {"target_modules": ["v_proj"], "use_rslora": True},
    ],
)
def test_fresh_weights_adapt_what_peft_adapts_and_peft_loads_them(
    settings: dict[str, Any], tiny: Callable[[str], Any], adapter_of: Callable[..., Any], tmp_path: Path
) -> None:
    peft = pytest.importorskip("peft")
    made = tiny("llama")
    _, folder = adapter_of(made.reference, r=4, lora_alpha=12, **settings)
    theirs = open_adapter(folder)
    config = AdapterConfig(r=4, lora_alpha=12, **settings)
    ours = create_lora("one", made.decoder.config, config, seed=0)
    tensors = ours.to_tensors()
    assert {name: tuple(each.shape) for name, each in tensors.items()} == {
        name: info.shape for name, info in theirs.tensors.items()
    }
    with torch.no_grad():
        for pair in ours.pairs.values():
            pair.b.normal_(std=0.2)
    save_adapter(
        tmp_path / "ours",
        config,
        {name: ("F32", tuple(each.shape), each.detach().numpy().tobytes()) for name, each in tensors.items()},
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT 0.21 asks transformers 5 an old question
        model = peft.PeftModel.from_pretrained(copy.deepcopy(made.reference), tmp_path / "ours").eval()
    tokens = torch.arange(20)
    expected = model(tokens[None], use_cache=False).logits[0]
    attention = PackedAttention([20], made.decoder.config)
    hidden = made.decoder.hidden(tokens, torch.arange(20), attention, [LoraSpan(ours, 0, 20)])
    torch.testing.assert_close(made.decoder.logits(hidden), expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize(
    ("settings", "said", "fix"),
    [
        ({"target_modules": ["q_porj"]}, "no 'q_porj'", "did you mean q_proj?"),
        ({"target_modules": ["lm_head"]}, "no 'lm_head'", "all-linear"),
        ({"target_modules": ["q_proj", "layers.9.self_attn.q_proj"]}, "no 'layers.9", "name some"),
        ({"target_modules": []}, "no list of module names", "all-linear"),
        ({"target_modules": None}, "no list of module names", "all-linear"),
        ({"target_modules": ".*q_proj"}, "no list of module names", "all-linear"),
        ({"target_modules": ["q_proj"], "layers_to_transform": [7]}, "leave no module", "3 layers"),
    ],
)
def test_targets_that_do_not_exist_are_refused(
    settings: dict[str, Any], said: str, fix: str, tiny: Callable[[str], Any]
) -> None:
    with pytest.raises(ConfigError) as caught:
        create_lora("one", tiny("llama").decoder.config, AdapterConfig(**settings), seed=0)
    assert said in caught.value.message
    assert fix in caught.value.fix


@pytest.mark.parametrize(
    ("settings", "said", "fix"),
    [
        ({"rank_pattern": {"q_porj": 2}}, "lora.rank_pattern.q_porj: no adapted module", "did you mean q_proj?"),
        ({"alpha_pattern": {"gate_proj": 2}}, "lora.alpha_pattern.gate_proj: no adapted", "lora.target_modules"),
        ({"rank_pattern": {"layers.9.self_attn.q_proj": 2}}, "lora.rank_pattern.layers.9", ".self_attn.q_proj?"),
        ({"alpha_pattern": {"^layers.0.self_attn.q_proj": 2}}, "adapted are q_proj, v_proj", "did you mean"),
        ({"rank_pattern": {"proj": 2}}, "lora.rank_pattern.proj", "name the end of a module's path"),
    ],
)
def test_patterns_that_match_no_adapted_module_are_refused(
    settings: dict[str, Any], said: str, fix: str, tiny: Callable[[str], Any]
) -> None:
    config = AdapterConfig(target_modules=["q_proj", "v_proj"], **settings)
    with pytest.raises(ConfigError) as caught:
        create_lora("one", tiny("llama").decoder.config, config, seed=0)
    assert said in caught.value.message
    assert fix in caught.value.fix


def test_patterns_that_match_are_followed(tiny: Callable[[str], Any]) -> None:
    ranks = {"^model.layers.0.self_attn.q_proj": 2, "layers.1.self_attn.q_proj": 3, "v_proj": 5}
    config = AdapterConfig(r=4, target_modules=["q_proj", "v_proj"], rank_pattern=ranks)
    pairs = create_lora("one", tiny("llama").decoder.config, config, seed=0).pairs
    assert [pairs[f"model.layers.{n}.self_attn.q_proj"].a.shape[0] for n in range(3)] == [2, 3, 4]
    assert {pairs[f"model.layers.{n}.self_attn.v_proj"].a.shape[0] for n in range(3)} == {5}


def test_an_adapter_of_another_base_is_refused(tiny: Callable[[str], Any], adapter_of: Callable[..., Any]) -> None:
    from dataclasses import replace

    made = tiny("llama")
    shape = made.decoder.config
    _, folder = adapter_of(made.reference, target_modules=["q_proj", "down_proj"])
    opened = open_adapter(folder)
    with pytest.raises(AdapterError, match=r"adapts model\.layers\.2\..* the base model does not have") as caught:
        load_lora("one", opened, replace(shape, layers=2))
    assert caught.value.fix
    with pytest.raises(AdapterError, match=r"down_proj\.lora_A is made for width 48, the base model has 50"):
        load_lora("one", opened, replace(shape, intermediate_size=50))
    with pytest.raises(AdapterError, match=r"q_proj\.lora_B is made for width 32, the base model has 48"):
        load_lora("one", opened, replace(shape, heads=6))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_adapters_saved_in_other_precisions_load(
    dtype: Any, tiny: Callable[[str], Any], adapter_of: Callable[..., Any]
) -> None:
    from safetensors.torch import load_file, save_file

    made = tiny("llama")
    _, folder = adapter_of(made.reference, target_modules=["q_proj"])
    path = folder / "adapter_model.safetensors"
    saved = {name: tensor.to(dtype) for name, tensor in load_file(path).items()}
    save_file(saved, path)
    lora = load_lora("one", open_adapter(folder), made.decoder.config)
    assert lora.to_tensors().keys() == saved.keys()
    for name, tensor in lora.to_tensors().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, saved[name].float())


def test_adapters_that_are_kept_narrow_are_multiplied_wide(
    tiny: Callable[[str], Any], adapter_of: Callable[..., Any]
) -> None:
    from safetensors.torch import load_file, save_file

    made = tiny("llama")
    _, folder = adapter_of(made.reference, target_modules=["q_proj", "o_proj"])
    path = folder / "adapter_model.safetensors"
    save_file({name: tensor.bfloat16() for name, tensor in load_file(path).items()}, path)
    config, tokens = made.decoder.config, torch.arange(1, 10)
    wide, narrow = (
        load_lora("one", open_adapter(folder), config, keep_narrow=keep_narrow) for keep_narrow in (False, True)
    )
    assert {tensor.dtype for tensor in wide.parameters()} == {torch.float32}
    assert {tensor.dtype for tensor in narrow.parameters()} == {torch.bfloat16}
    for decoder in (made.decoder, CpuDecoder(copy.deepcopy(made.decoder), "float32")):
        found = []
        for lora in (wide, narrow):
            attention = PackedAttention([9], config)
            with torch.no_grad():
                found.append(decoder.hidden(tokens, torch.arange(9), attention, [LoraSpan(lora, 0, 9)]))
        assert torch.equal(*found)


def test_dropout_acts_only_in_training_and_keeps_the_mean() -> None:
    linear = torch.nn.Linear(4, 3)
    pair = LoraPair(torch.eye(4), torch.ones(3, 4), 0.5)
    lora = LoraWeights("one", {"here": pair}, dropout=0.25)
    x = torch.ones(20_000, 4)
    spans = [LoraSpan(lora, 0, len(x))]
    exact = linear_with_lora(x, linear, "here", spans)
    torch.testing.assert_close(exact, linear(x) + 2.0)
    lora.training = True
    torch.manual_seed(0)
    noisy = linear_with_lora(x, linear, "here", spans)
    assert not torch.equal(noisy, exact)
    torch.testing.assert_close(noisy.mean(0), exact.mean(0), atol=0.02, rtol=0)
    assert torch.equal(linear_with_lora(x, linear, "elsewhere", spans), linear(x))


def test_a_span_changes_its_own_tokens_only() -> None:
    linear = torch.nn.Linear(4, 3)
    first, second = (LoraWeights(name, {"here": LoraPair(torch.randn(2, 4), torch.randn(3, 2), 1.0)}) for name in "ab")
    x = torch.randn(9, 4)
    base = linear(x)
    mixed = linear_with_lora(x, linear, "here", [LoraSpan(first, 1, 4), LoraSpan(second, 6, 9)])
    torch.testing.assert_close(mixed[[0, 4, 5]], base[[0, 4, 5]])
    torch.testing.assert_close(mixed[1:4], linear_with_lora(x[1:4], linear, "here", [LoraSpan(first, 0, 3)]))
    torch.testing.assert_close(mixed[6:], linear_with_lora(x[6:], linear, "here", [LoraSpan(second, 0, 3)]))


def test_under_autocast_a_float32_adapter_follows_the_base(tiny: Callable[[str], Any]) -> None:
    decoder = tiny("qwen2").decoder
    settings = AdapterConfig(r=4, lora_alpha=8, target_modules="all-linear")
    lora = create_lora("one", decoder.config, settings, seed=0)
    with torch.no_grad():
        for pair in lora.pairs.values():
            pair.b.normal_(std=0.2)
    tokens, attention = torch.arange(20), PackedAttention([20], decoder.config)
    spans = [LoraSpan(lora, 0, 20)]
    exact = decoder.logits(decoder.hidden(tokens, tokens, attention, spans))
    with torch.autocast("cpu", torch.bfloat16):
        mixed = decoder.logits(decoder.hidden(tokens, tokens, attention, spans))
    assert mixed.dtype == torch.bfloat16
    assert 0 < (mixed - exact).abs().mean() < 0.05 * exact.abs().mean()
    torch.autograd.backward(mixed.float().square().mean())
    assert all(tensor.grad is not None and tensor.grad.any() for tensor in lora.parameters())


def test_mixed_precision_does_not_swallow_a_small_update() -> None:
    """bfloat16 tells numbers near 1 apart by 0.8%: an update of a tenth of that must still show, and exactly so."""
    generator = torch.Generator().manual_seed(0)
    linear = torch.nn.Linear(32, 8, bias=False).requires_grad_(False)
    x = torch.randn(5, 32, generator=generator)
    a, b = torch.randn(4, 32, generator=generator) / 32, torch.randn(8, 4, generator=generator) / 1000
    span = LoraSpan(LoraWeights("one", {"layer": LoraPair(a, b, 1.0)}), 0, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        base, adapted = linear_with_lora(x, linear, "layer", ()), linear_with_lora(x, linear, "layer", (span,))
    update = x @ a.t() @ b.t()
    assert 0 < update.abs().max() < 1e-2 * base.abs().max()
    assert torch.allclose(adapted - base, update, rtol=0.02, atol=1e-6)
