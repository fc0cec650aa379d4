"""Log-probabilities of choices from one forward pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lorica.engines.native.token_tree import choice_tree
from lorica.models.cpu.cpu_decoder import AnyDecoder
from lorica.models.lora import LoraSpan
from lorica.records import ScoreChoices

MAX_LOGITS = 1 << 24
"""Computed at a time: 64 MiB in float32, whatever the vocabulary."""

_NORMALIZED_LOGITS = 1 << 18  # at a time, on a CPU: 1 MiB in float32, which stays in the cache; few calls on a GPU


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


def align_scored_rows(scored: ScoredTokens, spans: Sequence[LoraSpan], alignment: int) -> ScoredTokens:
    """The same scored tokens, with rows repeated so that those of every adapter, and all together, are multiples of
    `alignment`.
    """
    if alignment == 1:
        return scored
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
            aligned_rows += [aligned_rows[-1]] * (-(next_row - first_row) % alignment)
    device = scored.rows.device
    return replace(
        scored,
        rows=torch.tensor(aligned_rows, device=device),
        row_index=torch.tensor(aligned_index, device=device)[scored.row_index],
    )


def choice_logprobs(
    decoder: AnyDecoder, hidden: Tensor, requests: Sequence[ScoreChoices], scored: ScoredTokens, alignment: int
) -> list[list[float]]:
    """The summed natural-log probability of every choice of every request, over the full vocabulary.

    hidden: [P, hidden] of `scored.rows`. alignment: of the rows of products with the head.
    """
    token_logprobs = _token_logprobs(decoder, hidden, scored.row_index, scored.tokens, alignment)
    choices = sum(len(request.choices) for request in requests)
    sums = torch.zeros(choices, dtype=torch.float64, device=hidden.device)
    sums.index_add_(0, scored.choice_index, token_logprobs)
    logprobs = iter(sums.tolist())
    return [[next(logprobs) for _ in request.choices] for request in requests]


def _token_logprobs(decoder: AnyDecoder, hidden: Tensor, row_index: Tensor, tokens: Tensor, alignment: int) -> Tensor:
    """hidden [P, hidden]; row_index, tokens [S] -> float64 [S]: log p(tokens[i]) after hidden[row_index[i]]."""
    logprobs = torch.empty(len(tokens), dtype=torch.float64, device=hidden.device)
    used_rows = torch.tensor(sorted({*row_index.tolist()}), device=hidden.device)
    used_index = torch.searchsorted(used_rows, row_index)
    step = max(alignment, MAX_LOGITS // decoder.config.vocab_size // alignment * alignment)
    for start in range(0, len(used_rows), step):
        rows = used_rows[start : start + step]
        padded_rows = torch.cat([rows, rows[-1:].expand(-len(rows) % alignment)])
        logits = decoder.logits(hidden[padded_rows])[: len(rows)]
        for first, block in _row_blocks(logits):
            # Not `logsumexp`, whose rounding depends on a row's place among all rows: this works row by row.
            row_logprobs = block.float().log_softmax(dim=-1)
            index = used_index - (start + first)
            in_block = ((index >= 0) & (index < len(block))).nonzero().squeeze(1)
            logprobs[in_block] = row_logprobs[index[in_block], tokens[in_block]].double()
        if logits.dtype != torch.float32:
            in_step = ((used_index >= start) & (used_index < start + len(rows))).nonzero().squeeze(1)
            step_index, step_tokens = used_index[in_step] - start, tokens[in_step]
            exact = decoder.token_logits(hidden[row_index[in_step]], step_tokens)
            if exact is not None:
                rounded = logits[step_index, step_tokens].double()
                logprobs[in_step] = _unrounded(logprobs[in_step], rounded, exact, step_index, step_tokens)
    return logprobs


def _unrounded(
    logprobs: Tensor, rounded_logits: Tensor, exact_logits: Tensor, row_index: Tensor, tokens: Tensor
) -> Tensor:
    """Log-probabilities with the exact logits of the scored tokens in place of the rounded ones; all float64 [S].

    In bfloat16 a logit near 16 is a multiple of 1/8: rows that the model tells apart would get one score. What is
    summed over the rest of the vocabulary stays as it is, since there errors cancel.
    """
    pairs, pair_index = torch.unique(torch.stack((row_index, tokens)), dim=1, return_inverse=True)
    first = torch.empty(pairs.shape[1], dtype=torch.int64, device=tokens.device)
    first[pair_index] = torch.arange(len(tokens), device=tokens.device)  # any one of equal pairs
    normalizers = rounded_logits - logprobs
    rows = int(row_index.max()) + 1
    scored_rounded, scored_exact = logprobs.new_zeros(rows), logprobs.new_zeros(rows)
    scored_rounded.index_add_(0, pairs[0], (rounded_logits - normalizers)[first].exp())
    scored_exact.index_add_(0, pairs[0], (exact_logits - normalizers)[first].exp())
    total = ((1 - scored_rounded).clamp(min=0) + scored_exact).float().double()  # a GPU adds in no fixed order
    return exact_logits - normalizers - total.log()[row_index]


def _row_blocks(logits: Tensor) -> Iterator[tuple[int, Tensor]]:
    """logits [N, vocab_size] -> the first row of each block, and the block: a wider copy of all is never there."""
    size = max(1, _NORMALIZED_LOGITS // logits.shape[1]) if logits.device.type == "cpu" else max(1, len(logits))
    for first in range(0, len(logits), size):
        yield first, logits[first : first + size]
