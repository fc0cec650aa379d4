"""The pass of training on a CPU, against autograd through the plain decoder."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests import emulated_processor
from tests.shapes import TINY
from tests.training.tiny import LORA, rows, tiny_decoder
from torch import Tensor, nn

from lorica.models.adapter_weights import create_lora
from lorica.models.compiled import library, training_bindings
from lorica.models.compiled.library import NO_TARGET, TARGET_VARIABLE
from lorica.models.cpu.adapted_linear import Dropout, adapted_linear
from lorica.models.cpu.frozen_linear import FrozenLinear
from lorica.models.cpu.training_decoder import TrainingDecoder
from lorica.models.families import DecoderConfig
from lorica.models.lora import LoraPair, LoraSpan, LoraWeights
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


@pytest.fixture(params=["compiled", "torch", emulated_processor.EMULATED])
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """With the compiled kernels, without, and with those of an emulated processor."""
    if request.param == "torch":
        monkeypatch.setenv(TARGET_VARIABLE, NO_TARGET)
    elif request.param == emulated_processor.TARGET:
        emulated_processor.emulate(monkeypatch)
    elif not library.available_targets():
        pytest.skip(library.why_unavailable())
    library.clear_caches()
    yield
    monkeypatch.undo()
    library.clear_caches()


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("prepack", [True, False])
def test_frozen_layers_are_torchs(stored: torch.dtype, dtype: torch.dtype, prepack: bool) -> None:
    layers = [nn.Linear(24, 16).to(stored), nn.Linear(24, 8, bias=False).to(stored)]
    x, gradient = torch.randn(5, 24).to(dtype), torch.randn(5, 24).to(dtype)
    frozen = FrozenLinear(layers, dtype, prepack=prepack)
    weight = torch.cat([layer.weight.detach() for layer in layers]).float()
    bias = torch.cat([layers[0].bias.detach().float(), torch.zeros(8)])
    limit = 1e-5 if dtype == torch.float32 else 0.05
    expected = F.linear(x.float(), weight, bias)
    torch.testing.assert_close(frozen.multiply(x).float(), expected, rtol=limit, atol=limit)
    torch.testing.assert_close(
        frozen.input_gradient(gradient).float(), gradient.float() @ weight, rtol=limit, atol=limit
    )


@pytest.mark.parametrize("checkpoint", [False, True])
@pytest.mark.parametrize("targets", TARGETS.values(), ids=TARGETS)
@pytest.mark.parametrize("config", FAMILIES.values(), ids=FAMILIES)
@pytest.mark.usefixtures("kernels")
def test_gradients_are_autograds(config: DecoderConfig, targets: list[str], checkpoint: bool) -> None:
    decoder, adapter = tiny_decoder(config), _adapter(config, targets)
    batch = make_batch(rows(5), torch.device("cpu"), share_prefixes=True)
    gradients: list[tuple[Tensor, ...]] = []
    losses: list[float] = []
    training_decoder = TrainingDecoder(decoder, adapter, torch.float32, prepack=not checkpoint)
    for is_plain in (True, False):
        attention = TreeAttention(batch.spans, batch.positions, config.windows)
        packed = (batch.tokens, batch.positions, attention)
        if is_plain:
            hidden = decoder.hidden(*packed, (LoraSpan(adapter, 0, len(batch.tokens)),), output_rows=batch.outputs)
            logits = decoder.logits(hidden[batch.sources])
        else:
            hidden = training_decoder.hidden(*packed, output_rows=batch.outputs, checkpoint=checkpoint)
            logits = training_decoder.logits(hidden[batch.sources])
        loss = F.cross_entropy(logits, batch.targets)
        gradients.append(torch.autograd.grad(loss, adapter.parameters()))
        losses.append(loss.item())
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    for expected, gradient in zip(*gradients, strict=True):
        assert expected.abs().max() > 0
        torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())


@pytest.mark.usefixtures("kernels")
def test_dropout_is_drawn_for_each_module_and_its_gradients_are_autograds() -> None:
    layers = [nn.Linear(24, 16).requires_grad_(False), nn.Linear(24, 8).requires_grad_(False)]
    pairs = [
        LoraPair(torch.randn(4, 24, requires_grad=True), torch.randn(layer.out_features, 4, requires_grad=True), 2.0)
        for layer in layers
    ]
    x = torch.randn(7, 24, requires_grad=True)
    torch.manual_seed(5)
    outputs = adapted_linear(x, FrozenLinear(layers, torch.float32, prepack=True), pairs, 0.3)
    torch.manual_seed(5)
    expected, masks = [], []
    for layer, pair in zip(layers, pairs, strict=True):
        dropout = Dropout(x, 0.3)
        masks.append(dropout.drop(torch.ones_like(x)))
        expected.append(layer(x) + pair.scaling * (x * masks[-1] * dropout.scale) @ pair.a.t() @ pair.b.t())
    assert not torch.equal(*masks)
    leaves = [x, *(factor for pair in pairs for factor in (pair.a, pair.b))]
    weights = [torch.randn_like(output) for output in expected]
    for output, reference in zip(outputs, expected, strict=True):
        torch.testing.assert_close(output, reference, rtol=1e-5, atol=1e-5)
    actual, reference_gradients = (
        torch.autograd.grad(sum((y * w).sum() for y, w in zip(ys, weights, strict=True)), leaves)
        for ys in (outputs, expected)
    )
    for gradient, reference in zip(actual, reference_gradients, strict=True):
        torch.testing.assert_close(gradient, reference, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("probability", [0.05, 0.5, 1e-6, 0.99])
@pytest.mark.usefixtures("kernels")
def test_dropout_keeps_what_its_probability_says(probability: float) -> None:
    ones = torch.ones(1001, 513)
    torch.manual_seed(0)
    dropout = Dropout(ones, probability)
    kept = dropout.drop(ones)
    keep = 1 / dropout.scale
    assert keep == pytest.approx(1 - probability, abs=2**-16)
    deviation = (keep * (1 - keep)) ** 0.5
    for sums, count in ((kept.sum(), kept.numel()), (kept.sum(0), len(kept)), (kept.sum(1), kept.shape[1])):
        errors = (sums / count - keep) * count**0.5
        assert errors.abs().max() <= 5.5 * deviation + 2e-3
    neighbours = ((kept[:, 1:] - keep) * (kept[:, :-1] - keep)).mean()
    assert abs(neighbours) <= 5 * deviation**2 / kept.numel() ** 0.5 + 1e-9
    total = torch.zeros_like(ones)
    dropout.add_gradient(total, ones)
    assert torch.equal(total, kept)
    torch.manual_seed(0)
    assert torch.equal(kept, Dropout(ones, probability).drop(ones))


def test_the_kernels_drop_the_same_on_every_target(target: str) -> None:
    if target == NO_TARGET:
        pytest.skip(library.why_unavailable())
    dropped = training_bindings.drop(torch.ones(3, 333), 77, 9999)
    narrow = training_bindings.drop(torch.ones(3, 333, dtype=torch.bfloat16), 77, 9999)
    assert torch.equal(narrow.float(), dropped)
    assert hashlib.sha256(dropped.bool().numpy().tobytes()).hexdigest()[:16] == "24599e5e397b6683"


@pytest.mark.usefixtures("kernels")
def test_bfloat16_products_are_near() -> None:
    decoder, adapter = tiny_decoder(), _adapter(TINY, TARGETS["all"])
    batch = make_batch(rows(5), torch.device("cpu"), share_prefixes=True)
    results = []
    for dtype in (torch.float32, torch.bfloat16):
        training_decoder = TrainingDecoder(decoder, adapter, dtype, prepack=True)
        attention = TreeAttention(batch.spans, batch.positions, TINY.windows)
        hidden = training_decoder.hidden(batch.tokens, batch.positions, attention, output_rows=batch.outputs)
        assert hidden.dtype == torch.float32
        loss = F.cross_entropy(training_decoder.logits(hidden[batch.sources]).float(), batch.targets)
        gradients = torch.autograd.grad(loss, adapter.parameters())
        results.append((loss.item(), torch.cat([gradient.flatten() for gradient in gradients])))
    (exact_loss, exact), (loss_value, gradient) = results
    assert loss_value == pytest.approx(exact_loss, rel=0.02)
    assert loss_value != exact_loss
    assert F.cosine_similarity(gradient, exact, dim=0) > 0.995


@pytest.mark.parametrize("prepack", [True, False])
def test_mixed_precision_does_not_swallow_a_small_update(prepack: bool) -> None:
    """bfloat16 tells numbers near 1 apart by 0.8%: an update of a tenth of that must still show, and exactly so."""
    generator = torch.Generator().manual_seed(0)
    layer = torch.nn.Linear(32, 8, bias=False).requires_grad_(False)
    frozen = FrozenLinear([layer], torch.bfloat16, prepack=prepack)
    x = torch.randn(5, 32, generator=generator)
    pair = LoraPair(torch.randn(4, 32, generator=generator) / 32, torch.randn(8, 4, generator=generator) / 1000, 1.0)
    base, adapted = (adapted_linear(x, frozen, [chosen], 0.0)[0] for chosen in (None, pair))
    update = x @ pair.a.t() @ pair.b.t()
    assert 0 < update.abs().max() < 1e-2 * base.abs().max()
    assert torch.allclose(adapted - base, update, rtol=0.03, atol=2e-5)
