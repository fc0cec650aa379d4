from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from tests.training.tiny import LORA, lora_learner, of, rows, tiny_decoder

from lorica.errors import BaseNotFiniteError, NotFiniteError, TrainingError
from lorica.models.adapter_weights import create_lora
from lorica.models.lora import LoraSpan
from lorica.models.packed_attention import PackedAttention
from lorica.training.batches import TrainingBatch, make_batch
from lorica.training.lora_decoder import LoraDecoder
from lorica.training.step import (
    MAX_SKIPPED,
    Learner,
    evaluate,
    make_optimizer,
    update,
)
from lorica.training.trainable import MixedPrecision, choose_precision
from lorica.training.types import Example

CPU = torch.device("cpu")


def _learner(
    *, dropout: float = 0.0, bf16: bool = False, checkpointing: bool = False, norm: float = 0.0
) -> Learner[TrainingBatch]:
    decoder = tiny_decoder()
    lora = create_lora("tiny", decoder.config, LORA, seed=1)
    lora.dropout = dropout
    with torch.no_grad():  # B is zero at first, and A then has no gradient
        for number, pair in enumerate(lora.pairs.values()):
            pair.b.normal_(std=0.1, generator=torch.Generator().manual_seed(number))
    precision = choose_precision("cpu", decoder.dtype, fp16=False, bf16=bf16)
    return lora_learner(LoraDecoder(decoder, lora, LORA, precision, checkpointing), max_grad_norm=norm)


def _batches(examples: Sequence[Example], *sizes: int) -> list[TrainingBatch]:
    found, start = [], 0
    for size in sizes:
        found.append(make_batch(examples[start : start + size], CPU))
        start += size
    assert start == len(examples)
    return found


def _overflow(gradient: torch.Tensor) -> torch.Tensor:
    return gradient * math.inf


def _weights(learner: Learner[TrainingBatch]) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in of(learner).lora.parameters()]


def test_the_loss_is_that_of_each_row_alone_with_a_full_head() -> None:
    learner, examples = _learner(), rows(5)
    expected = 0.0
    for example in examples:
        tokens = torch.tensor(example.encoded.tokens)
        attention = PackedAttention([len(tokens)], of(learner).decoder.config)
        span = LoraSpan(of(learner).lora, 0, len(tokens))
        hidden = of(learner).decoder.hidden(tokens, torch.arange(len(tokens)), attention, (span,))
        logits = of(learner).decoder.logits(hidden)
        labels = tokens.clone()
        labels[: example.encoded.answer_start] = -100
        expected += F.cross_entropy(logits[:-1], labels[1:], reduction="sum").item()
    assert of(learner).loss(make_batch(examples, CPU)).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("sizes", [(12,), (1, 4, 7), (5, 5, 2)])
def test_accumulated_batches_make_the_update_of_one_big_batch(sizes: tuple[int, ...]) -> None:
    examples = rows(12)
    one, many = _learner(), _learner()
    whole = update(one, _batches(examples, 12), step=1, learning_rate=1e-2, seed=0)
    parts = update(many, _batches(examples, *sizes), step=1, learning_rate=1e-2, seed=0)
    assert parts.loss == pytest.approx(whole.loss, rel=1e-5)
    assert parts.grad_norm == pytest.approx(whole.grad_norm, rel=1e-4)
    for left, right in zip(of(one).lora.parameters(), of(many).lora.parameters(), strict=True):
        assert left.grad is not None
        assert right.grad is not None
        torch.testing.assert_close(right.grad, left.grad, rtol=1e-4, atol=1e-6)


def test_adamw_clipping_and_decay_follow_torch() -> None:
    learner = _learner(norm=0.05)
    learner.optimizer = make_optimizer(of(learner).tensors(), weight_decay=0.1)
    twins = [weight.clone().requires_grad_() for weight in _weights(learner)]
    oracle = torch.optim.AdamW(twins, lr=1e-2, weight_decay=0.1, foreach=False, fused=False)
    for step in range(3):
        batch = make_batch(rows(4, seed=step), CPU)
        loss = of(learner).loss(batch) / batch.targets.shape[0]
        gradients = torch.autograd.grad(loss, of(learner).lora.parameters())
        for twin, gradient in zip(twins, gradients, strict=True):
            twin.grad = gradient.clone()
        norm = torch.nn.utils.clip_grad_norm_(twins, 0.05)
        oracle.step()
        made = update(learner, [batch], step=step + 1, learning_rate=1e-2, seed=0)
        assert made.grad_norm == pytest.approx(norm.item(), rel=1e-4)
        assert made.grad_norm > 0.05  # so that the clipping had something to do
    for twin, weight in zip(twins, of(learner).lora.parameters(), strict=True):
        torch.testing.assert_close(weight, twin, rtol=1e-4, atol=1e-5)


def test_the_base_is_untouched_and_gets_no_gradient() -> None:
    learner = _learner()
    before = {name: value.clone() for name, value in of(learner).decoder.state_dict().items()}
    update(learner, _batches(rows(4), 4), step=1, learning_rate=1e-1, seed=0)
    for name, parameter in of(learner).decoder.named_parameters():
        assert parameter.grad is None
        assert torch.equal(parameter, before[name])


def test_recomputed_activations_give_the_same_update_with_dropout() -> None:
    plain, thrifty = _learner(dropout=0.3), _learner(dropout=0.3, checkpointing=True)
    for learner in (plain, thrifty):
        update(learner, _batches(rows(6), 2, 4), step=1, learning_rate=1e-2, seed=5)
    for left, right in zip(_weights(plain), _weights(thrifty), strict=True):
        assert torch.equal(left, right)


def test_dropout_is_a_function_of_the_seed_and_absent_in_evaluation() -> None:
    losses: dict[int, list[float]] = {}
    for seed in (1, 1, 2):
        learner = _learner(dropout=0.5)
        losses.setdefault(seed, []).append(
            update(learner, _batches(rows(6), 6), step=1, learning_rate=0, seed=seed).loss
        )
    assert losses[1][0] == losses[1][1]
    assert losses[1][0] != losses[2][0]
    dropped, whole = _learner(dropout=0.5), _learner()
    batches = _batches(rows(6), 2, 4)
    assert evaluate(dropped, batches, step=1) == evaluate(whole, batches, step=1)


def test_bfloat16_is_close_to_float32_and_keeps_weights_and_moments_in_float32() -> None:
    exact, mixed = _learner(), _learner(bf16=True)
    one = update(exact, _batches(rows(6), 6), step=1, learning_rate=1e-2, seed=0)
    other = update(mixed, _batches(rows(6), 6), step=1, learning_rate=1e-2, seed=0)
    assert other.loss == pytest.approx(one.loss, rel=0.02)
    assert other.loss != one.loss
    for parameter in of(mixed).lora.parameters():
        assert parameter.dtype == torch.float32
        assert mixed.optimizer.state[parameter]["exp_avg"].dtype == torch.float32


def test_a_bfloat16_base_is_computed_in_bfloat16() -> None:
    decoder = tiny_decoder().to(torch.bfloat16)
    assert choose_precision("cpu", decoder.dtype, fp16=False, bf16=False).dtype == torch.bfloat16
    learner = _learner()
    of(learner).decoder = decoder
    of(learner).precision = choose_precision("cpu", decoder.dtype, fp16=False, bf16=False)
    exact = evaluate(_learner(), _batches(rows(6), 6), step=1)
    assert evaluate(learner, _batches(rows(6), 6), step=1) == pytest.approx(exact, rel=0.03)
    assert math.isfinite(update(learner, _batches(rows(6), 6), step=1, learning_rate=1e-2, seed=0).grad_norm)


def test_a_non_finite_loss_names_update_rate_and_rows_and_leaves_the_weights() -> None:
    learner, examples = _learner(), rows(6)
    with torch.no_grad():
        of(learner).decoder.model.embed_tokens.weight[examples[4].encoded.tokens[0]] = math.nan
    of(learner).decoder.lm_head.weight = torch.nn.Parameter(tiny_decoder().lm_head.weight, requires_grad=False)
    before = _weights(learner)
    hit = {row.id for row in examples if examples[4].encoded.tokens[0] in row.encoded.tokens}
    assert "row-4" in hit
    assert "row-0" not in hit
    with pytest.raises(BaseNotFiniteError) as caught:
        update(learner, _batches(examples, 4, 2), step=17, learning_rate=0.25, seed=0)
    text = str(caught.value)
    assert "loss is not finite at update 17, learning rate 0.25" in text
    assert "'row-4', 'row-5'" in text
    assert "'row-0'" not in text
    assert "the base model itself fails on these rows" in text
    assert "learning_rate" not in text
    assert all(torch.equal(left, right) for left, right in zip(before, _weights(learner), strict=True))
    with pytest.raises(BaseNotFiniteError, match=r"loss after update 3 .*'row-4'"):
        evaluate(learner, _batches(examples, 4, 2), step=3)


def test_a_non_finite_loss_of_the_adapter_alone_is_not_the_base_models() -> None:
    learner = _learner()
    with torch.no_grad():
        of(learner).lora.parameters()[1].fill_(math.inf)
    for call in (partial(update, learning_rate=0.25, seed=0, step=17), partial(evaluate, step=3)):
        with pytest.raises(NotFiniteError, match=r"lower training\.learning_rate") as caught:
            call(learner, _batches(rows(6), 6))
        assert not isinstance(caught.value, BaseNotFiniteError)


def test_a_finite_loss_with_an_infinite_gradient_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    learner = _learner()
    of(learner).lora.parameters()[0].register_hook(_overflow)  # type: ignore[no-untyped-call]
    with pytest.raises(TrainingError, match="the gradient is not finite at update 2"):
        update(learner, _batches(rows(3), 3), step=2, learning_rate=1e-2, seed=0)


def test_float16_overflow_skips_updates_until_there_are_too_many() -> None:
    learner = _learner()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
    of(learner).precision = MixedPrecision("cpu", torch.float16, scaler)
    before = _weights(learner)
    update(learner, _batches(rows(3), 3), step=1, learning_rate=1e-2, seed=0)
    assert not torch.equal(before[0], _weights(learner)[0])
    before, scale = _weights(learner), scaler.get_scale()
    of(learner).lora.parameters()[0].register_hook(_overflow)  # type: ignore[no-untyped-call]
    update(learner, _batches(rows(3), 3), step=2, learning_rate=1e-2, seed=0)
    assert scaler.get_scale() < scale
    assert all(torch.equal(left, right) for left, right in zip(before, _weights(learner), strict=True))
    learner.skipped = MAX_SKIPPED
    with pytest.raises(TrainingError, match=rf"\({MAX_SKIPPED + 1} updates in a row\).*\n.*bf16"):
        update(learner, _batches(rows(3), 3), step=60, learning_rate=1e-2, seed=0)
