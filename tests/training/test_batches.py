from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lorica.errors import TrainingError
from lorica.records import Encoded
from lorica.training.batches import (
    check_examples,
    digest_examples,
    evaluation_plan,
    make_batch,
    plan_epoch,
    updates_per_epoch,
)
from lorica.training.types import Example

CPU = torch.device("cpu")


@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=300),
    batch_size=st.integers(1, 7),
    accumulation=st.integers(1, 5),
    epoch=st.integers(0, 3),
)
def test_every_row_is_learned_once_an_epoch(lengths: list[int], batch_size: int, accumulation: int, epoch: int) -> None:
    plan = plan_epoch(lengths, batch_size=batch_size, accumulation=accumulation, seed=3, epoch=epoch)
    batches = [batch for step in plan for batch in step]
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    assert max(map(len, batches)) <= batch_size
    assert [len(step) for step in plan[:-1]] == [accumulation] * (len(plan) - 1)
    assert len(plan) == updates_per_epoch(len(lengths), batch_size=batch_size, accumulation=accumulation)


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    lengths = [random.Random(0).randrange(5, 90) for _ in range(50)]
    plans = [
        plan_epoch(lengths, batch_size=4, accumulation=2, seed=seed, epoch=epoch)
        for seed, epoch in ((1, 0), (1, 0), (1, 1), (2, 0))
    ]
    assert plans[0] == plans[1]
    assert plans[0] != plans[2]
    assert plans[0] != plans[3]


def test_batches_hold_rows_of_about_one_length() -> None:
    chance = random.Random(0)
    lengths = [chance.randrange(10, 200) for _ in range(640)]
    plan = plan_epoch(lengths, batch_size=8, accumulation=1, seed=0, epoch=0)
    padded = sum(max(lengths[row] for row in batch) * len(batch) for step in plan for batch in step)
    assert padded < 1.1 * sum(lengths)  # in random order it is about 1.7 times


def test_rows_lie_end_to_end_and_each_answer_token_is_predicted_from_the_one_before() -> None:
    examples = [
        Example("a", Encoded((5, 6, 7, 8), 2)),
        Example("b", Encoded((9, 10), 0)),
        Example("c", Encoded((1, 2, 3), 2)),
    ]
    batch = make_batch(examples, CPU)
    assert batch.ids == ("a", "b", "c")
    assert batch.row_tokens == 9
    # The last token of a row predicts nothing.
    assert batch.tokens.tolist() == [5, 6, 7, 9, 1, 2]
    assert batch.positions.tolist() == [0, 1, 2, 0, 0, 1]
    assert [(span.start, span.stop) for span in batch.spans] == [(0, 3), (3, 4), (4, 6)]
    # Token 9 opens its row: there is nothing it could be predicted from.
    assert batch.targets.tolist() == [7, 8, 10, 3]
    assert batch.outputs[batch.sources].tolist() == [1, 2, 3, 5]


def test_an_evaluation_stays_within_its_budget_unless_one_row_is_longer() -> None:
    lengths = [3, 50, 9, 10, 4, 8]
    examples = [Example(str(index), Encoded((index,) * length, 1)) for index, length in enumerate(lengths)]
    for share_prefixes in (False, True):
        plan = evaluation_plan(examples, token_budget=20, share_prefixes=share_prefixes)
        assert sorted(index for batch in plan for index in batch) == list(range(6))
        assert all(len(batch) == 1 or sum(lengths[i] for i in batch) <= 20 + len(batch) for batch in plan)
        assert len(plan) <= 5


def test_rows_without_an_answer_are_refused_by_name() -> None:
    good = Example("good", Encoded((1, 2, 3), 2))
    masked = [Example(f"masked-{index}", Encoded((1, 2, 3), 3)) for index in range(10)]
    lone = Example("lone", Encoded((1,), 0))
    with pytest.raises(TrainingError, match=r"10 of 11 training rows have no answer.*'masked-0'.* and 2 more"):
        check_examples([good, *masked], vocab_size=9, set_name="training")
    with pytest.raises(TrainingError, match="'lone'"):
        check_examples([lone], vocab_size=9, set_name="training")
    check_examples([good], vocab_size=4, set_name="training")


def test_foreign_tokens_are_refused_by_row() -> None:
    with pytest.raises(TrainingError, match=r"outside the base model's vocabulary of 9: 'x'"):
        check_examples([Example("x", Encoded((1, 9), 1))], vocab_size=9, set_name="training")


def test_the_digest_sees_ids_tokens_masks_and_order() -> None:
    base = [Example("a", Encoded((1, 2, 3), 1)), Example("b", Encoded((4, 5), 1))]
    others = [
        base[::-1],
        [Example("c", Encoded((1, 2, 3), 1)), base[1]],
        [Example("a", Encoded((1, 2, 4), 1)), base[1]],
        [Example("a", Encoded((1, 2, 3), 2)), base[1]],
        base[:1],
        [Example("a", Encoded((1, 2), 1)), Example("b", Encoded((3, 4, 5), 1))],
    ]
    digests = {digest_examples(rows) for rows in (base, *others)}
    assert len(digests) == 7
    assert digest_examples(list(base)) == digest_examples(base)
