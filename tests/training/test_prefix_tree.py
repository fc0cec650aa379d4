from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorica.training.prefix_tree import PrefixTree, build_prefix_tree, common_length, group_by_prefix

ROWS = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=12).map(tuple), min_size=1, max_size=12)
# Rows of one task: a common beginning, then their own.
TASK = tuple(range(100, 140))


def _rows(*suffixes: int) -> list[tuple[int, ...]]:
    return [(*TASK, *(suffix for _ in range(5))) for suffix in suffixes]


@given(sequences=ROWS, share=st.booleans())
def test_every_row_can_be_read_from_the_packed_tokens(sequences: list[tuple[int, ...]], share: bool) -> None:
    tree = build_prefix_tree(sequences, share=share)
    for row, sequence in enumerate(sequences):
        packed = [tree.packed_index(row, position) for position in range(len(sequence))]
        assert [tree.tokens[index] for index in packed] == list(sequence)
        assert [tree.positions[index] for index in packed] == list(range(len(sequence)))
        # A token's spans are those whose subtree it is in: the row's own, and no others.
        visible = [
            index
            for span in tree.spans
            for index in range(span.start, span.stop)
            if span.start <= packed[-1] < span.subtree_stop and index <= packed[-1]
        ]
        assert visible == packed


@given(sequences=ROWS)
def test_spans_cover_the_packed_tokens_in_depth_first_order(sequences: list[tuple[int, ...]]) -> None:
    for share in (False, True):
        tree = build_prefix_tree(sequences, share=share)
        assert [span.start for span in tree.spans] == [0, *(span.stop for span in tree.spans[:-1])]
        assert tree.spans[-1].stop == len(tree.tokens) == len(tree.positions)
        assert all(span.start < span.stop <= span.subtree_stop for span in tree.spans)
        assert len(tree.tokens) <= sum(map(len, sequences))


def _lengths(tree: PrefixTree) -> list[int]:
    return [span.stop - span.start for span in tree.spans]


def test_a_common_beginning_is_computed_once() -> None:
    assert _lengths(build_prefix_tree(_rows(1, 2, 3), share=True)) == [40, 5, 5, 5]
    assert _lengths(build_prefix_tree(_rows(1, 2, 3), share=False)) == [45, 45, 45]
    assert _lengths(build_prefix_tree(_rows(7, 7), share=True)) == [45]
    # A row that ends where the others go on.
    assert _lengths(build_prefix_tree([TASK, *_rows(1, 2)], share=True)) == [40, 5, 5]
    # Prefixes of prefixes: three rows of one rule and two of another, under one instruction.
    rules = [(*TASK, rule, *range(30), row) for rule, row in ((1, 1), (1, 2), (1, 3), (2, 1), (2, 2))]
    assert _lengths(build_prefix_tree(rules, share=True)) == [40, 31, 1, 1, 1, 31, 1, 1]


def test_a_beginning_too_short_to_be_worth_it_is_computed_for_each_row() -> None:
    rows = [(1, 2, *range(10 * row, 10 * row + 100)) for row in range(1, 4)]
    assert _lengths(build_prefix_tree(rows, share=True)) == [102, 102, 102]


@given(sequences=ROWS, budget=st.integers(1, 60), weight=st.floats(0, 3))
def test_groups_hold_every_row_once_within_the_budget(
    sequences: list[tuple[int, ...]], budget: int, weight: float
) -> None:
    groups = group_by_prefix(sequences, [weight] * len(sequences), budget=budget)
    assert sorted(row for group in groups for row in group) == list(range(len(sequences)))
    for group in groups:
        rows = [sequences[row] for row in group]
        assert rows == sorted(rows)
        distinct = {row[:length] for row in rows for length in range(1, len(row) + 1)}
        assert len(group) == 1 or len(distinct) + weight * len(group) <= budget + 1e-9


@pytest.mark.parametrize(("first", "second", "length"), [((1, 2, 3), (1, 2, 4), 2), ((1,), (1, 2), 1), ((1,), (2,), 0)])
def test_common_beginnings_are_measured(first: tuple[int, ...], second: tuple[int, ...], length: int) -> None:
    assert common_length(first, second) == common_length(second, first) == length
