"""Sequences laid end to end for one pass: tokens, positions, adapters' spans, and what lies before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lorica.engines.native.token_tree import NO_BRANCHES, Branches
from lorica.models.lora import LoraSpan, LoraWeights

ALIGNMENT = 16
"""Rows of every matrix product are a multiple of this where bits matter: kernels for few rows, and for the remainders
of many, round otherwise.
"""


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

    branches: alternative continuations, which follow `tokens` and do not see each other.
    """

    tokens: tuple[int, ...]
    prefix: Prefix | None = None
    adapter: LoraWeights | None = None
    branches: Branches = NO_BRANCHES

    @property
    def start(self) -> int:
        """The position of the first token."""
        return 0 if self.prefix is None else self.prefix.stop

    @property
    def length(self) -> int:
        """Tokens it takes in the pass."""
        return len(self.tokens) + len(self.branches.tokens)

    def positions(self) -> list[int]:
        """The position of each of its tokens; every branch goes on where `tokens` end."""
        end = self.start + len(self.tokens)
        return [*range(self.start, end), *(end + depth for depth in self.branches.depths)]

    def until(self) -> list[int]:
        """For each of its tokens, the first one behind it that does not see it any more, nor do later ones."""
        end = len(self.tokens)
        return [self.length] * end + [end + node for node in self.branches.until]


@dataclass(frozen=True, eq=False)
class Pass:
    """One forward pass over T tokens. tokens, positions: [T]. offsets[i]: where pieces[i] begins."""

    pieces: Sequence[Piece]
    offsets: list[int]
    tokens: Tensor
    positions: Tensor
    spans: list[LoraSpan]


def pack(pieces: Sequence[Piece], device: torch.device, *, align: int = 1) -> Pass:
    """Lay the pieces end to end. Neighbours of one adapter share a span.

    align: the tokens of neighbours of one adapter are filled up to a multiple of this with tokens of no piece.
    """
    tokens: list[int] = []
    positions: list[int] = []
    offsets: list[int] = []
    lengths: list[int] = []
    for index, piece in enumerate(pieces):
        offsets.append(len(tokens))
        tokens += piece.tokens + piece.branches.tokens
        positions += piece.positions()
        if index + 1 == len(pieces) or pieces[index + 1].adapter is not piece.adapter:
            filling = [0] * (-len(tokens) % align)
            tokens += filling
            positions += filling
        lengths.append(len(tokens) - offsets[-1])
    return Pass(
        pieces,
        offsets,
        torch.tensor(tokens, device=device),
        torch.tensor(positions, device=device),
        find_spans([piece.adapter for piece in pieces], lengths),
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
