"""Batch-invariant attention in torch's operators: every bit of a row's result depends on the row alone, not on the
other rows, on batches, or on which prefixes are shared.

A matrix product rounds alike for every number of rows that is a multiple of `ROW_ALIGNMENT`; attention rounds alike for
equal numbers of keys. So a row's tokens are counted from its beginning, whichever pass computed them; queries
i * TILE .. (i + 1) * TILE see exactly the keys 0 .. (i + 1) * TILE, masked. With `bmm_attention` a tile holds only the
queries that are there; the flash kernel always gets all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lorica.engines.native.attention.block import bmm_attention, grouped_attention
from lorica.engines.native.attention.prefix_merge import additive_mask
from lorica.engines.native.packed_batch import ROW_ALIGNMENT, PackedBatch, PackedSequence, Prefix, prefix_chain

TILE = 32
"""Queries of one attention call, and the step by which its keys grow; the flash kernel works in blocks of 32."""

MAX_SCORES = 1 << 20
"""Queries times keys times heads of one attention call: so many stay in the processor's cache."""


@dataclass(frozen=True)
class _TiledSequence:
    """A sequence of the batch. offset: its first token. prefix_keys [start]: its prefix in the key pool."""

    seq: PackedSequence
    offset: int
    prefix_keys: Tensor

    @property
    def first_tile(self) -> int:
        """The tile of its first token."""
        return self.seq.start // TILE

    @property
    def stop(self) -> int:
        """The position after its last token."""
        return self.seq.start + self.seq.length

    @property
    def tiles(self) -> int:
        """The number of tiles up to its last token."""
        return -(-self.stop // TILE)


@dataclass(frozen=True)
class _Tile:
    """The queries of one tile, of the first `rows` sequences of a group: a block of `block_rows` vectors for each
    sequence and key head, from the group's vector `start` on.

    masks: of each window, as `grouped_attention` takes them.
    """

    index: int
    rows: int
    start: int
    block_rows: int
    masks: dict[int | None, Tensor]


class _Group:
    """Sequences that begin in the same tile, those of most tiles first, whose keys are gathered together.

    tokens, outputs: a token of the batch, and where the group's output has its heads. vectors: the size of that output.
    """

    def __init__(
        self,
        members: Sequence[_TiledSequence],
        new_keys: int,
        windows: set[int | None],
        heads: tuple[int, int],
        dtype: torch.dtype,
        bmm: bool,
    ) -> None:
        """new_keys: where the keys of this forward pass begin in the key pool. heads: of queries, of keys."""
        query_heads, self._kv_heads = heads
        self._repeat, self._rows, self._bmm = query_heads // self._kv_heads, len(members), bmm
        max_keys = members[0].tiles * TILE
        device = members[0].prefix_keys.device
        # By sequence and position: the key in the pool (0 for none), and the token of the batch (-1 for none).
        pool_index = torch.zeros(len(members), max_keys, dtype=torch.long, device=device)
        token_index = torch.full((len(members), max_keys), -1, device=device)
        for row, member in enumerate(members):
            start, suffix = member.seq.start, torch.arange(member.seq.length, device=device)
            pool_index[row, :start] = member.prefix_keys
            pool_index[row, start : start + len(suffix)] = new_keys + member.offset + suffix
            token_index[row, start : start + len(suffix)] = member.offset + suffix
        kv_head = torch.arange(self._kv_heads, device=device)[:, None]
        self._key_gather = (pool_index[:, None] * self._kv_heads + kv_head).view(-1)
        self._tiles: list[_Tile] = []
        query_gathers, tokens, outputs, self.vectors = [], [], [], 0
        head = torch.arange(query_heads, device=device)
        for tile in range(members[0].first_tile, members[0].tiles):
            cells = token_index[: sum(member.tiles > tile for member in members), tile * TILE : (tile + 1) * TILE]
            queries = _used_columns(cells) if tile and bmm else slice(0, TILE)
            cells, count = cells[:, queries], queries.stop - queries.start
            # The heads of a key head stand below each other; the last query is repeated up to the row alignment.
            block_rows = -(-self._repeat * count // ROW_ALIGNMENT) * ROW_ALIGNMENT
            block_row = torch.arange(block_rows, device=device).clamp_(max=self._repeat * count - 1)
            block_head = kv_head * self._repeat + block_row // count
            query_gathers.append((cells.clamp(min=0)[:, None, block_row % count] * query_heads + block_head).view(-1))
            real = (cells >= 0).nonzero()
            tokens.append(cells[real[:, 0], real[:, 1]])
            block = real[:, :1] * self._kv_heads + head // self._repeat
            outputs.append(self.vectors + block * block_rows + head % self._repeat * count + real[:, 1:])
            masks = {
                window: additive_mask(_visible(members[: len(cells)], tile, window, device)[:, :, queries], dtype)
                for window in windows
            }
            self._tiles.append(_Tile(tile, len(cells), self.vectors, block_rows, masks))
            self.vectors += len(cells) * self._kv_heads * block_rows
        self._query_gather = torch.cat(query_gathers)
        self.tokens, self.outputs = torch.cat(tokens), torch.cat(outputs)

    def attend(self, window: int | None, query: Tensor, keys: Tensor, values: Tensor, out: Tensor) -> None:
        """query [T * H, Dh]; keys, values [P * Hkv, Dh], the pools -> out [vectors, Dh]."""
        head_dim = query.shape[1]
        query = query.index_select(0, self._query_gather)
        shape = (self._rows, self._kv_heads, -1, head_dim)
        key, value = (pool.index_select(0, self._key_gather).view(shape) for pool in (keys, values))
        centred_key: Tensor | None = None
        for tile in self._tiles:
            vectors = slice(tile.start, tile.start + tile.rows * self._kv_heads * tile.block_rows)
            tile_query = query[vectors].view(tile.rows, self._kv_heads, tile.block_rows, head_dim)
            tile_keys, mask = (slice(tile.rows), slice(None), slice((tile.index + 1) * TILE)), tile.masks[window]
            if tile.index and self._bmm:
                if centred_key is None:
                    # The mean of the first tile's keys: all later tiles have these, whichever pass computes them.
                    centred_key = key - key[:, :, :TILE].mean(2, keepdim=True)
                bmm_attention(
                    tile_query, centred_key[tile_keys], value[tile_keys], mask, out[vectors], repeat=self._repeat
                )
            else:
                grouped_attention(tile_query, key[tile_keys], value[tile_keys], mask, out[vectors], repeat=self._repeat)


class BatchInvariantAttention:
    """Attention of a forward pass over new sequences, for `Decoder.hidden`: what `PrefixMergeAttention` computes, with
    bits that never change.

    heads: of queries, of keys. bmm: by `bmm_attention`, where the keys of a tile can be centred.
    """

    def __init__(
        self,
        batch: PackedBatch,
        *,
        windows: Sequence[int | None],
        heads: tuple[int, int],
        dtype: torch.dtype,
        bmm: bool = False,
        max_scores: int = MAX_SCORES,
    ) -> None:
        self._windows = windows
        device = batch.tokens.device
        self._links: list[Prefix] = []
        link_starts: dict[int, int] = {}
        pool_size = 1  # the key pool begins with a key of zeros, for positions without one: a masked key may not be NaN
        for seq in batch.sequences:
            for link in prefix_chain(seq.prefix):
                if id(link) not in link_starts:
                    link_starts[id(link)] = pool_size
                    self._links.append(link)
                    pool_size += link.length
        tiled = [
            _TiledSequence(seq, offset, _prefix_keys(seq, link_starts, device))
            for seq, offset in zip(batch.sequences, batch.offsets, strict=True)
        ]
        self._groups = [
            _Group(members, pool_size, {*windows}, heads, dtype, bmm)
            for members in _group_by_first_tile(tiled, max_scores // heads[0])
        ]
        # [T, H]: token and head -> its vector in the outputs of all groups end to end; any vector for padding
        output_index = torch.zeros(len(batch.tokens), heads[0], dtype=torch.long, device=device)
        self._vectors = 0
        for group in self._groups:
            output_index[group.tokens] = group.outputs + self._vectors
            self._vectors += group.vectors
        self._output_index = output_index.view(-1)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """query [T, H, Dh], key and value [T, Hkv, Dh], rotated -> [T, H, Dh]."""
        keys = _pooled(key, [link.keys[layer] for link in self._links])
        values = _pooled(value, [link.values[layer] for link in self._links])
        head_dim = query.shape[2]
        by_head = query.reshape(-1, head_dim)
        output, start = by_head.new_empty(self._vectors, head_dim), 0
        for group in self._groups:
            group.attend(self._windows[layer], by_head, keys, values, output[start : start + group.vectors])
            start += group.vectors
        return output.index_select(0, self._output_index).view(query.shape)


def _group_by_first_tile(sequences: Sequence[_TiledSequence], max_scores: int) -> Iterator[list[_TiledSequence]]:
    """Sequences of one first tile, all with or all without token trees, with at most max_scores scores per head."""
    group: list[_TiledSequence] = []
    for member in sorted(sequences, key=lambda tiled: (tiled.first_tile, bool(tiled.seq.tree.tokens), -tiled.stop)):
        if group and (
            member.first_tile != group[0].first_tile
            or bool(member.seq.tree.tokens) != bool(group[0].seq.tree.tokens)
            or (len(group) + 1) * TILE * group[0].tiles * TILE > max_scores
        ):
            yield group
            group = []
        group.append(member)
    yield group


def _used_columns(cells: Tensor) -> slice:
    """cells [B, TILE], negative where there is no token: the range of columns with any."""
    used = (cells >= 0).any(0).nonzero()
    return slice(int(used[0]), int(used[-1]) + 1)


def _prefix_keys(seq: PackedSequence, link_starts: dict[int, int], device: torch.device) -> Tensor:
    chain = prefix_chain(seq.prefix)
    starts = [link_starts[id(link)] for link in chain]
    ranges = [torch.arange(a, a + link.length, device=device) for a, link in zip(starts, chain, strict=True)]
    return torch.cat(ranges) if ranges else torch.empty(0, dtype=torch.long, device=device)


def _pooled(new: Tensor, links: Sequence[Tensor]) -> Tensor:
    # new [T, Hkv, Dh], links [Hkv, L, Dh] -> [P * Hkv, Dh]
    pool = [torch.zeros_like(new[:1]), *(link.transpose(0, 1) for link in links), new]
    return torch.cat(pool).view(-1, new.shape[2])


def _visible(members: Sequence[_TiledSequence], tile: int, window: int | None, device: torch.device) -> Tensor:
    """[B or 1, 1, TILE, S]: which of the last S keys each query of a tile sees; all see the keys before. Every query
    sees itself at least, padding too.
    """
    key = torch.arange((tile + 1) * TILE, device=device)
    query = key[tile * TILE :, None]
    visible = query >= key
    if not members[0].seq.tree.tokens:
        return (visible[:, tile * TILE :] if window is None else visible & (query - key < window))[None, None]
    tables = torch.tensor([_tree_tables(member.seq, len(key)) for member in members], device=device)  # [B, 2, keys]
    subtree_end, position = tables[:, None, 0], tables[:, None, 1]
    visible = visible & (query < subtree_end)
    if window is not None:
        visible = visible & (position[:, :, tile * TILE :].transpose(1, 2) - position < window)
    return (visible | (query == key)).unsqueeze(1)


def _tree_tables(seq: PackedSequence, size: int) -> tuple[list[int], list[int]]:
    """For each of the first `size` keys: the first query that does not see it, and its position."""
    subtree_ends = [size] * seq.start + [seq.start + end for end in seq.subtree_ends()]
    positions = [*range(seq.start), *seq.positions()]
    return (subtree_ends + [size] * size)[:size], (positions + [0] * size)[:size]
