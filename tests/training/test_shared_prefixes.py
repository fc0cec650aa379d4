"""Shared prefixes against the definition: every row alone, a full head, and gradients added up."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from tests.shapes import TINY
from tests.training.tiny import LORA, lora_learner, of, tiny_decoder

from lorica.models.adapter_weights import create_lora
from lorica.models.families import DecoderConfig
from lorica.models.lora import LoraSpan
from lorica.models.packed_attention import PackedAttention
from lorica.records import Encoded
from lorica.training.batches import TrainingBatch, make_batch, regroup_update
from lorica.training.lora_decoder import LoraDecoder
from lorica.training.step import Learner, evaluate, update
from lorica.training.trainable import choose_precision
from lorica.training.types import Example

FAMILIES = {
    "llama": replace(TINY, family="llama", qk_norm=False, tied_embeddings=False),
    "llama with biases": replace(TINY, family="llama", qk_norm=False, qkv_bias=True, output_bias=True, mlp_bias=True),
    "mistral": replace(TINY, family="mistral", qk_norm=False, windows=(7, 7)),
    "qwen2": replace(TINY, family="qwen2", qk_norm=False, qkv_bias=True, windows=(None, 20)),
    "qwen3": TINY,
}


def _learner(shape: DecoderConfig, *, checkpointing: bool = False, bf16: bool = False) -> Learner[TrainingBatch]:
    decoder = tiny_decoder(shape)
    lora = create_lora("tiny", shape, LORA, seed=1)
    lora.dropout = 0.0
    with torch.no_grad():  # B is zero at first, and A then has no gradient
        for number, pair in enumerate(lora.pairs.values()):
            pair.b.normal_(std=0.1, generator=torch.Generator().manual_seed(number))
    precision = choose_precision("cpu", decoder.dtype, fp16=False, bf16=bf16)
    return lora_learner(LoraDecoder(decoder, lora, LORA, precision, checkpointing, share_prefixes=True))


def _task_rows(count: int) -> list[Example]:
    """Rows of two rules under one instruction, of unequal lengths, some equal to others but for their answers."""
    chance = random.Random(0)

    def some(length: int) -> list[int]:
        return [chance.randrange(8, 64) for _ in range(length)]

    instruction, rules = some(20), [some(15), some(11)]
    examples: list[Example] = []
    for number in range(count):
        prompt = [*instruction, *rules[number % 2], *some(chance.randrange(1, 9))]
        if number % 5 == 4:
            prompt = list(examples[-1].encoded.tokens[: examples[-1].encoded.answer_start])
        examples.append(Example(str(number), Encoded((*prompt, *some(chance.randrange(1, 4))), len(prompt))))
    return examples


def _gradients_of_rows_alone(
    learner: Learner[TrainingBatch], examples: list[Example]
) -> tuple[float, list[torch.Tensor]]:
    decoder = of(learner).decoder
    """The mean loss over answer tokens and its gradients."""
    losses = []
    for example in examples:
        tokens = torch.tensor(example.encoded.tokens)
        attention = PackedAttention([len(tokens)], decoder.config)
        span = LoraSpan(of(learner).lora, 0, len(tokens))
        logits = decoder.logits(decoder.hidden(tokens, torch.arange(len(tokens)), attention, (span,)))
        first = example.encoded.answer_start
        losses.append(F.cross_entropy(logits[first - 1 : -1], tokens[first:], reduction="sum"))
    answers = sum(len(example.encoded.tokens) - example.encoded.answer_start for example in examples)
    loss = torch.stack(losses).sum() / answers
    return loss.item(), list(torch.autograd.grad(loss, of(learner).lora.parameters()))


def _shared_batches(
    learner: Learner[TrainingBatch], examples: list[Example], planned: list[list[int]]
) -> list[TrainingBatch]:
    groups = regroup_update(examples, planned, answer_weight=of(learner).answer_weight())
    assert sorted(row for group in groups for row in group) == list(range(len(examples)))
    device = torch.device("cpu")
    return [make_batch([examples[row] for row in group], device, share_prefixes=True) for group in groups]


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("planned_size", [3, 12])
@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_are_those_of_the_rows_alone(family: str, planned_size: int, checkpointing: bool) -> None:
    learner, examples = _learner(FAMILIES[family], checkpointing=checkpointing), _task_rows(12)
    expected_loss, expected = _gradients_of_rows_alone(learner, examples)
    planned = [list(range(start, start + planned_size)) for start in range(0, 12, planned_size)]
    batches = _shared_batches(learner, examples, planned)
    assert len(batches) <= len(planned)
    assert sum(len(batch.tokens) for batch in batches) < 0.6 * sum(batch.row_tokens for batch in batches)
    report = update(learner, batches, step=1, learning_rate=0.0, seed=0)
    assert report.loss == pytest.approx(expected_loss, rel=1e-5)
    assert report.tokens == sum(len(example.encoded.tokens) for example in examples)
    for parameter, gradient in zip(of(learner).lora.parameters(), expected, strict=True):
        assert parameter.grad is not None
        assert (parameter.grad - gradient).norm() <= 1e-5 * gradient.norm()


def test_a_batch_of_the_update_needs_no_more_than_the_largest_planned() -> None:
    learner, examples = _learner(TINY), _task_rows(40)
    planned = [list(range(start, start + 4)) for start in range(0, 40, 4)]
    batches = _shared_batches(learner, examples, planned)
    weight = of(learner).answer_weight()
    budget = max(
        sum(len(examples[row].encoded.tokens) - 1 for row in rows)
        + weight * sum(len(examples[row].encoded.tokens) - examples[row].encoded.answer_start for row in rows)
        for rows in planned
    )
    assert all(len(batch.tokens) + weight * len(batch.targets) <= budget for batch in batches)
    assert len(batches) < len(planned) / 2


def test_an_evaluation_is_the_same_with_shared_prefixes() -> None:
    learner, examples = _learner(TINY), _task_rows(12)
    device = torch.device("cpu")
    shared, plain = (make_batch(examples, device, share_prefixes=share) for share in (True, False))
    assert len(shared.tokens) < len(plain.tokens)
    assert evaluate(learner, [shared], step=0) == pytest.approx(evaluate(learner, [plain], step=0), rel=1e-6)


def test_a_shared_token_has_one_dropout_mask() -> None:
    examples = [Example(str(number), Encoded((*range(8, 30), 40, 41), 23)) for number in range(3)]
    batch = make_batch(examples, torch.device("cpu"), share_prefixes=True)
    assert len(batch.tokens) == 23
    learner = _learner(TINY)
    of(learner).lora.dropout = 0.5
    losses = []
    for rows in (examples, examples[:1]):
        batches = [make_batch(rows, torch.device("cpu"), share_prefixes=True)]
        losses.append(update(learner, batches, step=1, learning_rate=0.0, seed=3).loss)
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_recomputed_activations_draw_the_same_dropout() -> None:
    examples, gradients = _task_rows(12), []
    for checkpointing in (False, True):
        learner = _learner(TINY, checkpointing=checkpointing)
        of(learner).lora.dropout = 0.3
        batches = _shared_batches(learner, examples, [list(range(12))])
        update(learner, batches, step=1, learning_rate=0.0, seed=5)
        gradients.append([parameter.grad for parameter in of(learner).lora.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(recomputed, plain, rtol=0, atol=0)


def test_bfloat16_products_share_prefixes_too() -> None:
    examples = _task_rows(12)
    expected_loss, expected = _gradients_of_rows_alone(_learner(TINY), examples)
    learner = _learner(TINY, bf16=True)
    batches = _shared_batches(learner, examples, [list(range(12))])
    assert update(learner, batches, step=1, learning_rate=0.0, seed=0).loss == pytest.approx(expected_loss, rel=0.01)
    for parameter, gradient in zip(of(learner).lora.parameters(), expected, strict=True):
        assert parameter.grad is not None
        assert (parameter.grad - gradient).norm() <= 0.05 * gradient.norm()
