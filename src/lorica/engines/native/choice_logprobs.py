"""Log-probabilities of choices from one forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lorica.engines.native.packed_batch import ROW_ALIGNMENT
from lorica.engines.native.token_tree import choice_tree
from lorica.models.cpu.cpu_decoder import AnyDecoder
from lorica.models.lora import LoraSpan
from lorica.records import ScoreChoices

MAX_LOGITS = 1 << 24
"""Computed at a time: 64 MiB in float32, whatever the vocabulary."""


@dataclass(frozen=True)
class ScoredTokens:
    """The tokens whose log-probabilities are wanted. rows: [P], ascending: the tokens of the batch that predict them.

    For each of the S scored tokens: row_index [S], the index into `rows` of the one that predicts it; tokens [S], its
    id; choice_index [S], its choice, counted through all requests.
    """

    rows: Tensor
    row_index: Tensor
    tokens: Tensor
    choice_index: Tensor


def find_scored_tokens(
    requests: Sequence[ScoreChoices], tree_starts: Sequence[int], device: torch.device
) -> ScoredTokens:
    """tree_starts[i]: where the token tree of request i begins in the batch, right behind its prompt."""
    rows: list[int] = []
    row_index: list[int] = []
    tokens: list[int] = []
    choice_index: list[int] = []
    choices = 0
    for request, tree_start in zip(requests, tree_starts, strict=True):
        prompt_row = len(rows)
        tree = choice_tree(request.choices)
        rows += range(tree_start - 1, tree_start + len(tree.tokens))
        for choice, path in zip(request.choices, tree.paths, strict=True):
            row_index += [prompt_row, *(prompt_row + 1 + node for node in path)]
            tokens += choice
            choice_index += [choices] * len(choice)
            choices += 1
    return ScoredTokens(*(torch.tensor(values, device=device) for values in (rows, row_index, tokens, choice_index)))


def align_scored_rows(scored: ScoredTokens, spans: Sequence[LoraSpan]) -> ScoredTokens:
    """The same scored tokens, with rows repeated so that those of every adapter, and all together, are multiples of
    `ROW_ALIGNMENT`.
    """
    rows: list[int] = scored.rows.tolist()
    span_edges = sorted({0, *(edge for span in spans for edge in (span.start, span.stop))})
    aligned_rows: list[int] = []
    aligned_index: list[int] = []  # of each of `rows`
    next_row = 0
    for edge in [*span_edges[1:], rows[-1] + 1]:
        first_row = next_row
        while next_row < len(rows) and rows[next_row] < edge:
            aligned_index.append(len(aligned_rows))
            aligned_rows.append(rows[next_row])
            next_row += 1
        if next_row > first_row:
            aligned_rows += [aligned_rows[-1]] * (-(next_row - first_row) % ROW_ALIGNMENT)
    device = scored.rows.device
    return replace(
        scored,
        rows=torch.tensor(aligned_rows, device=device),
        row_index=torch.tensor(aligned_index, device=device)[scored.row_index],
    )


def choice_logprobs(
    decoder: AnyDecoder, hidden: Tensor, requests: Sequence[ScoreChoices], scored: ScoredTokens
) -> list[list[float]]:
    """The summed natural-log probability of every choice of every request, over the full vocabulary.

    hidden: [P, hidden] of `scored.rows`.
    """
    token_logprobs = _token_logprobs(decoder, hidden, scored.row_index, scored.tokens)
    choices = sum(len(request.choices) for request in requests)
    sums = torch.zeros(choices, dtype=torch.float64, device=hidden.device)
    sums.index_add_(0, scored.choice_index, token_logprobs)
    logprobs = iter(sums.tolist())
    return [[next(logprobs) for _ in request.choices] for request in requests]


def _token_logprobs(decoder: AnyDecoder, hidden: Tensor, row_index: Tensor, tokens: Tensor) -> Tensor:
    """hidden [P, hidden]; row_index, tokens [S] -> float64 [S]: log p(tokens[i]) after hidden[row_index[i]]."""
    logprobs = torch.empty(len(tokens), dtype=torch.float64, device=hidden.device)
    used_rows = torch.tensor(sorted({*row_index.tolist()}), device=hidden.device)
    used_index = torch.searchsorted(used_rows, row_index)
    step = max(ROW_ALIGNMENT, MAX_LOGITS // decoder.config.vocab_size // ROW_ALIGNMENT * ROW_ALIGNMENT)
    for start in range(0, len(used_rows), step):
        rows = used_rows[start : start + step]
        padded_rows = torch.cat([rows, rows[-1:].expand(-len(rows) % ROW_ALIGNMENT)])
        # Not `logsumexp`, whose rounding depends on a row's place among all rows: this works row by row.
        row_logprobs = decoder.logits(hidden[padded_rows])[: len(rows)].float().log_softmax(dim=-1)
        in_step = ((used_index >= start) & (used_index < start + step)).nonzero().squeeze(1)
        logprobs[in_step] = row_logprobs[used_index[in_step] - start, tokens[in_step]].double()
    return logprobs
