"""Attention on a GPU by torch's varlen flash kernel, for packed sequences: nothing is padded, nothing is masked.

One call for all suffixes, one for each level of the prefix tree, merged exactly by log-sum-exp.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import accumulate

import torch
from torch import Tensor

from lorica.engines.native.attention.block import plain_block
from lorica.engines.native.packed_batch import PackedBatch, Prefix, prefix_chain
from lorica.models.families import DecoderConfig

GPU = "cuda"
"""The type of the devices that have the kernel."""


def attend_varlen(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    queries: SequenceBounds,
    keys: SequenceBounds,
    *,
    causal: bool = False,
    used_keys: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """query [T, H, Dh], key and value [K, Hkv, Dh] -> output [T, H, Dh], float32 log-sum-exp [T, H].

    queries, keys: of each sequence. causal: as many of both, and query i sees keys 0..i. used_keys: how many of a
    sequence's keys are there, [N] int32. The output of a query that sees no key is undefined.
    """
    from torch.nn.attention.varlen import AuxRequest, varlen_attn  # not on every platform, and slow to import

    output, logsumexp = varlen_attn(
        query,
        key,
        value,
        queries.cumulative,
        keys.cumulative,
        queries.max_length,
        keys.max_length,
        return_aux=AuxRequest(lse=True),
        window_size=(-1, 0) if causal else (-1, -1),
        enable_gqa=query.shape[1] != key.shape[1],
        seqused_k=used_keys,
    )
    return output, logsumexp.t()  # [H, T], whatever its documentation says


class SequenceBounds:
    """Where packed sequences begin and end: cumulative lengths [N + 1] int32, on the device. max_length: a bound."""

    def __init__(self, cumulative: Tensor, max_length: int) -> None:
        self.cumulative, self.max_length = cumulative, max_length

    @classmethod
    def of_lengths(cls, lengths: Sequence[int], device: torch.device) -> SequenceBounds:
        """Of sequences of these lengths."""
        return cls(torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device), max(lengths))


def fits_varlen(config: DecoderConfig, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether the kernel is there, right, and does all that this model needs."""
    if device.type != GPU or any(window is not None for window in config.windows):
        return False
    return has_varlen(config.heads, config.kv_heads, config.head_dim, dtype, device)


@cache
def has_varlen(heads: int, kv_heads: int, head_dim: int, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether the kernel gives what public operators give, on a small case of each use.

    It wants float16 or bfloat16, a head of up to 256 in steps of 8, and a GPU of 2020 or later.
    """
    generator = torch.Generator().manual_seed(0)

    def agrees(
        queries: list[int], keys: list[int], *, causal: bool = False, used_keys: list[int] | None = None
    ) -> bool:
        query, key, value = (
            torch.randn(sum(lengths), head_count, head_dim, generator=generator).to(device, dtype)
            for lengths, head_count in ((queries, heads), (keys, kv_heads), (keys, kv_heads))
        )
        bounds = (SequenceBounds.of_lengths(queries, device), SequenceBounds.of_lengths(keys, device))
        used = None if used_keys is None else torch.tensor(used_keys, dtype=torch.int32, device=device)
        output, logsumexp = attend_varlen(query, key, value, *bounds, causal=causal, used_keys=used)
        is_right = True
        tensors = (torch.split(query, queries), torch.split(key, keys), torch.split(value, keys))
        sequences = zip(*tensors, used_keys or keys, strict=True)
        actual = zip(torch.split(output, queries), torch.split(logsumexp, queries), strict=True)
        for (q, k, v, length), (seq_output, seq_logsumexp) in zip(sequences, actual, strict=True):
            batch_of_one = (tensor.transpose(0, 1).unsqueeze(0) for tensor in (q, k[:length], v[:length]))
            expected, expected_logsumexp = plain_block(*batch_of_one, causal=causal)
            is_right &= torch.allclose(seq_output.float(), expected[0].transpose(0, 1).float(), atol=0.03, rtol=0.03)
            is_right &= torch.allclose(seq_logsumexp, expected_logsumexp[0].t(), atol=0.03, rtol=0.03)
        return is_right

    try:
        agree = agrees([5, 2], [5, 2], causal=True) and agrees([3, 4], [1, 11])
        return agree and agrees([1, 1], [8, 8], used_keys=[3, 8])
    except (AttributeError, ImportError, NotImplementedError, RuntimeError, TypeError, ValueError):
        return False


class VarlenAttention:
    """Attention of a forward pass over new sequences without token trees, for `Decoder.hidden`; where `fits_varlen`."""

    def __init__(self, batch: PackedBatch) -> None:
        device = batch.tokens.device
        # Padding belongs to no sequence, but the kernel needs it in one: the sequence before.
        stops = [*batch.offsets[1:], len(batch.tokens)]
        lengths = [stop - start for start, stop in zip(batch.offsets, stops, strict=True)]
        self._suffixes = SequenceBounds.of_lengths(lengths, device)
        self._levels = prefix_levels(
            [seq.prefix for seq in batch.sequences], [seq.length for seq in batch.sequences], batch.offsets, device
        )

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """query [T, H, Dh], key and value [T, Hkv, Dh], rotated -> [T, H, Dh]."""
        output, logsumexp = attend_varlen(query, key, value, self._suffixes, self._suffixes, causal=True)
        for level in self._levels:
            logsumexp = level.merge(layer, query, output, logsumexp)
        return output


class PrefixLevel:
    """The prefixes at one depth of the prefix tree, each seen by one range of the queries."""

    def __init__(
        self, prefixes: Sequence[Prefix], query_ranges: Sequence[tuple[int, int]], device: torch.device
    ) -> None:
        self._prefixes = prefixes
        self._tokens = torch.cat([torch.arange(start, stop, device=device) for start, stop in query_ranges])
        self._queries = SequenceBounds.of_lengths([stop - start for start, stop in query_ranges], device)
        self._keys = SequenceBounds.of_lengths([prefix.length for prefix in prefixes], device)

    def merge(self, layer: int, query: Tensor, output: Tensor, logsumexp: Tensor) -> Tensor:
        """Add these prefixes to output [T, H, Dh], in place; logsumexp [T, H] -> that with them."""
        key, value = self._packed("keys", layer), self._packed("values", layer)
        level_output, level_logsumexp = attend_varlen(query[self._tokens], key, value, self._queries, self._keys)
        previous = logsumexp[self._tokens]
        weight = torch.sigmoid(level_logsumexp - previous).unsqueeze(-1).to(level_output.dtype)
        output[self._tokens] = torch.lerp(output[self._tokens], level_output, weight)
        return logsumexp.index_put((self._tokens,), torch.logaddexp(previous, level_logsumexp))

    def _packed(self, side: str, layer: int) -> Tensor:
        tensors = [getattr(prefix, side)[layer].transpose(0, 1) for prefix in self._prefixes]  # [L, Hkv, Dh]
        return tensors[0] if len(tensors) == 1 else torch.cat(tensors)


def prefix_levels(
    prefixes: Sequence[Prefix | None], lengths: Sequence[int], offsets: Sequence[int], device: torch.device
) -> list[PrefixLevel]:
    """The levels of packed sequences: neighbours below the same prefix share its keys."""
    levels: list[tuple[list[Prefix], list[tuple[int, int]]]] = []
    for prefix, length, start in zip(prefixes, lengths, offsets, strict=True):
        for depth, link in enumerate(prefix_chain(prefix)):
            if depth == len(levels):
                levels.append(([], []))
            links, query_ranges = levels[depth]
            if links and links[-1] is link and query_ranges[-1][1] == start:
                query_ranges[-1] = query_ranges[-1][0], start + length
            else:
                links.append(link)
                query_ranges.append((start, start + length))
    return [PrefixLevel(links, query_ranges, device) for links, query_ranges in levels]
