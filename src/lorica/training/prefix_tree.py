"""The prefix tree of rows that are learned in one pass: common beginnings are computed once."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter

from lorica.models.tree_attention import TreeSpan

# A prefix becomes a span of its own when that saves this share of the tokens of its rows: merging the attention of all
# their tokens costs about as much as computing a thirtieth of them.
_MIN_SAVED = 1 / 16

Tokens = tuple[int, ...]
"""The tokens of a row."""


@dataclass(frozen=True)
class PrefixTree:
    """The packed tokens of all spans in depth-first order, T in all.

    tokens, positions: [T]. paths: of each row its spans, as position and packed index of their first tokens.
    """

    tokens: list[int]
    positions: list[int]
    spans: list[TreeSpan]
    paths: list[list[tuple[int, int]]]

    def packed_index(self, row: int, position: int) -> int:
        """Where the token at a position of a row is among the packed ones."""
        path = self.paths[row]
        span_position, span_start = path[bisect_right(path, position, key=itemgetter(0)) - 1]
        return span_start + position - span_position


@dataclass(frozen=True)
class _Branch:
    """Rows, sorted by their tokens, that are in the tree up to `position`. parent: the last span there, -1 for none."""

    rows: list[int]
    position: int = 0
    path: tuple[tuple[int, int], ...] = ()
    parent: int = -1


def common_length(first: Tokens, second: Tokens) -> int:
    """How many tokens two rows have in common at their beginning."""
    shorter = min(len(first), len(second))
    if first[:shorter] == second[:shorter]:
        return shorter
    return next(index for index in range(shorter) if first[index] != second[index])


def build_prefix_tree(sequences: Sequence[Tokens], *, share: bool) -> PrefixTree:
    """sequences: the tokens of each row, at least one. share: false gives every row one span of its own."""
    tree = PrefixTree([], [], [], [[] for _ in sequences])
    starts: list[int] = []
    parents: list[int] = []
    everything = range(len(sequences))
    branches = (
        [_Branch(sorted(everything, key=lambda row: sequences[row]))] if share else [_Branch([r]) for r in everything]
    )
    branches.reverse()
    while branches:
        branch = branches.pop()
        first, last = sequences[branch.rows[0]], sequences[branch.rows[-1]]
        common = common_length(first, last)
        saved = (common - branch.position) * (len(branch.rows) - 1)
        equal = common == len(last)  # one row, or rows without a difference
        if equal or saved >= _MIN_SAVED * sum(len(sequences[row]) - branch.position for row in branch.rows):
            path = (*branch.path, (branch.position, len(tree.tokens)))
            starts.append(len(tree.tokens))
            parents.append(branch.parent)
            tree.tokens.extend(first[branch.position : common])
            tree.positions.extend(range(branch.position, common))
            branch = _Branch(branch.rows, common, path, len(starts) - 1)
        groups = [list(rows) for _, rows in groupby(branch.rows, key=lambda row: sequences[row][common : common + 1])]
        for rows in reversed(groups):
            if len(sequences[rows[0]]) == branch.position:
                for row in rows:
                    tree.paths[row].extend(branch.path)
            else:
                branches.append(_Branch(rows, branch.position, branch.path, branch.parent))
    tree.spans.extend(_spans(starts, parents, len(tree.tokens)))
    return tree


def _spans(starts: Sequence[int], parents: Sequence[int], token_count: int) -> list[TreeSpan]:
    stops = [*starts[1:], token_count]
    subtree_stops = list(stops)
    for index in reversed(range(len(starts))):  # children stand behind their parents
        if parents[index] >= 0:
            subtree_stops[parents[index]] = max(subtree_stops[parents[index]], subtree_stops[index])
    return [
        TreeSpan(start, stop, subtree_stop, root=parent < 0)
        for start, stop, subtree_stop, parent in zip(starts, stops, subtree_stops, parents, strict=True)
    ]


def group_by_prefix(sequences: Sequence[Tokens], weights: Sequence[float], *, budget: float) -> list[list[int]]:
    """Rows in groups, neighbours with long common beginnings together, each within a budget (one row always fits).

    weights: of each row, what it costs beside its tokens. budget: tokens to compute, those of a prefix once, and
    weights.
    """
    groups: list[list[int]] = []
    size = 0.0
    for row in sorted(range(len(sequences)), key=lambda row: sequences[row]):
        length = len(sequences[row])
        added = weights[row] + length - (common_length(sequences[groups[-1][-1]], sequences[row]) if groups else 0)
        if not groups or size + added > budget:
            groups.append([])
            size, added = 0.0, length + weights[row]
        groups[-1].append(row)
        size += added
    return groups
