"""Log-probabilities of choices from one forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lorica.models.fast import AnyDecoder
from lorica.records import Choose

_HEAD_ELEMENTS = 1 << 24  # logits held at once: 64 MiB in float32, whatever the vocabulary


def branches_of(request: Choose) -> tuple[tuple[int, ...], ...]:
    """What must be read to score the choices: all but the last token of each that has several."""
    return tuple(choice[:-1] for choice in request.choices if len(choice) > 1)


@dataclass(frozen=True)
class Scored:
    """Which positions of a pass are read, and what for. rows: [P], ascending.

    For each of the S scored tokens: read [S], the index into `rows` of the position it follows; tokens [S], its id;
    choice_of [S], the number of its choice, counted through all requests.
    """

    rows: Tensor
    read: Tensor
    tokens: Tensor
    choice_of: Tensor


def find_scored(requests: Sequence[Choose], ends: Sequence[int], device: torch.device) -> Scored:
    """ends[i]: where the branches of request i begin, in the pass; its last prompt token stands at ends[i] - 1."""
    rows: list[int] = []
    read: list[int] = []
    tokens: list[int] = []
    choice_of: list[int] = []
    count = 0
    for request, end in zip(requests, ends, strict=True):
        last = len(rows)
        rows.append(end - 1)
        for choice in request.choices:
            read += [last, *range(len(rows), len(rows) + len(choice) - 1)]
            rows += range(end, end + len(choice) - 1)
            end += len(choice) - 1
            tokens += choice
            choice_of += [count] * len(choice)
            count += 1
    return Scored(*(torch.tensor(each, device=device) for each in (rows, read, tokens, choice_of)))


def score(decoder: AnyDecoder, hidden: Tensor, requests: Sequence[Choose], scored: Scored) -> list[list[float]]:
    """Summed natural-log probability of every choice of every request, over the full vocabulary.

    hidden: [P, hidden] at the positions of `scored`.
    """
    values = _token_logprobs(decoder, hidden, scored.read, scored.tokens)
    count = sum(len(request.choices) for request in requests)
    sums = torch.zeros(count, dtype=torch.float64, device=hidden.device)
    sums.index_add_(0, scored.choice_of, values)
    flat = iter(sums.tolist())
    return [[next(flat) for _ in request.choices] for request in requests]


def _token_logprobs(decoder: AnyDecoder, hidden: Tensor, read: Tensor, tokens: Tensor) -> Tensor:
    """hidden [P, hidden]; read, tokens [S] -> float64 [S]: log-probability of tokens[i] after
    hidden[read[i]].
    """
    values = torch.empty(len(tokens), dtype=torch.float64, device=hidden.device)
    step = max(1, _HEAD_ELEMENTS // decoder.config.vocab_size)
    for start in range(0, len(hidden), step):
        logits = decoder.logits(hidden[start : start + step]).float()
        total = logits.logsumexp(dim=-1)
        here = ((read >= start) & (read < start + step)).nonzero().squeeze(1)
        row = read[here] - start
        values[here] = (logits[row, tokens[here]] - total[row]).double()
    return values
