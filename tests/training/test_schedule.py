from __future__ import annotations

import pytest
import torch
from transformers import (
    get_constant_schedule_with_warmup,
    get_cosine_schedule_with_warmup,
    get_linear_schedule_with_warmup,
)

from lorica.training.schedule import rate_factor, warmup_steps


@pytest.mark.parametrize("scheduler", ["cosine", "linear", "constant"])
@pytest.mark.parametrize(("total", "ratio"), [(40, 0.1), (7, 0.5), (10, 0.0), (33, 0.31)])
def test_rates_equal_those_of_transformers(scheduler: str, total: int, ratio: float) -> None:
    warmup = warmup_steps(total, ratio)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=3e-4)
    oracle = {
        "cosine": lambda: get_cosine_schedule_with_warmup(optimizer, warmup, total),
        "linear": lambda: get_linear_schedule_with_warmup(optimizer, warmup, total),
        "constant": lambda: get_constant_schedule_with_warmup(optimizer, warmup),
    }[scheduler]()
    for step in range(total):
        expected = oracle.get_last_lr()[0]
        assert 3e-4 * rate_factor(step, total, warmup=warmup, scheduler=scheduler) == pytest.approx(expected, abs=1e-18)
        optimizer.step()
        oracle.step()


def test_warmup_is_rounded_up_but_never_the_whole_run() -> None:
    assert [warmup_steps(total, 0.1) for total in (1, 2, 10, 11)] == [0, 1, 1, 2]
    assert warmup_steps(3, 0.99) == 2
