"""The learning-rate schedule (linear warm-up, then cosine, linear or constant): a pure function of the update."""

from __future__ import annotations

import math


def warmup_steps(total_steps: int, warmup_ratio: float) -> int:
    """Updates of warm-up: `warmup_ratio` of all, rounded up as transformers does, but never the whole run."""
    return min(math.ceil(total_steps * warmup_ratio), total_steps - 1)


def rate_factor(step: int, total_steps: int, *, warmup: int, scheduler: str) -> float:
    """The share of the peak learning rate for the update number `step` (0-based) of `total_steps`.

    Equals transformers' get_{cosine,linear,constant}_schedule_with_warmup; like there the first update of a
    warm-up has rate 0.
    """
    if step < warmup:
        return step / max(1, warmup)
    if scheduler == "constant":
        return 1.0
    decay_steps = max(1, total_steps - warmup)
    if scheduler == "linear":
        return max(0.0, (total_steps - step) / decay_steps)
    return max(0.0, 0.5 * (1.0 + math.cos(math.pi * (step - warmup) / decay_steps)))
