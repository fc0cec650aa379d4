"""What is computed, and in which order: a pure function of the requests and of what is known before. No torch here.

Prompts of one adapter that begin alike are hung into a tree of segments, each computed once. What is left of
every prompt, its own part, is packed without padding into batches of a token budget. Batches may mix
adapters; tokens of one adapter, and those below one segment, always stand together.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, pairwise
from types import MappingProxyType
from typing import Literal

import msgspec

from lorica.engines.native.token_tree import branches_of
from lorica.records import Choose, Request

MIN_SHARED_TOKENS = 16
"""A shared beginning shorter than this, below its parent, is not worth a segment of its own."""

MIN_SAVED_TOKENS = 64
"""Tokens that a segment must save over all its rows: each costs an attention call per layer and batch."""

MAX_LEVELS = 4
"""Segments in a chain; prompts seldom share in more steps."""

SMALLEST_CUT = 256
"""Tokens up to which a row or segment is never read in parts, whatever the budget."""

SMALLEST_SHARE = 512
"""Tokens of a batch below which its calls cost more than idle workers."""

ADMITTED_ROWS = 8
"""Rows of one `generate` batch: they join the rows under continuation, and few join sooner than many."""


_PREFIX_SHARES = 12  # of all work, per worker: a batch of beginnings is no larger, so that few wait for it
_ROW_SHARES = 3  # of what is left, per worker: batches of rows begin large and end small


class Segment(msgspec.Struct, frozen=True):
    """A shared beginning: `tokens` stand at positions start.. and follow the segment `parent` (-1: none). Not shared: a
    part of a row that is too long for one pass.
    """

    adapter: str | None
    parent: int
    start: int
    tokens: tuple[int, ...]
    shared: bool = True


class PlannedRow(msgspec.Struct, frozen=True):
    """Request number `request`, whose first `start` prompt tokens lie in `segment` (-1: none) and its
    ancestors.
    """

    request: int
    segment: int
    start: int


class Batch(msgspec.Struct, frozen=True):
    """One forward pass over segments (`prefix`) or rows (`choose`, `generate`).

    release: segments that no later batch needs.
    """

    kind: Literal["prefix", "choose", "generate"]
    segments: tuple[int, ...] = ()
    rows: tuple[PlannedRow, ...] = ()
    release: tuple[int, ...] = ()


class Plan(msgspec.Struct, frozen=True):
    """All that the engine will do. Indices point into `requests` and `segments`."""

    requests: tuple[Request, ...]
    segments: tuple[Segment, ...]
    batches: tuple[Batch, ...]

    def digest(self) -> str:
        """`sha256:...` over requests, segments and batches: equal digests mean equal work."""
        return "sha256:" + hashlib.sha256(msgspec.json.encode(self)).hexdigest()

    def computed_tokens(self) -> int:
        """Tokens that pass through the decoder, those of shared beginnings once."""
        rows = sum(own_tokens(self.requests[r.request], r.start) for b in self.batches for r in b.rows)
        return rows + sum(len(segment.tokens) for segment in self.segments)

    def path(self, index: int) -> tuple[int, ...]:
        """All tokens from position 0 to the end of a segment."""
        chain = _chain(self.segments, index)
        return tuple(token for each in reversed(chain) for token in self.segments[each].tokens)


def own_tokens(request: Request, start: int) -> int:
    """Tokens of a row's own part: the prompt from `start` on, and what must be read of its choices."""
    longer = len(branches_of(request.choices).tokens) if isinstance(request, Choose) else 0
    return len(request.prompt) - start + longer


def make_plan(
    requests: Sequence[Request],
    *,
    batch_tokens: int,
    share_prefixes: bool = True,
    workers: int = 1,
    known: Mapping[str | None, Sequence[tuple[int, ...]]] = MappingProxyType({}),
) -> Plan:
    """Plan valid requests: every prompt and every choice has at least one token.

    batch_tokens: the batches that are computed at once hold no more tokens together, unless one is a single row or
    segment of at most SMALLEST_CUT; what is longer is read in several passes, as segments one below the other.
    share_prefixes: False gives every row its whole prompt as own part. workers: batches computed at once; they shall be
    done at about the same time (guided self-scheduling: Polychronopoulos and Kuck, 1987). known: beginnings of each
    adapter's prompts that were met before; what a row has in common with one of them is shared, too.
    """
    batch_tokens = max(1, batch_tokens // workers)
    requests = tuple(requests)
    groups: dict[tuple[bool, str | None], list[int]] = {}
    for index, request in enumerate(requests):
        groups.setdefault((isinstance(request, Choose), request.adapter), []).append(index)

    def longest_first(key: tuple[bool, str | None]) -> tuple[bool, int, str]:
        return not key[0], -max(len(requests[i].prompt) for i in groups[key]), key[1] or ""

    segments: list[Segment] = []
    batches: list[Batch] = []
    rows: dict[bool, list[PlannedRow]] = {True: [], False: []}
    for key in sorted(groups, key=longest_first):
        most = max(batch_tokens, SMALLEST_CUT)
        if share_prefixes:
            rows[key[0]] += _hang(requests, groups[key], known.get(key[1], ()), segments, most)
        else:
            alone = [_cut(requests, PlannedRow(index, -1, 0), segments, most) for index in groups[key]]
            rows[key[0]] += _ordered(requests, alone)
    left = sum(own_tokens(requests[row.request], row.start) for row in rows[True])
    total = left + sum(len(segment.tokens) for segment in segments)
    even = batch_tokens if workers == 1 else min(batch_tokens, max(SMALLEST_SHARE, total // (workers * _PREFIX_SHARES)))
    for chooses, placed in rows.items():
        batches += _row_batches(requests, placed, batch_tokens, chooses, workers)
    return Plan(requests, tuple(segments), tuple(_with_prefixes(batches, segments, even)))


def _hang(
    requests: Sequence[Request],
    members: Sequence[int],
    known: Sequence[tuple[int, ...]],
    segments: list[Segment],
    most: int,
) -> list[PlannedRow]:
    """Hang the requests of one adapter into the tree; returns them so that each segment's rows stand
    together. known: beginnings that hang there already. most: tokens of one segment, and of a row's own part.
    """
    # The last token of a prompt is never shared: the row's own scores are read from its position.
    keys = {index: requests[index].prompt[:-1] for index in members}
    keys.update((-1 - number, path) for number, path in enumerate(known))  # below 0 stands no row
    order = sorted(keys, key=lambda index: (keys[index], index))
    rows = [0, *accumulate(index >= 0 for index in order)]
    alike = [0] + [_common(keys[a], keys[b]) for a, b in pairwise(order)]
    adapter = requests[members[0]].adapter
    placed: list[PlannedRow] = []
    work = [(0, len(order), -1, 0, 0)]
    while work:  # depth first, so that a segment's descendants are numbered right after it
        low, high, parent, depth, level = work.pop()
        if rows[high] == rows[low]:
            continue
        if high - low == 1:
            placed.append(_cut(requests, PlannedRow(order[low], parent, depth), segments, most))
            continue
        reach = min(alike[low + 1 : high])
        gain = reach - depth
        if level < MAX_LEVELS and gain >= MIN_SHARED_TOKENS and gain * (high - low - 1) >= MIN_SAVED_TOKENS:
            first = order[low]
            while depth < reach:
                stop = min(reach, depth + most)
                segments.append(Segment(adapter, parent, depth, keys[first][depth:stop]))
                parent, depth = len(segments) - 1, stop
            level += 1
        cuts = [low, *(at for at in range(low + 1, high) if alike[at] == reach), high]
        work += [(a, b, parent, depth, level) for a, b in reversed(list(pairwise(cuts)))]
    return _ordered(requests, placed)


def _cut(requests: Sequence[Request], row: PlannedRow, segments: list[Segment], most: int) -> PlannedRow:
    """A row too long for one pass, with segments of its own before what is left."""
    request = requests[row.request]
    while own_tokens(request, row.start) > most and len(request.prompt) - row.start > 1:
        stop = min(row.start + most, len(request.prompt) - 1)
        part = request.prompt[row.start : stop]
        segments.append(Segment(request.adapter, row.segment, row.start, part, shared=False))
        row = PlannedRow(row.request, len(segments) - 1, stop)
    return row


def _ordered(requests: Sequence[Request], placed: list[PlannedRow]) -> list[PlannedRow]:
    # Segments are numbered depth first, so sorting by number keeps every subtree together.
    return sorted(placed, key=lambda row: (row.segment, -own_tokens(requests[row.request], row.start), row.request))


def _common(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    """Length of the common beginning, by bisection: slices are compared in C."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _chunks(costs: Sequence[int], budget: int, most: int, workers: int = 1) -> Iterator[tuple[int, int]]:
    """Cut 0..len(costs) into runs whose cost is within the budget and that have at most `most` members; for several
    workers no run is more than a share of what is left.
    """
    start, total, left = 0, 0, sum(costs)
    for index, cost in enumerate(costs):
        share = budget if workers == 1 else min(budget, max(SMALLEST_SHARE, left // (workers * _ROW_SHARES)))
        if index > start and (total + cost > share or index - start == most):
            yield start, index
            left -= total
            start, total = index, 0
        total += cost
    if start < len(costs):
        yield start, len(costs)


def _row_batches(
    requests: Sequence[Request], rows: Sequence[PlannedRow], batch_tokens: int, chooses: bool, workers: int
) -> list[Batch]:
    costs = [own_tokens(requests[row.request], row.start) for row in rows]
    most = len(rows) if chooses else ADMITTED_ROWS
    return [
        Batch("choose" if chooses else "generate", rows=tuple(rows[a:b]))
        for a, b in _chunks(costs, batch_tokens, most, workers if chooses else 1)
    ]


def _with_prefixes(batches: Sequence[Batch], segments: Sequence[Segment], batch_tokens: int) -> Iterator[Batch]:
    """Put each segment's computation before its first use, parents first, and its release after the last."""
    chains = [_chain(segments, index) for index in range(len(segments))]
    needs = [
        sorted({index for row in batch.rows if row.segment >= 0 for index in chains[row.segment]}) for batch in batches
    ]
    last = {index: number for number, needed in enumerate(needs) for index in needed}
    computed: set[int] = set()
    for number, (batch, needed) in enumerate(zip(batches, needs, strict=True)):
        missing = [index for index in needed if index not in computed]
        computed.update(missing)
        for level in sorted({len(chains[index]) for index in missing}):
            peers = [index for index in missing if len(chains[index]) == level]
            costs = [len(segments[index].tokens) for index in peers]
            for a, b in _chunks(costs, batch_tokens, len(peers)):
                yield Batch("prefix", segments=tuple(peers[a:b]))
        release = tuple(index for index in needed if last[index] == number)
        yield Batch(batch.kind, rows=batch.rows, release=release)


def beginnings_first(batches: Sequence[Batch], *, ahead: int) -> Iterator[Batch]:
    """The same batches; those of shared beginnings are `ahead` of their like before rows are, so that nobody who works
    on the next rows has to wait for them.
    """
    rows: deque[tuple[int, Batch]] = deque()
    computed = 0
    for batch in batches:
        if batch.kind == "prefix":
            yield batch
            computed += 1
        else:
            rows.append((computed + ahead, batch))
        while rows and rows[0][0] <= computed:
            yield rows.popleft()[1]
    yield from (batch for _, batch in rows)


def _chain(segments: Sequence[Segment], index: int) -> list[int]:
    chain = []
    while index >= 0:
        chain.append(index)
        index = segments[index].parent
    return chain
