"""Picking the next token, with the meaning that transformers gives the same settings.

Every row draws from its own generator, seeded by its settings and its id: other rows change nothing.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor

from lorica.records import Generate, Sampling


class Picker:
    """What one row has seen and drawn so far."""

    def __init__(self, request: Generate) -> None:
        self.request = request
        self.tokens: list[int] = []
        self._random = random.Random(f"{request.sampling.seed}:{request.id}")
        self._drawn = (-1, 0.0)  # the number of the token for which something was drawn, and what

    @property
    def forbidden(self) -> tuple[int, ...]:
        """The stop tokens that min_new_tokens still forbids."""
        early = len(self.tokens) < self.request.sampling.min_new_tokens
        return self.request.stop_tokens if early else ()

    def seen(self) -> list[int]:
        """The distinct tokens of prompt and continuation."""
        return sorted({*self.request.prompt, *self.tokens})

    def draw(self) -> float:
        """The number in [0, 1) for the next token, of this row's own sequence: the same until there is that token."""
        if self._drawn[0] < len(self.tokens):
            self._drawn = len(self.tokens), self._random.random()
        return self._drawn[1]


def pick(logits: Tensor, pickers: Sequence[Picker]) -> list[int]:
    """logits [N, V], one row per picker -> the next token of each."""
    groups: dict[tuple[float, ...], list[int]] = {}
    for index, picker in enumerate(pickers):
        groups.setdefault(_cuts(picker.request.sampling), []).append(index)
    chosen = [0] * len(pickers)
    for members in groups.values():
        part = logits if len(members) == len(pickers) else logits[members]
        for index, token in zip(members, _pick_alike(part, [pickers[i] for i in members]), strict=True):
            chosen[index] = token
    return chosen


def adjust(scores: Tensor, pickers: Sequence[Picker]) -> Tensor:
    """scores [N, V] of rows with equal settings -> after penalty, forbidden stops, temperature, top_k and
    top_p.

    The order is that of transformers' logits processors. Greedy rows skip the last three.
    """
    sampling = pickers[0].request.sampling
    if sampling.repetition_penalty != 1.0 or any(picker.forbidden for picker in pickers):
        scores = scores.clone()
    for row, picker in enumerate(pickers):
        if sampling.repetition_penalty != 1.0:
            seen = torch.tensor(picker.seen(), device=scores.device)
            value = scores[row, seen]
            penalty = sampling.repetition_penalty
            scores[row, seen] = torch.where(value < 0, value * penalty, value / penalty)
        if picker.forbidden:
            scores[row, [token for token in picker.forbidden if token < scores.shape[1]]] = -torch.inf
    if not samples(sampling):
        return scores
    if sampling.temperature != 1.0:
        scores = scores / sampling.temperature
    if sampling.top_k > 0:
        worst = torch.topk(scores, min(sampling.top_k, scores.shape[1])).values[:, -1:]
        scores = scores.masked_fill(scores < worst, -torch.inf)
    if sampling.top_p < 1.0:
        ordered, order = torch.sort(scores, descending=False)
        tail = ordered.softmax(dim=-1).cumsum(dim=-1) <= 1 - sampling.top_p
        tail[:, -1] = False
        scores = scores.masked_fill(tail.scatter(1, order, tail), -torch.inf)
    return scores


def samples(sampling: Sampling) -> bool:
    """Whether tokens are drawn; otherwise the likeliest is taken."""
    return sampling.do_sample and sampling.temperature > 0


def _cuts(sampling: Sampling) -> tuple[float, ...]:
    if not samples(sampling):
        return (sampling.repetition_penalty,)
    return (sampling.repetition_penalty, sampling.temperature, sampling.top_k, sampling.top_p)


def _pick_alike(logits: Tensor, pickers: Sequence[Picker]) -> list[int]:
    sampling = pickers[0].request.sampling
    greedy = not samples(sampling)
    if greedy and sampling.repetition_penalty == 1.0 and not any(picker.forbidden for picker in pickers):
        # As they are, without a wider copy; `max` finds the place in a sixth of the time of `argmax`.
        return [int(token) for token in logits.max(dim=-1).indices.tolist()]
    adjusted = adjust(logits.float(), pickers)
    if greedy:
        return [int(token) for token in adjusted.max(dim=-1).indices.tolist()]
    # Inverse of the cumulated distribution: one number per row, the same on every device.
    reached = adjusted.double().softmax(dim=-1).cumsum(dim=-1)
    drawn = torch.tensor([picker.draw() for picker in pickers], dtype=torch.float64, device=logits.device)
    total = reached[:, -1]
    target = torch.minimum(drawn * total, torch.nextafter(total, torch.zeros_like(total)))
    found = torch.searchsorted(reached, target[:, None], right=True).squeeze(1)
    return [int(token) for token in found.tolist()]
