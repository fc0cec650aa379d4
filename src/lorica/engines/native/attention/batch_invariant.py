"""Attention whose every bit depends on the row alone: not on other rows, on batches, or on what was shared.

A matrix product rounds alike for every number of rows from `ALIGNMENT` on, in steps of it; attention rounds alike for
equal numbers of keys. So a row's tokens are counted from its beginning, whoever computed them; queries
i * TILE .. (i + 1) * TILE see exactly the keys 0 .. (i + 1) * TILE, masked. Where attention is made of products, only
those queries of a tile are asked that are there; the flash kernel always gets all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lorica.engines.native.attention.block import attend_heads, goes_by_products, products
from lorica.engines.native.attention.prefix_merge import Keep, additive
from lorica.engines.native.packed_batch import ALIGNMENT, Pass, Piece, Prefix
from lorica.engines.native.score import Scored
from lorica.models.lora import LoraSpan

TILE = 32
"""Queries of one attention call, and the step in which its keys grow; the kernel works in blocks of 32 queries."""

_SCORES = 1 << 20
"""Queries times keys of one attention call, all heads counted: what is computed of them stays in the cache."""


@dataclass(frozen=True)
class _Member:
    """A piece of a pass. offset: its first token in the pass. before [start]: where its shared keys are in the pool."""

    piece: Piece
    offset: int
    before: Tensor

    @property
    def first(self) -> int:
        """The number of its first tile."""
        return self.piece.start // TILE

    @property
    def stop(self) -> int:
        """The position after its last token."""
        return self.piece.start + self.piece.length

    @property
    def tiles(self) -> int:
        """The number after its last tile's."""
        return -(-self.stop // TILE)


@dataclass(frozen=True)
class _Tile:
    """Queries of tile `number` of the first `rows` members of a group: vectors start.. of what it asks and gives, and
    `wide` of them for each member and key head.

    masks: of each window, as `attend_heads` wants them.
    """

    number: int
    rows: int
    start: int
    wide: int
    masks: dict[int | None, Tensor]


class _Group:
    """Members that begin in the same tile, those of most tiles first, whose keys are gathered together.

    fresh: where the keys of this pass begin in the pool.
    """

    def __init__(
        self, members: Sequence[_Member], fresh: int, windows: set[int | None], heads: tuple[int, int], like: Tensor
    ) -> None:
        first, longest = members[0].first, members[0].tiles * TILE
        self._kv_heads, self._repeat, self._rows = heads[1], heads[0] // heads[1], len(members)
        device = like.device
        pool = torch.zeros(len(members), longest, dtype=torch.long, device=device)
        cells = torch.full((len(members), longest), -1, device=device)
        for row, one in enumerate(members):
            begin, own = one.piece.start, torch.arange(one.piece.length, device=device)
            pool[row, :begin] = one.before
            pool[row, begin : begin + len(own)] = fresh + one.offset + own
            cells[row, begin : begin + len(own)] = one.offset + own
        self._pool = (pool[:, None] * heads[1] + torch.arange(heads[1], device=device)[:, None]).view(-1)
        self.tiles: list[_Tile] = []
        asked, tokens, places, self.vectors = [], [], [], 0
        each = torch.arange(heads[0], device=device)
        for number in range(first, members[0].tiles):
            part = cells[: sum(one.tiles > number for one in members), number * TILE : (number + 1) * TILE]
            asked_for = _asked_for(part) if number and goes_by_products(like) else slice(0, TILE)
            part, count = part[:, asked_for], asked_for.stop - asked_for.start
            # Heads of a key head below each other, and the last query again until the alignment is whole.
            wide = -(-self._repeat * count // ALIGNMENT) * ALIGNMENT
            line = torch.arange(wide, device=device).clamp_(max=self._repeat * count - 1)
            head = torch.arange(self._kv_heads, device=device)[:, None] * self._repeat + line // count
            asked.append((part.clamp(min=0)[:, None, line % count] * heads[0] + head).view(-1))
            real = (part >= 0).nonzero()
            tokens.append(part[real[:, 0], real[:, 1]])
            block = real[:, :1] * self._kv_heads + each // self._repeat
            places.append(self.vectors + block * wide + each % self._repeat * count + real[:, 1:])
            masks = {
                window: additive(
                    _hidden_part(members[: len(part)], number, window, device)[:, :, asked_for], like.dtype
                )
                for window in windows
            }
            self.tiles.append(_Tile(number, len(part), self.vectors, wide, masks))
            self.vectors += len(part) * self._kv_heads * wide
        self._asked, self.tokens, self.places = torch.cat(asked), torch.cat(tokens), torch.cat(places)

    def attend(self, window: int | None, query: Tensor, keys: Tensor, values: Tensor, found: Tensor) -> None:
        """query [T * H, Dh]; keys, values [P * Hkv, Dh], the pool; fills found [vectors, Dh]."""
        count, width = self._kv_heads, query.shape[1]
        query = query.index_select(0, self._asked)
        shape = (self._rows, count, -1, width)
        key, value = (each.index_select(0, self._pool).view(shape) for each in (keys, values))
        centred: Tensor | None = None
        for tile in self.tiles:
            part, seen = slice(tile.start, tile.start + tile.rows * count * tile.wide), (tile.number + 1) * TILE
            asked = query[part].view(tile.rows, count, tile.wide, width)
            held, mask = value[: tile.rows, :, :seen], tile.masks[window]
            if tile.number and centred is None and goes_by_products(query):
                # Only keys that are there whoever computes the tile: those of the first tile, in all but the first.
                centred = key - key[:, :, :TILE].mean(2, keepdim=True)
            if tile.number and centred is not None:
                products(asked, centred[: tile.rows, :, :seen], held, mask, found[part], repeat=self._repeat)
            else:
                attend_heads(asked, key[: tile.rows, :, :seen], held, mask, found[part], repeat=self._repeat)


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
        members = [
            _Member(piece, offset, _before(piece, starts, like.device))
            for piece, offset in zip(work.pieces, work.offsets, strict=True)
        ]
        self._groups = [_Group(alike, size, {*windows}, heads, like) for alike in _alike(members, heads[0])]
        # [T, H]: token and head -> its vector in what the groups give, end to end; padding takes whatever stands first
        place = torch.zeros(len(work.tokens), heads[0], dtype=torch.long, device=like.device)
        self._vectors = 0
        for group in self._groups:
            place[group.tokens] = group.places + self._vectors
            self._vectors += group.vectors
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
        found, start = asked.new_empty(self._vectors, width), 0
        for group in self._groups:
            group.attend(window, asked, keys, values, found[start : start + group.vectors])
            start += group.vectors
        return found.index_select(0, self._place).view(query.shape)


def _alike(members: Sequence[_Member], heads: int) -> Iterator[list[_Member]]:
    """Members of one first tile, with or without branches, as many at once as the cache holds scores of."""
    ordered = sorted(members, key=lambda one: (one.first, bool(one.piece.branches.tokens), -one.stop))
    group: list[_Member] = []
    for one in ordered:
        if group and (
            one.first != group[0].first
            or bool(one.piece.branches.tokens) != bool(group[0].piece.branches.tokens)
            or (len(group) + 1) * heads * TILE * group[0].tiles * TILE > _SCORES
        ):
            yield group
            group = []
        group.append(one)
    yield group


def _asked_for(cells: Tensor) -> slice:
    """cells [B, TILE], negative where there is no token: the queries of a tile that stand for any."""
    used = (cells >= 0).any(0).nonzero()
    return slice(int(used[0]), int(used[-1]) + 1)


def _before(piece: Piece, starts: dict[int, int], device: torch.device) -> Tensor:
    chain = [] if piece.prefix is None else piece.prefix.chain()
    parts = [torch.arange(starts[id(link)], starts[id(link)] + link.length, device=device) for link in chain]
    return torch.cat(parts) if parts else torch.empty(0, dtype=torch.long, device=device)


def _pooled(fresh: Tensor, links: Sequence[Tensor]) -> Tensor:
    # fresh [T, Hkv, Dh], links [Hkv, L, Dh] each -> [P * Hkv, Dh]
    parts = [torch.zeros_like(fresh[:1]), *(link.transpose(0, 1) for link in links), fresh]
    return torch.cat(parts).view(-1, fresh.shape[2])


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


def _hidden_part(members: Sequence[_Member], number: int, window: int | None, device: torch.device) -> Tensor:
    """[B or 1, 1, TILE, M]: what is seen of the last M keys, the others being seen by all; every query sees itself at
    least, those that stand for none too.
    """
    key = torch.arange((number + 1) * TILE, device=device)
    query = key[number * TILE :, None]
    seen = query >= key
    if not members[0].piece.branches.tokens:
        return (seen[:, number * TILE :] if window is None else seen & (query - key < window))[None, None]
    places = torch.tensor([_places(one.piece, len(key)) for one in members], device=device)  # [B, 2, keys]
    until, position = places[:, None, 0], places[:, None, 1]
    seen = seen & (query < until)
    if window is not None:
        seen = seen & (position[:, :, number * TILE :].transpose(1, 2) - position < window)
    return (seen | (query == key)).unsqueeze(1)


def _places(piece: Piece, size: int) -> tuple[list[int], list[int]]:
    """Until which query each of the first `size` keys is seen, and its position."""
    until = [size] * piece.start + [piece.start + end for end in piece.until()]
    position = [*range(piece.start), *piece.positions()]
    return (until + [size] * size)[:size], (position + [0] * size)[:size]
