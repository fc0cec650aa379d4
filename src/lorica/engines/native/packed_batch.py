"""Sequences packed end to end into one forward pass: tokens, positions, LoRA spans, and the cached prefix of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lorica.engines.native.token_tree import EMPTY_TREE, TokenTree
from lorica.models.lora import LoraSpan, LoraWeights

ROW_ALIGNMENT = 16
"""For batch invariance the rows of every matrix product are padded to a multiple of this: kernels for few rows, and for
the remainders of many, round otherwise.
"""


@dataclass(frozen=True, eq=False)
class Prefix:
    """Keys and values of a shared prefix: one [Hkv, length, Dh] per layer, rotated. start: its first position."""

    parent: Prefix | None
    start: int
    length: int
    keys: list[Tensor]
    values: list[Tensor]

    @property
    def stop(self) -> int:
        """The position after its last token."""
        return self.start + self.length


def prefix_chain(prefix: Prefix | None) -> list[Prefix]:
    """A prefix and its ancestors, from the root on; none for no prefix."""
    return [] if prefix is None else [*prefix_chain(prefix.parent), prefix]


@dataclass(frozen=True, eq=False)
class PackedSequence:
    """One sequence of a packed batch; its tokens see `prefix` and the sequence itself.

    tree: choices that continue `tokens`, for tree attention.
    """

    tokens: tuple[int, ...]
    prefix: Prefix | None = None
    adapter: LoraWeights | None = None
    tree: TokenTree = EMPTY_TREE

    @property
    def start(self) -> int:
        """The position of the first token."""
        return 0 if self.prefix is None else self.prefix.stop

    @property
    def length(self) -> int:
        """Tokens in the batch, those of the tree included."""
        return len(self.tokens) + len(self.tree.tokens)

    def positions(self) -> list[int]:
        """The position of each token; the tree's roots follow the last of `tokens`."""
        stop = self.start + len(self.tokens)
        return [*range(self.start, stop), *(stop + depth for depth in self.tree.depths)]

    def subtree_ends(self) -> list[int]:
        """For each token, the first later token of the sequence that does not see it."""
        stem_length = len(self.tokens)
        return [self.length] * stem_length + [stem_length + node for node in self.tree.subtree_end]


@dataclass(frozen=True, eq=False)
class PackedBatch:
    """One forward pass over T tokens. tokens, positions: [T]. offsets[i]: the first token of sequences[i]."""

    sequences: Sequence[PackedSequence]
    offsets: list[int]
    tokens: Tensor
    positions: Tensor
    spans: list[LoraSpan]


def pack_sequences(sequences: Sequence[PackedSequence], device: torch.device, *, align: int = 1) -> PackedBatch:
    """Pack sequences end to end; neighbours with one adapter share a LoRA span.

    align: the tokens of neighbours with one adapter are padded to a multiple of this.
    """
    tokens: list[int] = []
    positions: list[int] = []
    offsets: list[int] = []
    padded_lengths: list[int] = []
    for index, seq in enumerate(sequences):
        offsets.append(len(tokens))
        tokens += seq.tokens + seq.tree.tokens
        positions += seq.positions()
        if index + 1 == len(sequences) or sequences[index + 1].adapter is not seq.adapter:
            padding = [0] * (-len(tokens) % align)
            tokens += padding
            positions += padding
        padded_lengths.append(len(tokens) - offsets[-1])
    return PackedBatch(
        sequences,
        offsets,
        torch.tensor(tokens, device=device),
        torch.tensor(positions, device=device),
        lora_spans([seq.adapter for seq in sequences], padded_lengths),
    )


def lora_spans(adapters: Sequence[LoraWeights | None], lengths: Sequence[int]) -> list[LoraSpan]:
    """The token ranges of packed sequences by adapter, joined where neighbours have the same; none for the base."""
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
