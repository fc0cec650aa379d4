"""The adapter's products written out, against autograd through the plain layers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.shapes import TINY
from tests.training.tiny import LORA, rows, tiny_decoder
from torch import Tensor, nn

from lorica.models.adapter_weights import create_lora
from lorica.models.families import DecoderConfig
from lorica.models.lora import LoraPair, LoraSpan, LoraWeights
from lorica.models.lora_training import TrainingLora, draw_mask, keep_probability
from lorica.models.tree_attention import TreeAttention
from lorica.training.batches import make_batch

FAMILIES = {
    "llama": replace(TINY, family="llama", qk_norm=False, tied_embeddings=False),
    "llama-biases": replace(TINY, family="llama", qk_norm=False, qkv_bias=True, output_bias=True, mlp_bias=True),
    "mistral": replace(TINY, family="mistral", qk_norm=False, windows=(5, 5)),
    "qwen2": replace(TINY, family="qwen2", qk_norm=False, qkv_bias=True),
    "qwen3": TINY,
}
TARGETS = {
    "all": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    "some": ["v_proj", "up_proj"],
}


def _adapter(config: DecoderConfig, targets: list[str], dropout: float = 0.0) -> LoraWeights:
    adapter = create_lora("tiny", config, _config(targets), seed=1)
    for number, pair in enumerate(adapter.pairs.values()):
        with torch.no_grad():
            pair.b.normal_(std=0.1, generator=torch.Generator().manual_seed(number))
    adapter.dropout, adapter.training = dropout, True
    return adapter


def _config(targets: list[str]) -> Any:
    return type(LORA)(r=4, lora_alpha=8, target_modules=targets)


@pytest.mark.parametrize("prepack", [True, False])
@pytest.mark.parametrize("targets", TARGETS.values(), ids=TARGETS)
@pytest.mark.parametrize("config", FAMILIES.values(), ids=FAMILIES)
def test_gradients_are_autograds(config: DecoderConfig, targets: list[str], prepack: bool) -> None:
    decoder, adapter = tiny_decoder(config), _adapter(config, targets)
    batch = make_batch(rows(5), torch.device("cpu"), share_prefixes=True)
    spans = (LoraSpan(adapter, 0, len(batch.tokens)),)
    gradients: list[tuple[Tensor, ...]] = []
    losses: list[float] = []
    for lora in (spans, TrainingLora(adapter, torch.float32, prepack=prepack)):
        attention = TreeAttention(batch.spans, batch.positions, config.windows)
        hidden = decoder.hidden(batch.tokens, batch.positions, attention, lora, output_rows=batch.outputs)
        loss = F.cross_entropy(decoder.logits(hidden[batch.sources]), batch.targets)
        gradients.append(torch.autograd.grad(loss, adapter.parameters()))
        losses.append(loss.item())
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    for expected, gradient in zip(*gradients, strict=True):
        assert expected.abs().max() > 0
        torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())


def test_dropout_masks_are_drawn_for_each_module_and_their_gradients_are_autograds() -> None:
    layers = [nn.Linear(24, 16), nn.Linear(24, 8)]
    for layer in layers:
        layer.requires_grad_(False)
    pairs = {
        name: LoraPair(
            torch.randn(4, 24, requires_grad=True), torch.randn(layer.out_features, 4, requires_grad=True), 2.0
        )
        for name, layer in zip("qk", layers, strict=True)
    }
    adapter = LoraWeights("a", pairs, dropout=0.3, training=True)
    x = torch.randn(7, 24, requires_grad=True)
    torch.manual_seed(5)
    outputs = TrainingLora(adapter, torch.float32, prepack=True).linear(x, layers, list("qk"))
    torch.manual_seed(5)
    expected, masks = [], []
    for layer, pair in zip(layers, pairs.values(), strict=True):
        masks.append(draw_mask(x, 0.3))
        dropped = x * masks[-1] / keep_probability(0.3)
        expected.append(layer(x) + pair.scaling * dropped @ pair.a.t() @ pair.b.t())
    assert not torch.equal(*masks)
    leaves = [x, *adapter.parameters()]
    weights = [torch.randn_like(output) for output in expected]
    for output, reference in zip(outputs, expected, strict=True):
        torch.testing.assert_close(output, reference, rtol=1e-5, atol=1e-5)
    actual, reference_gradients = (
        torch.autograd.grad(sum((y * w).sum() for y, w in zip(ys, weights, strict=True)), leaves)
        for ys in (outputs, expected)
    )
    for gradient, reference in zip(actual, reference_gradients, strict=True):
        torch.testing.assert_close(gradient, reference, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dropout", [0.05, 0.5, 1e-6, 0.99])
def test_masks_keep_what_their_probability_says(dropout: float) -> None:
    torch.manual_seed(0)
    mask = draw_mask(torch.empty(1001, 513), dropout)
    keep = keep_probability(dropout)
    assert keep == pytest.approx(1 - dropout, abs=2**-16)
    deviation = (keep * (1 - keep) / mask.numel()) ** 0.5
    assert mask.float().mean().item() == pytest.approx(keep, abs=5 * deviation + 1e-9)
    torch.manual_seed(0)
    assert torch.equal(mask, draw_mask(torch.empty(1001, 513), dropout))
