"""Attention among the packed tokens of one forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from lorica.models.families import DecoderConfig

# Sequences at least this fraction of the longest beside them share one padded call; below it, padding costs
# more than another call.
_SIMILAR = 0.7


class Attention(Protocol):
    """One object per forward pass; it alone knows sequences, masks and KV caches."""

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """query [T, H, Dh], key and value [T, Hkv, Dh], rotated -> [T, H, Dh].

        With a query [0, H, Dh] only key and value are stored, where this attention has a cache.
        """
        ...


class PackedAttention:
    """Causal attention within each of several packed sequences (varlen); none sees another.

    Sequences of similar length are padded to one batch, only here: padding is on the right, so the causal mask
    alone hides it.
    """

    def __init__(self, lengths: Sequence[int], config: DecoderConfig, device: torch.device | str | None = None) -> None:
        """lengths: tokens of each sequence, in packed order; their sum is T."""
        self._windows = config.windows
        longest_first = sorted(range(len(lengths)), key=lambda index: -lengths[index])
        starts = [0, *accumulate(lengths)][:-1]
        self._batches: list[_Batch] = []
        while longest_first:
            similar = sum(lengths[index] >= _SIMILAR * lengths[longest_first[0]] for index in longest_first)
            members, longest_first = sorted(longest_first[:similar]), longest_first[similar:]
            self._batches.append(
                _Batch([starts[i] for i in members], [lengths[i] for i in members], config.windows, device)
            )
        self._order: Tensor | None = None
        if len(self._batches) > 1:
            self._order = torch.argsort(torch.cat([batch.tokens for batch in self._batches]))

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """query [T, H, Dh], key and value [T, Hkv, Dh] -> [T, H, Dh]."""
        window_size = self._windows[layer]
        outputs = [batch.attend(query, key, value, window_size) for batch in self._batches]
        return outputs[0] if self._order is None else torch.cat(outputs).index_select(0, self._order)


class _Batch:
    """Some of the packed sequences as a padded batch of B rows and L columns."""

    def __init__(
        self,
        starts: Sequence[int],
        lengths: Sequence[int],
        windows: Sequence[int | None],
        device: torch.device | str | None,
    ) -> None:
        self._shape = (len(lengths), max(lengths))
        columns = torch.arange(self._shape[1], device=device)
        first_tokens = torch.tensor(starts, device=device)[:, None]
        is_token = columns < torch.tensor(lengths, device=device)[:, None]  # [B, L]
        token_indices = torch.where(is_token, first_tokens + columns, first_tokens).reshape(-1)
        self._inside = None if len(set(lengths)) == 1 else is_token.reshape(-1).nonzero().squeeze(1)
        # Where each of the results stood among the packed tokens.
        self.tokens = token_indices if self._inside is None else token_indices[self._inside]
        adjacent = all(start + self._shape[1] == following for start, following in pairwise(starts))
        self._slice = slice(starts[0], starts[-1] + self._shape[1])
        self._cells = None if self._inside is None and adjacent else token_indices
        distance = columns[:, None] - columns[None, :]
        self._masks = {
            window_size: (distance >= 0) & (distance < window_size)
            for window_size in {*windows}
            if window_size is not None and window_size < self._shape[1]
        }

    def attend(self, query: Tensor, key: Tensor, value: Tensor, window: int | None) -> Tensor:
        # [T, H or Hkv, Dh] -> [tokens of this batch, H, Dh]
        window_mask = None if window is None else self._masks.get(window)
        query, key, value = self._pad(query), self._pad(key), self._pad(value)
        grouped_queries = key.shape[1] != query.shape[1]
        if grouped_queries and query.device.type != "cpu":
            # Some of the GPU's kernels know no grouped queries, and the rest would fall back to a slow one.
            repeat = query.shape[1] // key.shape[1]
            key, value = key.repeat_interleave(repeat, dim=1), value.repeat_interleave(repeat, dim=1)
            grouped_queries = False
        attended = F.scaled_dot_product_attention(
            query, key, value, attn_mask=window_mask, is_causal=window_mask is None, enable_gqa=grouped_queries
        )
        flat_output = attended.transpose(1, 2).flatten(0, 1)  # [B * L, H, Dh]
        return flat_output if self._inside is None else flat_output.index_select(0, self._inside)

    def _pad(self, x: Tensor) -> Tensor:
        # [T, H, Dh] -> [B, H, L, Dh]
        token_indices = x[self._slice] if self._cells is None else x.index_select(0, self._cells)
        return token_indices.view(*self._shape, *x.shape[1:]).transpose(1, 2)
