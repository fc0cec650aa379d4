"""Log-probabilities of choices from one forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lorica.engines.native.packed_batch import ALIGNMENT
from lorica.engines.native.token_tree import branches_of
from lorica.models.cpu.decoder import AnyDecoder
from lorica.records import Choose

_HEAD_ELEMENTS = 1 << 24  # logits held at once: 64 MiB in float32, whatever the vocabulary


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
        branches = branches_of(request.choices)
        rows += range(end, end + len(branches.tokens))
        for choice, path in zip(request.choices, branches.paths, strict=True):
            read += [last, *(last + 1 + node for node in path)]
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
    asked = torch.tensor(sorted({*read.tolist()}), device=hidden.device)
    place = torch.searchsorted(asked, read)
    step = max(ALIGNMENT, _HEAD_ELEMENTS // decoder.config.vocab_size // ALIGNMENT * ALIGNMENT)
    for start in range(0, len(asked), step):
        some = asked[start : start + step]
        filled = torch.cat([some, some[-1:].expand(-len(some) % ALIGNMENT)])
        # Not `logsumexp`, whose rounding depends on where among all rows one stands: this works row by row.
        found = decoder.logits(hidden[filled])[: len(some)].float().log_softmax(dim=-1)
        here = ((place >= start) & (place < start + step)).nonzero().squeeze(1)
        values[here] = found[place[here] - start, tokens[here]].double()
    return values
