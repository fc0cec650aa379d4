"""The sampler: logits to next tokens. Settings mean what they mean in transformers, in its order.

Every sequence draws from a generator of its own, seeded by its settings and its id: the rest of the batch changes
nothing.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor

from lorica.records import Generate, Sampling


class SequenceSampler:
    """The sampling state of one sequence: its tokens and its random numbers."""

    def __init__(self, request: Generate) -> None:
        self.request = request
        self.tokens: list[int] = []
        self._random = random.Random(f"{request.sampling.seed}:{request.id}")
        self._last_draw = (-1, 0.0)  # the index of the token that it was drawn for, and the number

    @property
    def banned_tokens(self) -> tuple[int, ...]:
        """The stop tokens, while `min_new_tokens` is not reached."""
        is_short = len(self.tokens) < self.request.sampling.min_new_tokens
        return self.request.stop_tokens if is_short else ()

    def distinct_tokens(self) -> list[int]:
        """The distinct tokens of prompt and generated text: what the repetition penalty applies to."""
        return sorted({*self.request.prompt, *self.tokens})

    def draw(self) -> float:
        """The random number in [0, 1) for the next token; the same until that token is appended."""
        if self._last_draw[0] < len(self.tokens):
            self._last_draw = len(self.tokens), self._random.random()
        return self._last_draw[1]


def sample(logits: Tensor, samplers: Sequence[SequenceSampler]) -> list[int]:
    """logits [N, V], one row per sampler -> the next token of each."""
    groups: dict[tuple[float, ...], list[int]] = {}
    for index, sampler in enumerate(samplers):
        groups.setdefault(_settings_key(sampler.request.sampling), []).append(index)
    tokens = [0] * len(samplers)
    for indices in groups.values():
        group_logits = logits if len(indices) == len(samplers) else logits[indices]
        group_tokens = _sample_group(group_logits, [samplers[index] for index in indices])
        for index, token in zip(indices, group_tokens, strict=True):
            tokens[index] = token
    return tokens


def process_logits(logits: Tensor, samplers: Sequence[SequenceSampler]) -> Tensor:
    """logits [N, V] of sequences with equal settings -> after repetition penalty, banned stop tokens, temperature,
    top_k and top_p, in the order of transformers' logits processors. Greedy sequences skip the last three.
    """
    sampling = samplers[0].request.sampling
    if sampling.repetition_penalty != 1.0 or any(sampler.banned_tokens for sampler in samplers):
        logits = logits.clone()
    for row, sampler in enumerate(samplers):
        if sampling.repetition_penalty != 1.0:
            repeated = torch.tensor(sampler.distinct_tokens(), device=logits.device)
            values = logits[row, repeated]
            penalty = sampling.repetition_penalty
            logits[row, repeated] = torch.where(values < 0, values * penalty, values / penalty)
        if sampler.banned_tokens:
            logits[row, [token for token in sampler.banned_tokens if token < logits.shape[1]]] = -torch.inf
    if is_greedy(sampling):
        return logits
    if sampling.temperature != 1.0:
        logits = logits / sampling.temperature
    if sampling.top_k > 0:
        threshold = torch.topk(logits, min(sampling.top_k, logits.shape[1])).values[:, -1:]
        logits = logits.masked_fill(logits < threshold, -torch.inf)
    if sampling.top_p < 1.0:
        ascending, order = torch.sort(logits, descending=False)
        tail = ascending.softmax(dim=-1).cumsum(dim=-1) <= 1 - sampling.top_p
        tail[:, -1] = False
        logits = logits.masked_fill(tail.scatter(1, order, tail), -torch.inf)
    return logits


def is_greedy(sampling: Sampling) -> bool:
    """Whether the likeliest token is taken; otherwise tokens are drawn."""
    return not sampling.do_sample or sampling.temperature <= 0


def _settings_key(sampling: Sampling) -> tuple[float, ...]:
    if is_greedy(sampling):
        return (sampling.repetition_penalty,)
    return (sampling.repetition_penalty, sampling.temperature, sampling.top_k, sampling.top_p)


def _sample_group(logits: Tensor, samplers: Sequence[SequenceSampler]) -> list[int]:
    sampling = samplers[0].request.sampling
    if is_greedy(sampling):
        if sampling.repetition_penalty != 1.0 or any(sampler.banned_tokens for sampler in samplers):
            logits = process_logits(logits.float(), samplers)
        # Without a penalty no wider copy is made; `max` takes a sixth of the time of `argmax`.
        return [int(token) for token in logits.max(dim=-1).indices.tolist()]
    # Inverse transform sampling: one random number per sequence, the same on every device.
    cumulative = process_logits(logits.float(), samplers).double().softmax(dim=-1).cumsum(dim=-1)
    draws = torch.tensor([sampler.draw() for sampler in samplers], dtype=torch.float64, device=logits.device)
    total = cumulative[:, -1]
    target = torch.minimum(draws * total, torch.nextafter(total, torch.zeros_like(total)))
    tokens = torch.searchsorted(cumulative, target[:, None], right=True).squeeze(1)
    return [int(token) for token in tokens.tolist()]
