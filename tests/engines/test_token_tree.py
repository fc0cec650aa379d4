"""Choices as a token tree: what they share once, and every choice finds its tokens again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lorica.engines.native.token_tree import EMPTY_TREE, choice_tree

CHOICE = st.lists(st.integers(0, 2), min_size=1, max_size=5).map(tuple)


def test_what_choices_begin_alike_with_is_read_once() -> None:
    tree = choice_tree(((3, 4, 5), (6,), (3, 4, 7), (3, 9)))
    assert tree.tokens == (3, 4)
    assert tree.depths == (0, 1)
    assert tree.subtree_end == (2, 2)
    assert tree.paths == ((0, 1), (), (0, 1), (0,))


def test_single_tokens_need_nothing_read() -> None:
    assert choice_tree(((1,), (2,))).tokens == EMPTY_TREE.tokens


@given(st.lists(CHOICE, min_size=1, max_size=6).map(tuple))
def test_a_node_is_seen_by_what_goes_on_from_it_and_by_nothing_else(choices: tuple[tuple[int, ...], ...]) -> None:
    tree = choice_tree(choices)
    assert len(tree.tokens) == len({choice[:n] for choice in choices for n in range(1, len(choice))})
    words = {node: path[: at + 1] for path in tree.paths for at, node in enumerate(path)}
    for choice, path in zip(choices, tree.paths, strict=True):
        assert [tree.tokens[node] for node in path] == list(choice[:-1])
        assert [tree.depths[node] for node in path] == list(range(len(path)))
    for query in range(len(tree.tokens)):
        visible = [key for key in range(query + 1) if query < tree.subtree_end[key]]
        assert tuple(visible) == words[query], "the ancestors and itself"
