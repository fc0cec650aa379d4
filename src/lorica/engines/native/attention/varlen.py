"""Attention on a GPU by torch's flash kernel for sequences laid end to end: nothing is padded, nothing is masked.

One call for all own parts, one for each level of shared beginnings, merged exactly by log-sum-exp.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate

import torch
from torch import Tensor

from lorica.engines.native.attention.block import plain_block
from lorica.engines.native.attention.prefix_merge import Keep
from lorica.engines.native.packed_batch import Pass, Prefix
from lorica.models.families import DecoderConfig

GPU = "cuda"
"""The type of the devices that have the kernel."""


def attend_varlen(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    queries: Ends,
    keys: Ends,
    *,
    causal: bool = False,
    used: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """query [T, H, Dh], key and value [K, Hkv, Dh] -> output [T, H, Dh], float32 log-sum-exp [T, H].

    Sequence i has the queries and the keys between its ends. causal: as many of both, and query j sees keys 0..j.
    used: how many of a sequence's keys are there, [N] int32. A query that sees no key is undefined here.
    """
    from torch.nn.attention.varlen import AuxRequest, varlen_attn  # not on every platform, and slow to import

    output, total = varlen_attn(
        query,
        key,
        value,
        queries.places,
        keys.places,
        queries.longest,
        keys.longest,
        return_aux=AuxRequest(lse=True),
        window_size=(-1, 0) if causal else (-1, -1),
        enable_gqa=query.shape[1] != key.shape[1],
        seqused_k=used,
    )
    return output, total.t()  # [H, T], whatever its documentation says


class Ends:
    """Where sequences laid end to end begin and end: places [N + 1] int32, on the device. No length is over longest."""

    def __init__(self, places: Tensor, longest: int) -> None:
        self.places, self.longest = places, longest

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device) -> Ends:
        """Of sequences of these lengths."""
        return cls(torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device), max(lengths))


def fits_varlen(config: DecoderConfig, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether the kernel is there, right, and does all that this model needs."""
    if device.type != GPU or any(window is not None for window in config.windows):
        return False
    return has_varlen(config.heads, config.kv_heads, config.head_dim, dtype, device)


@cache
def has_varlen(heads: int, kv_heads: int, head_dim: int, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether the kernel gives what public operators give, on small cases of each kind in which it is used.

    It wants float16 or bfloat16, a head of up to 256 in steps of 8, and a GPU of 2020 or later.
    """
    generator = torch.Generator().manual_seed(0)

    def some(tokens: int, count: int) -> Tensor:
        return torch.randn(tokens, count, head_dim, generator=generator).to(device, dtype)

    def case(queries: list[int], keys: list[int]) -> _Case:
        count, seen = sum(queries), sum(keys)
        return _Case(some(count, heads), some(seen, kv_heads), some(seen, kv_heads), queries, keys)

    try:
        return (
            case([5, 2], [5, 2]).is_right(causal=True)
            and case([3, 4], [1, 11]).is_right()
            and case([1, 1], [8, 8]).is_right(used=[3, 8])
        )
    except (AttributeError, ImportError, NotImplementedError, RuntimeError, TypeError, ValueError):
        return False


@dataclass(frozen=True)
class _Case:
    """Sequences of so many queries and keys each."""

    query: Tensor
    key: Tensor
    value: Tensor
    queries: list[int]
    keys: list[int]

    def is_right(self, *, causal: bool = False, used: list[int] | None = None) -> bool:
        """Whether the kernel gives what public operators give for each sequence."""
        device = self.query.device
        found, total = attend_varlen(
            self.query,
            self.key,
            self.value,
            Ends.of(self.queries, device),
            Ends.of(self.keys, device),
            causal=causal,
            used=None if used is None else torch.tensor(used, dtype=torch.int32, device=device),
        )
        right, first, of_keys = True, 0, 0
        for queries, keys, there in zip(self.queries, self.keys, used or self.keys, strict=True):
            asked, seen = slice(first, first + queries), slice(of_keys, of_keys + there)
            given = (
                each.transpose(0, 1).unsqueeze(0) for each in (self.query[asked], self.key[seen], self.value[seen])
            )
            output, sums = plain_block(*given, causal=causal)
            right &= torch.allclose(found[asked].float(), output[0].transpose(0, 1).float(), atol=0.03, rtol=0.03)
            right &= torch.allclose(total[asked], sums[0].t(), atol=0.03, rtol=0.03)
            first, of_keys = first + queries, of_keys + keys
        return right


class VarlenAttention:
    """Attention of a pass over new sequences without branches, for `Decoder.hidden`; only where `fits_varlen`."""

    def __init__(self, work: Pass, *, keep: Keep | None = None) -> None:
        self._keep = keep
        device = work.tokens.device
        # What fills up a span is no piece's, but must be some sequence's: the one before.
        stops = [*work.offsets[1:], len(work.tokens)]
        self._own = Ends.of([stop - start for start, stop in zip(work.offsets, stops, strict=True)], device)
        self._levels = levels_of(
            [piece.prefix for piece in work.pieces], [piece.length for piece in work.pieces], work.offsets, device
        )

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """query [T, H, Dh], or of no rows; key and value [T, Hkv, Dh], rotated -> [T, H, Dh]."""
        if self._keep is not None:
            self._keep(layer, key, value)
        if not len(query):
            return query
        output, total = attend_varlen(query, key, value, self._own, self._own, causal=True)
        for level in self._levels:
            total = level.merge(layer, query, output, total)
        return output


class Level:
    """The links at one depth of all chains: each is seen by a range of the queries. tokens: those of the ranges."""

    def __init__(self, links: Sequence[Prefix], ranges: Sequence[tuple[int, int]], device: torch.device) -> None:
        self._links = links
        self._tokens = torch.cat([torch.arange(start, stop, device=device) for start, stop in ranges])
        self._queries = Ends.of([stop - start for start, stop in ranges], device)
        self._keys = Ends.of([link.length for link in links], device)

    def merge(self, layer: int, query: Tensor, output: Tensor, total: Tensor) -> Tensor:
        """Add what these links contribute to output [T, H, Dh], in place; total [T, H] -> the log-sum-exp with them."""
        key, value = self._joined("keys", layer), self._joined("values", layer)
        found, weight = attend_varlen(query[self._tokens], key, value, self._queries, self._keys)
        before = total[self._tokens]
        share = torch.sigmoid(weight - before).unsqueeze(-1)
        output[self._tokens] = torch.lerp(output[self._tokens], found, share.to(found.dtype))
        return total.index_put((self._tokens,), torch.logaddexp(before, weight))

    def _joined(self, kind: str, layer: int) -> Tensor:
        parts = [getattr(link, kind)[layer].transpose(0, 1) for link in self._links]  # [L, Hkv, Dh]
        return parts[0] if len(parts) == 1 else torch.cat(parts)


def levels_of(
    prefixes: Sequence[Prefix | None], lengths: Sequence[int], offsets: Sequence[int], device: torch.device
) -> list[Level]:
    """The levels of sequences laid end to end: neighbours below the same link share its keys."""
    found: list[tuple[list[Prefix], list[tuple[int, int]]]] = []
    for prefix, length, start in zip(prefixes, lengths, offsets, strict=True):
        for depth, link in enumerate([] if prefix is None else prefix.chain()):
            if depth == len(found):
                found.append(([], []))
            links, ranges = found[depth]
            if links and links[-1] is link and ranges[-1][1] == start:
                ranges[-1] = ranges[-1][0], start + length
            else:
                links.append(link)
                ranges.append((start, start + length))
    return [Level(links, ranges, device) for links, ranges in found]
