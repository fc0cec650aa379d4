"""Attention whose every bit depends on the row alone: not on other rows, on batches, or on what was shared.

A matrix product rounds alike for every number of rows from `ALIGNMENT` on, in steps of it; the attention kernel rounds
alike for equal numbers of keys. So a row's tokens are counted from its beginning, whoever computed them; queries
i * TILE .. (i + 1) * TILE see exactly the keys 0 .. (i + 1) * TILE, masked, in one call of fixed shape per row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lorica.engines.native.attention import Keep, additive
from lorica.engines.native.block import attend_heads
from lorica.engines.native.pack import ALIGNMENT, Pass, Piece, Prefix
from lorica.engines.native.score import Scored
from lorica.models.lora import LoraSpan

TILE = 32
"""Queries of one attention call, and the step in which its keys grow; the kernel works in blocks of 32 queries."""

_SCORES = 1 << 20
"""Queries times keys of one attention call, all heads counted: what is computed of them stays in the cache."""


@dataclass(frozen=True)
class _Tile:
    """Tokens number * TILE .. of one piece's whole sequence, of which this pass computes `queries`.

    cells [TILE]: where each query stands in the pass, -1 for none. keys [(number + 1) * TILE]: in the pool, 0 for none.
    """

    piece: Piece
    number: int
    cells: list[int]
    keys: list[int]


@dataclass(frozen=True)
class _Heads:
    """of the queries, of the keys."""

    query: int
    key: int


class _Call:
    """Tiles of one number, in one attention call. pool: keys in it."""

    def __init__(
        self, tiles: Sequence[_Tile], windows: set[int | None], heads: _Heads, pool: int, like: Tensor
    ) -> None:
        device = like.device
        self._tiles, self._heads = len(tiles), heads
        self._settled = tiles[0].number * TILE  # keys that are there whoever computes the tile
        cells = torch.tensor([tile.cells for tile in tiles], device=device)
        each = torch.arange(heads.query, device=device)[:, None]
        self._query = (cells.clamp(min=0)[:, None] * heads.query + each).view(-1)
        keys = torch.tensor([tile.keys for tile in tiles], device=device)
        self._pool = (keys[:, None] + torch.arange(heads.key, device=device)[:, None] * pool).view(-1)
        real = (cells >= 0).nonzero()
        self.tokens = cells[real[:, 0], real[:, 1]]
        # [real, H]: where each query's heads stand in what `attend` returns
        self.places = ((real[:, :1] * heads.query + each.view(1, -1)) * TILE) + real[:, 1:]
        self._masks = {window: additive(_hidden_part(tiles, window, device), like.dtype) for window in windows}

    @property
    def slots(self) -> int:
        """Vectors that `attend` returns."""
        return self._tiles * self._heads.query * TILE

    def attend(self, window: int | None, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """query [T * H, Dh]; keys, values [Hkv * P, Dh], the pool -> [slots, Dh]."""
        held = (self._tiles, self._heads.key, -1, query.shape[1])
        found = attend_heads(
            query.index_select(0, self._query).view(*held[:2], self._heads.query // self._heads.key, TILE, -1),
            keys.index_select(0, self._pool).view(held),
            values.index_select(0, self._pool).view(held),
            self._masks[window],
            self._settled,
        )
        return found.view(-1, query.shape[1])


class TiledAttention:
    """Attention of a pass over new sequences, for `Decoder.hidden`: `SharedAttention`, with bits that never change.

    heads: of queries and of keys. like: a tensor of the device and the precision of keys.
    """

    def __init__(
        self,
        work: Pass,
        windows: Sequence[int | None],
        like: Tensor,
        *,
        heads: tuple[int, int],
        keep: Keep | None = None,
    ) -> None:
        self._windows, self._keep = windows, keep
        self._links: list[Prefix] = []
        starts: dict[int, int] = {}
        size = 1  # the pool begins with one key of zeros, for places that hold none: what is masked may not be NaN
        for piece in work.pieces:
            for link in [] if piece.prefix is None else piece.prefix.chain():
                if id(link) not in starts:
                    starts[id(link)] = size
                    self._links.append(link)
                    size += link.length
        tiles: dict[tuple[int, bool], list[_Tile]] = {}
        for piece, offset in zip(work.pieces, work.offsets, strict=True):
            for tile in _tiles(piece, offset, starts, size):
                tiles.setdefault((tile.number, bool(piece.branches.tokens)), []).append(tile)
        pool = size + len(work.tokens)
        self._calls = [
            _Call(alike[at : at + step], {*windows}, _Heads(*heads), pool, like)
            for (number, _), alike in sorted(tiles.items())
            for step in [max(1, _SCORES // (TILE * TILE * (number + 1) * heads[0]))]
            for at in range(0, len(alike), step)
        ]
        # [T, H]: token and head -> its row in what the calls return, end to end; padding takes whatever stands first
        place = torch.zeros(len(work.tokens), heads[0], dtype=torch.long, device=like.device)
        start = 0
        for call in self._calls:
            place[call.tokens] = call.places + start
            start += call.slots
        self._place = place.view(-1)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """query [T, H, Dh], or of no rows; key and value [T, Hkv, Dh], rotated -> [T, H, Dh]."""
        if self._keep is not None:
            self._keep(layer, key, value)
        if not len(query):
            return query
        keys = _pooled(key, [link.keys[layer] for link in self._links])
        values = _pooled(value, [link.values[layer] for link in self._links])
        window, width = self._windows[layer], query.shape[2]
        asked = query.reshape(-1, width)
        found = torch.cat([call.attend(window, asked, keys, values) for call in self._calls])
        return found.index_select(0, self._place).view(query.shape)


def _pooled(fresh: Tensor, links: Sequence[Tensor]) -> Tensor:
    # fresh [T, Hkv, Dh], links [Hkv, L, Dh] each -> [Hkv * P, Dh]
    own = fresh.transpose(0, 1)
    return torch.cat([torch.zeros_like(own[:, :1]), *links, own], dim=1).view(-1, fresh.shape[2])


def align_reads(scored: Scored, spans: Sequence[LoraSpan]) -> Scored:
    """The same reads, with positions repeated so that every adapter's, and all together, are whole alignments."""
    rows: list[int] = scored.rows.tolist()
    edges = sorted({0, *(edge for span in spans for edge in (span.start, span.stop))})
    padded: list[int] = []
    moved: list[int] = []
    at = 0
    for edge in [*edges[1:], rows[-1] + 1]:
        begin = at
        while at < len(rows) and rows[at] < edge:
            moved.append(len(padded))
            padded.append(rows[at])
            at += 1
        if at > begin:
            padded += [padded[-1]] * (-(at - begin) % ALIGNMENT)
    device = scored.rows.device
    return replace(
        scored,
        rows=torch.tensor(padded, device=device),
        read=torch.tensor(moved, device=device)[scored.read],
    )


def _tiles(piece: Piece, offset: int, starts: dict[int, int], fresh: int) -> Iterator[_Tile]:
    """fresh: where the keys of this pass begin in the pool."""
    pool: list[int] = []
    for link in [] if piece.prefix is None else piece.prefix.chain():
        pool += range(starts[id(link)], starts[id(link)] + link.length)
    first = len(pool)
    pool += range(fresh + offset, fresh + offset + piece.length)
    for number in range(first // TILE, -(-len(pool) // TILE)):
        low, high = number * TILE, (number + 1) * TILE
        cells = [offset + at - first if first <= at < len(pool) else -1 for at in range(low, high)]
        yield _Tile(piece, number, cells, pool[:high] + [0] * (high - len(pool)))


def _hidden_part(tiles: Sequence[_Tile], window: int | None, device: torch.device) -> Tensor:
    """[B or 1, 1, TILE, M]: what is seen of the last M keys, the others being seen by all; every query sees itself at
    least, those that stand for none too.
    """
    number = tiles[0].number
    key = torch.arange((number + 1) * TILE, device=device)
    query = key[number * TILE :, None]
    seen = query >= key
    if not tiles[0].piece.branches.tokens:
        return (seen[:, number * TILE :] if window is None else seen & (query - key < window))[None, None]
    places = torch.tensor([_places(tile) for tile in tiles], device=device)  # [B, 2, keys]
    until, position = places[:, None, 0], places[:, None, 1]
    seen = seen & (query < until)
    if window is not None:
        seen = seen & (position[:, :, number * TILE :].transpose(1, 2) - position < window)
    return (seen | (query == key)).unsqueeze(1)


def _places(tile: _Tile) -> tuple[list[int], list[int]]:
    """Until which query each key is seen, and its position."""
    piece, size = tile.piece, (tile.number + 1) * TILE
    until = [size] * piece.start + [piece.start + end for end in piece.until()]
    position = [*range(piece.start), *piece.positions()]
    return (until + [size] * size)[:size], (position + [0] * size)[:size]
