"""Sequences laid end to end for one pass: tokens, positions, adapters' spans, and what lies before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lorica.models.lora import LoraSpan, LoraWeights


@dataclass(frozen=True, eq=False)
class Prefix:
    """A computed shared beginning. keys, values: one [Hkv, length, Dh] per layer, rotated. start: its first
    position.
    """

    parent: Prefix | None
    start: int
    length: int
    keys: list[Tensor]
    values: list[Tensor]

    @property
    def stop(self) -> int:
        """The position after its last token."""
        return self.start + self.length

    def chain(self) -> list[Prefix]:
        """Itself and its ancestors, the oldest first."""
        older = [] if self.parent is None else self.parent.chain()
        return [*older, self]


@dataclass(frozen=True, eq=False)
class Piece:
    """One sequence of a pass, which sees `prefix`, itself, and nothing else.

    branches: alternative continuations; each follows `tokens` directly and does not see the other branches.
    """

    tokens: tuple[int, ...]
    prefix: Prefix | None = None
    adapter: LoraWeights | None = None
    branches: tuple[tuple[int, ...], ...] = ()

    @property
    def start(self) -> int:
        """The position of the first token."""
        return 0 if self.prefix is None else self.prefix.stop

    @property
    def length(self) -> int:
        """Tokens it takes in the pass."""
        return len(self.tokens) + sum(map(len, self.branches))

    def positions(self) -> list[int]:
        """The position of each of its tokens; every branch goes on where `tokens` end."""
        end = self.start + len(self.tokens)
        found = list(range(self.start, end))
        for branch in self.branches:
            found += range(end, end + len(branch))
        return found

    def branch_numbers(self) -> list[int]:
        """0 for each of `tokens`, n for the tokens of the n-th branch."""
        found = [0] * len(self.tokens)
        for number, branch in enumerate(self.branches, 1):
            found += [number] * len(branch)
        return found


@dataclass(frozen=True, eq=False)
class Pass:
    """One forward pass over T tokens. tokens, positions: [T]. offsets[i]: where pieces[i] begins."""

    pieces: Sequence[Piece]
    offsets: list[int]
    tokens: Tensor
    positions: Tensor
    spans: list[LoraSpan]


def pack(pieces: Sequence[Piece], device: torch.device) -> Pass:
    """Lay the pieces end to end. Neighbours of one adapter share a span."""
    tokens: list[int] = []
    positions: list[int] = []
    offsets: list[int] = []
    for piece in pieces:
        offsets.append(len(tokens))
        tokens += piece.tokens
        for branch in piece.branches:
            tokens += branch
        positions += piece.positions()
    return Pass(
        pieces,
        offsets,
        torch.tensor(tokens, device=device),
        torch.tensor(positions, device=device),
        find_spans([piece.adapter for piece in pieces], [piece.length for piece in pieces]),
    )


def find_spans(adapters: Sequence[LoraWeights | None], lengths: Sequence[int]) -> list[LoraSpan]:
    """The token ranges of sequences laid end to end, joined where neighbours have one adapter; the base has
    none.
    """
    spans: list[LoraSpan] = []
    start = 0
    for adapter, length in zip(adapters, lengths, strict=True):
        stop = start + length
        if adapter is not None:
            if spans and spans[-1].adapter is adapter and spans[-1].stop == start:
                spans[-1] = LoraSpan(adapter, spans[-1].start, stop)
            else:
                spans.append(LoraSpan(adapter, start, stop))
        start = stop
    return spans
