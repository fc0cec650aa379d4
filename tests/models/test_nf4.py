"""NF4 base weights: against transformers' own 4-bit loading, and as the frozen part of training."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from lorica.errors import MissingExtraError  # noqa: E402
from lorica.models.adapter_weights import create_lora  # noqa: E402
from lorica.models.base_folder import BaseFolder  # noqa: E402
from lorica.models.lora import LoraSpan  # noqa: E402
from lorica.models.nf4 import Nf4Linear  # noqa: E402
from lorica.models.packed_attention import PackedAttention  # noqa: E402
from lorica.models.weights import load_decoder  # noqa: E402

WIDE = ["llama-wide", "mistral-wide", "qwen2-wide", "qwen3-wide"]
NARROW = ["llama-biases-tied", "qwen3"]  # rows that end within a block


def test_without_bitsandbytes_the_extra_is_named(tiny: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(MissingExtraError, match=r"lorica\[quant\]"):
        load_decoder(BaseFolder(tiny("llama").folder), load_in_4bit=True)


def forward(decoder: Any, tokens: Any, *spans: LoraSpan, checkpoint: bool = False) -> Any:
    attention = PackedAttention([len(tokens)], decoder.config)
    hidden = decoder.hidden(tokens, torch.arange(len(tokens)), attention, spans, checkpoint=checkpoint)
    return decoder.logits(hidden)


def as_plain(quantised: Any, folder: Path, dtype: Any) -> Any:
    """The values that the 4 bits stand for, in plain linear layers: the oracle of products and gradients."""
    plain = load_decoder(BaseFolder(folder), dtype=dtype)
    for name, layer in quantised.named_modules():
        if isinstance(layer, Nf4Linear):
            restored = torch.nn.Parameter(layer.dequantized(), requires_grad=False)
            setattr(plain.get_submodule(name), "weight", restored)  # noqa: B010 - a module's type is too wide
    return plain


@pytest.mark.parametrize("kind", WIDE)
def test_logits_equal_those_of_transformers_in_4_bits(
    kind: str, tiny: Callable[[str], Any], tokens_of: Callable[..., Any]
) -> None:
    pytest.importorskip("bitsandbytes")
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    made, tokens = tiny(kind), tokens_of(24)
    settings = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
    theirs = AutoModelForCausalLM.from_pretrained(
        made.folder, quantization_config=settings, dtype=torch.float32, device_map="cpu"
    )
    expected = theirs(tokens[None], use_cache=False).logits[0].detach()
    decoder = load_decoder(BaseFolder(made.folder), dtype=torch.float32, load_in_4bit=True)
    with torch.no_grad():
        ours, exact = forward(decoder, tokens), forward(made.decoder, tokens)
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=0)
    # The rounding is felt, and leaves the model itself.
    correlation = torch.corrcoef(torch.stack((ours.flatten(), exact.flatten())))[0, 1]
    assert 0.6 < correlation < 0.999


@pytest.mark.parametrize("kind", ["qwen2", "qwen2-wide"])
def test_every_block_is_quantised_and_nothing_else(kind: str, tiny: Callable[[str], Any]) -> None:
    pytest.importorskip("bitsandbytes")
    made = tiny(kind)
    decoder = load_decoder(BaseFolder(made.folder), load_in_4bit=True)
    found = {name: each for name, each in decoder.named_modules() if isinstance(each, Nf4Linear)}
    assert found.keys() == decoder.config.linear_shapes().keys()
    exact = dict(made.decoder.named_parameters())
    for name, layer in found.items():
        weight = exact[f"{name}.weight"]
        assert layer.dequantized().shape == weight.shape
        assert layer.packed.numel() * 2 == weight.numel()
        # The widest gap between two of the 16 levels is 0.3 of the largest weight.
        assert (layer.dequantized() - weight).abs().max() <= 0.16 * weight.abs().max()
        assert 0 < (layer.dequantized() - weight).abs().mean() < 0.1 * weight.std()
    for name, parameter in decoder.named_parameters():
        assert torch.equal(parameter, exact[name]), name
    assert decoder.lm_head.weight is decoder.model.embed_tokens.weight


@pytest.mark.parametrize("kind", ["qwen2", "qwen2-wide"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_half_precision_computes_in_half_precision(
    dtype: Any, kind: str, tiny: Callable[[str], Any], tokens_of: Callable[..., Any]
) -> None:
    pytest.importorskip("bitsandbytes")
    made, tokens = tiny(kind), tokens_of(24)
    quantised = load_decoder(BaseFolder(made.folder), dtype=dtype, load_in_4bit=True)
    with torch.no_grad():
        ours = forward(quantised, tokens)
        expected = forward(as_plain(quantised, made.folder, dtype), tokens)
    assert ours.dtype == dtype
    torch.testing.assert_close(ours, expected, atol=2e-2 if dtype == torch.bfloat16 else 2e-3, rtol=1e-2)


@pytest.mark.parametrize("kind", [*WIDE, *NARROW])
def test_adapters_learn_through_the_frozen_weights(
    kind: str, tiny: Callable[[str], Any], tokens_of: Callable[..., Any]
) -> None:
    pytest.importorskip("bitsandbytes")
    from lorica.adapters.config import AdapterConfig

    made, tokens = tiny(kind), tokens_of(16)
    quantised = load_decoder(BaseFolder(made.folder), load_in_4bit=True)
    plain = as_plain(quantised, made.folder, torch.float32)
    lora = create_lora("one", plain.config, AdapterConfig(r=4, lora_alpha=8, target_modules="all-linear"), seed=0)
    with torch.no_grad():
        for pair in lora.pairs.values():
            pair.b.normal_(std=0.1)
    gradients = []
    for decoder, checkpoint in ((plain, False), (quantised, False), (quantised, True)):
        logits = forward(decoder, tokens, LoraSpan(lora, 0, 16), checkpoint=checkpoint)
        loss = torch.nn.functional.cross_entropy(logits[:-1], tokens[1:])
        gradients.append(torch.autograd.grad(loss, lora.parameters()))
    assert all(each.abs().max() > 0 for each in gradients[0])
    for exact, ours, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, exact, atol=1e-5, rtol=1e-4)
        assert torch.equal(recomputed, ours)
