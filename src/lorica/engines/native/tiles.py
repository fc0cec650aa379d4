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
from lorica.engines.native.block import attend_block
from lorica.engines.native.pack import ALIGNMENT, Pass, Piece, Prefix
from lorica.engines.native.score import Scored
from lorica.models.lora import LoraSpan

TILE = 32
"""Queries of one attention call, and the step in which its keys grow; the kernel works in blocks of 32 queries."""

_MASK_ELEMENTS = 1 << 22  # of one attention call's mask, when rows differ in it


@dataclass(frozen=True)
class _Tile:
    """Tokens number * TILE .. of one piece's whole sequence, of which this pass computes `queries`.

    cells [TILE]: where each query stands in the pass, -1 for none. keys [(number + 1) * TILE]: in the pool, 0 for none.
    """

    piece: Piece
    number: int
    cells: list[int]
    keys: list[int]


class _Call:
    """Tiles of one number, in one attention call."""

    def __init__(self, tiles: Sequence[_Tile], windows: set[int | None], dtype: torch.dtype, device: torch.device):
        self._count, self._keys = len(tiles), (tiles[0].number + 1) * TILE
        cells = torch.tensor([tile.cells for tile in tiles], device=device)
        self._query = cells.clamp(min=0)
        self.real = (cells.view(-1) >= 0).nonzero().squeeze(1)
        self.tokens = cells.view(-1)[self.real]
        self._pool = torch.tensor([tile.keys for tile in tiles], device=device).view(-1)
        self._masks = {window: additive(_seen(tiles, window, device), dtype) for window in windows}

    @property
    def slots(self) -> int:
        """Queries, those that stand for none included."""
        return self._count * TILE

    def attend(self, window: int | None, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """query [T, H, Dh]; keys, values [P, Hkv, Dh], the pool -> [slots, H, Dh]."""
        shape = (self._count, self._keys, *keys.shape[1:])
        found, _ = attend_block(
            query[self._query].transpose(1, 2),
            keys.index_select(0, self._pool).view(shape).transpose(1, 2),
            values.index_select(0, self._pool).view(shape).transpose(1, 2),
            self._masks[window],
        )
        return found.transpose(1, 2).flatten(0, 1)


class TiledAttention:
    """Attention of a pass over new sequences, for `Decoder.hidden`: `SharedAttention`, with bits that never change."""

    def __init__(
        self, work: Pass, windows: Sequence[int | None], dtype: torch.dtype, *, keep: Keep | None = None
    ) -> None:
        self._windows, self._keep = windows, keep
        device = work.tokens.device
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
        distinct = {*windows}
        self._calls = [
            _Call(alike[at : at + step], distinct, dtype, device)
            for (number, _), alike in sorted(tiles.items())
            for step in [max(1, _MASK_ELEMENTS // (TILE * TILE * (number + 1)))]
            for at in range(0, len(alike), step)
        ]
        # token -> its row in the outputs of the calls laid end to end; padding takes whatever stands first
        self._place = torch.zeros_like(work.tokens)
        start = 0
        for call in self._calls:
            self._place[call.tokens] = call.real + start
            start += call.slots

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """query [T, H, Dh], or of no rows; key and value [T, Hkv, Dh], rotated -> [T, H, Dh]."""
        if self._keep is not None:
            self._keep(layer, key, value)
        if not len(query):
            return query
        keys = torch.cat([torch.zeros_like(key[:1]), *(link.keys[layer].transpose(0, 1) for link in self._links), key])
        values = torch.cat(
            [torch.zeros_like(value[:1]), *(link.values[layer].transpose(0, 1) for link in self._links), value]
        )
        window = self._windows[layer]
        return torch.cat([call.attend(window, query, keys, values) for call in self._calls])[self._place]


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


def _seen(tiles: Sequence[_Tile], window: int | None, device: torch.device) -> Tensor:
    """[B or 1, 1, TILE, keys]: every query sees itself at least, those that stand for none too."""
    number = tiles[0].number
    key = torch.arange((number + 1) * TILE, device=device)
    query = key[number * TILE :, None]
    seen = query >= key
    if not tiles[0].piece.branches.tokens:
        return (seen if window is None else seen & (query - key < window))[None, None]
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
