"""The scheduler: which prefixes and rows are computed in which batch. A pure function of the requests and of the
prefixes cached by earlier runs; no torch here.

The prompts of one adapter form a prefix tree, whose nodes are prefilled once. The rest of every prompt, its suffix, is
packed without padding into batches of a token budget. Batches may mix adapters; tokens of one adapter, and rows below
one prefix node, are always contiguous.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, pairwise
from types import MappingProxyType
from typing import Literal

import msgspec

from lorica.data.digest import bytes_digest
from lorica.engines.native.token_tree import choice_tree
from lorica.records import Request, ScoreChoices

MIN_PREFIX_TOKENS = 16
"""A prefix node is at least this long."""

MIN_SAVED_TOKENS = 64
"""Tokens that a prefix node must save over all its rows: each costs an attention call per layer and batch."""

MAX_PREFIX_DEPTH = 4
"""Levels of the prefix tree; prompts seldom share in more steps."""

MIN_CHUNK_TOKENS = 256
"""A prefix or suffix of at most this many tokens is never prefilled in chunks, whatever the budget."""

MIN_BATCH_TOKENS = 512
"""Tokens of a batch below which the overhead of its calls costs more than idle workers."""

ADMISSION_ROWS = 8
"""Rows of one `generate` batch: they join the running decode batch together, and few can join sooner than many."""

_PREFILL_BATCHES = 12  # per worker, at least, for the prefixes of a run: rows wait for small batches only
_ROW_BATCHES = 3  # per worker, at least, for the rows that remain: batches begin large and end small


class PrefixNode(msgspec.Struct, frozen=True):
    """A node of the prefix tree: `tokens` at positions start.., after those of the node `parent` (-1: none).

    shared: False for a chunk of a single long row (chunked prefill).
    """

    adapter: str | None
    parent: int
    start: int
    tokens: tuple[int, ...]
    shared: bool = True


class ScheduledRow(msgspec.Struct, frozen=True):
    """A request, whose first `prefix_length` prompt tokens are those of `node` (-1: none) and its ancestors."""

    request_index: int
    node: int
    prefix_length: int


class ScheduledBatch(msgspec.Struct, frozen=True):
    """One forward pass over prefix nodes (`prefill`) or rows (`score`, `generate`).

    release: nodes that no later batch needs.
    """

    stage: Literal["prefill", "score", "generate"]
    nodes: tuple[int, ...] = ()
    rows: tuple[ScheduledRow, ...] = ()
    release: tuple[int, ...] = ()


class Plan(msgspec.Struct, frozen=True):
    """All that the engine will do. Indices point into `requests` and `nodes`."""

    requests: tuple[Request, ...]
    nodes: tuple[PrefixNode, ...]
    batches: tuple[ScheduledBatch, ...]

    def digest(self) -> str:
        """`sha256:...` over requests, prefix nodes and batches: equal digests mean equal work."""
        return bytes_digest(msgspec.json.encode(self))

    def computed_tokens(self) -> int:
        """Tokens that pass through the decoder, those of shared prefixes once."""
        rows = (row for batch in self.batches for row in batch.rows)
        suffix_tokens = sum(suffix_length(self.requests[row.request_index], row.prefix_length) for row in rows)
        return suffix_tokens + sum(len(node.tokens) for node in self.nodes)

    def prefix_tokens(self, node: int) -> tuple[int, ...]:
        """All tokens from position 0 to the end of a node."""
        return tuple(token for index in reversed(_ancestors(self.nodes, node)) for token in self.nodes[index].tokens)


def suffix_length(request: Request, prefix_length: int) -> int:
    """Tokens of a row behind its prefix: the rest of the prompt, and the token tree of its choices."""
    tree_tokens = len(choice_tree(request.choices).tokens) if isinstance(request, ScoreChoices) else 0
    return len(request.prompt) - prefix_length + tree_tokens


def make_plan(
    requests: Sequence[Request],
    *,
    batch_tokens: int,
    share_prefixes: bool = True,
    workers: int = 1,
    cached_prefixes: Mapping[str | None, Sequence[tuple[int, ...]]] = MappingProxyType({}),
) -> Plan:
    """Plan valid requests: every prompt and every choice has at least one token.

    batch_tokens: of all batches that are computed at a time; a suffix or prefix that is longer than its batch, and than
    MIN_CHUNK_TOKENS, is prefilled in chunks, which are prefix nodes below each other. share_prefixes: False makes the
    whole prompt of every row its suffix. workers: batches computed in parallel, so divided that all workers are done at
    about the same time (guided self-scheduling: Polychronopoulos and Kuck, 1987). cached_prefixes: of each adapter,
    from earlier runs; a row shares with these, too.
    """
    batch_tokens = max(1, batch_tokens // workers)
    chunk_tokens = max(batch_tokens, MIN_CHUNK_TOKENS)
    requests = tuple(requests)
    groups: dict[tuple[bool, str | None], list[int]] = {}
    for request_index, request in enumerate(requests):
        groups.setdefault((isinstance(request, ScoreChoices), request.adapter), []).append(request_index)

    def scores_then_longest(group: tuple[bool, str | None]) -> tuple[bool, int, str]:
        return not group[0], -max(len(requests[index].prompt) for index in groups[group]), group[1] or ""

    nodes: list[PrefixNode] = []
    scored: list[ScheduledRow] = []
    generated: list[ScheduledRow] = []
    for group in sorted(groups, key=scores_then_longest):
        rows = scored if group[0] else generated
        if share_prefixes:
            rows += build_prefix_tree(
                requests,
                groups[group],
                nodes,
                cached_prefixes=cached_prefixes.get(group[1], ()),
                chunk_tokens=chunk_tokens,
            )
        else:
            unshared = [_chunk_prefill(requests, ScheduledRow(i, -1, 0), nodes, chunk_tokens) for i in groups[group]]
            rows += _sort_by_node(requests, unshared)
    score_tokens = sum(suffix_length(requests[row.request_index], row.prefix_length) for row in scored)
    total_tokens = score_tokens + sum(len(node.tokens) for node in nodes)
    prefill_tokens = batch_tokens
    if workers > 1:
        prefill_tokens = min(batch_tokens, max(MIN_BATCH_TOKENS, total_tokens // (workers * _PREFILL_BATCHES)))
    batches = [
        *_row_batches(requests, scored, "score", batch_tokens, max_rows=len(scored), workers=workers),
        *_row_batches(requests, generated, "generate", batch_tokens, max_rows=ADMISSION_ROWS),
    ]
    return Plan(requests, tuple(nodes), tuple(_insert_prefills(batches, nodes, prefill_tokens)))


def build_prefix_tree(
    requests: Sequence[Request],
    members: Sequence[int],
    nodes: list[PrefixNode],
    *,
    cached_prefixes: Sequence[tuple[int, ...]],
    chunk_tokens: int,
) -> list[ScheduledRow]:
    """Add the prefix tree of one adapter's requests to `nodes`; returns their rows, those of each node contiguous.

    cached_prefixes: branch the tree like further prompts, but need no rows. chunk_tokens: of one node, and of a suffix.
    """
    # The last token of a prompt is never shared: the row's own scores are read from its position.
    prompts = {index: requests[index].prompt[:-1] for index in members}
    prompts.update((-1 - number, tokens) for number, tokens in enumerate(cached_prefixes))  # negative: not a row
    order = sorted(prompts, key=lambda index: (prompts[index], index))
    rows_before = [0, *accumulate(index >= 0 for index in order)]
    shared_with_previous = [0] + [_common_prefix_length(prompts[a], prompts[b]) for a, b in pairwise(order)]
    adapter = requests[members[0]].adapter
    rows: list[ScheduledRow] = []
    stack = [(0, len(order), -1, 0, 0)]
    while stack:  # depth first, so that the descendants of a node are numbered right after it
        low, high, parent, length, depth = stack.pop()
        if rows_before[high] == rows_before[low]:
            continue
        if high - low == 1:
            rows.append(_chunk_prefill(requests, ScheduledRow(order[low], parent, length), nodes, chunk_tokens))
            continue
        shared = min(shared_with_previous[low + 1 : high])
        gain = shared - length
        if depth < MAX_PREFIX_DEPTH and gain >= MIN_PREFIX_TOKENS and gain * (high - low - 1) >= MIN_SAVED_TOKENS:
            prompt = prompts[order[low]]
            while length < shared:
                stop = min(shared, length + chunk_tokens)
                nodes.append(PrefixNode(adapter, parent, length, prompt[length:stop]))
                parent, length = len(nodes) - 1, stop
            depth += 1
        splits = [low, *(index for index in range(low + 1, high) if shared_with_previous[index] == shared), high]
        stack += [(a, b, parent, length, depth) for a, b in reversed(list(pairwise(splits)))]
    return _sort_by_node(requests, rows)


def _chunk_prefill(
    requests: Sequence[Request], row: ScheduledRow, nodes: list[PrefixNode], chunk_tokens: int
) -> ScheduledRow:
    """A row whose suffix is too long for one pass, with prefix nodes of its own for all but its last chunk."""
    request = requests[row.request_index]
    while suffix_length(request, row.prefix_length) > chunk_tokens and len(request.prompt) - row.prefix_length > 1:
        stop = min(row.prefix_length + chunk_tokens, len(request.prompt) - 1)
        chunk = request.prompt[row.prefix_length : stop]
        nodes.append(PrefixNode(request.adapter, row.node, row.prefix_length, chunk, shared=False))
        row = ScheduledRow(row.request_index, len(nodes) - 1, stop)
    return row


def _sort_by_node(requests: Sequence[Request], rows: list[ScheduledRow]) -> list[ScheduledRow]:
    # Nodes are numbered depth first, so sorting by number keeps every subtree together.
    def key(row: ScheduledRow) -> tuple[int, int, int]:
        return row.node, -suffix_length(requests[row.request_index], row.prefix_length), row.request_index

    return sorted(rows, key=key)


def _common_prefix_length(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    """By bisection: slices are compared in C."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _split_by_cost(costs: Sequence[int], budget: int, max_items: int, workers: int = 1) -> Iterator[tuple[int, int]]:
    """Ranges of 0..len(costs) whose cost is within the budget and that have at most `max_items` items; for several
    workers also no more than a share of the cost that remains.
    """
    start, cost, remaining = 0, 0, sum(costs)
    for index, item_cost in enumerate(costs):
        limit = budget
        if workers > 1:
            limit = min(budget, max(MIN_BATCH_TOKENS, remaining // (workers * _ROW_BATCHES)))
        if index > start and (cost + item_cost > limit or index - start == max_items):
            yield start, index
            remaining -= cost
            start, cost = index, 0
        cost += item_cost
    if start < len(costs):
        yield start, len(costs)


def _row_batches(
    requests: Sequence[Request],
    rows: Sequence[ScheduledRow],
    stage: Literal["score", "generate"],
    batch_tokens: int,
    *,
    max_rows: int,
    workers: int = 1,
) -> Iterator[ScheduledBatch]:
    costs = [suffix_length(requests[row.request_index], row.prefix_length) for row in rows]
    for start, stop in _split_by_cost(costs, batch_tokens, max_rows, workers):
        yield ScheduledBatch(stage, rows=tuple(rows[start:stop]))


def _insert_prefills(
    batches: Sequence[ScheduledBatch], nodes: Sequence[PrefixNode], prefill_tokens: int
) -> Iterator[ScheduledBatch]:
    """Put the prefill of each node before its first use, parents first, and its release after its last."""
    chains = [_ancestors(nodes, index) for index in range(len(nodes))]
    needed_by_batch = [
        sorted({index for row in batch.rows if row.node >= 0 for index in chains[row.node]}) for batch in batches
    ]
    last_use = {index: batch_index for batch_index, needed in enumerate(needed_by_batch) for index in needed}
    computed: set[int] = set()
    for batch_index, (batch, needed) in enumerate(zip(batches, needed_by_batch, strict=True)):
        missing = [index for index in needed if index not in computed]
        computed.update(missing)
        for depth in sorted({len(chains[index]) for index in missing}):
            same_depth = [index for index in missing if len(chains[index]) == depth]
            costs = [len(nodes[index].tokens) for index in same_depth]
            for start, stop in _split_by_cost(costs, prefill_tokens, len(same_depth)):
                yield ScheduledBatch("prefill", nodes=tuple(same_depth[start:stop]))
        release = tuple(index for index in needed if last_use[index] == batch_index)
        yield ScheduledBatch(batch.stage, rows=batch.rows, release=release)


def schedule_prefills_first(batches: Sequence[ScheduledBatch], *, ahead: int) -> Iterator[ScheduledBatch]:
    """The same batches, with prefills moved `ahead` prefills forward, so that no worker waits for the prefixes of the
    rows that it takes next.
    """
    delayed: deque[tuple[int, ScheduledBatch]] = deque()
    prefills = 0
    for batch in batches:
        if batch.stage == "prefill":
            yield batch
            prefills += 1
        else:
            delayed.append((prefills + ahead, batch))
        while delayed and delayed[0][0] <= prefills:
            yield delayed.popleft()[1]
    yield from (batch for _, batch in delayed)


def _ancestors(nodes: Sequence[PrefixNode], index: int) -> list[int]:
    """A node and its ancestors, up to the root."""
    chain = []
    while index >= 0:
        chain.append(index)
        index = nodes[index].parent
    return chain
