"""The choices of a row as a token tree behind its prompt: what choices share is computed once. No torch here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache


@dataclass(frozen=True)
class TokenTree:
    """All but the last token of every choice, in depth-first order. Tree attention: a token sees the prompt, its
    ancestors and itself.

    tokens, depths: of each node. subtree_end: the first node behind each node's subtree. paths: the nodes of each
    choice.
    """

    tokens: tuple[int, ...] = ()
    depths: tuple[int, ...] = ()
    subtree_end: tuple[int, ...] = ()
    paths: tuple[tuple[int, ...], ...] = ()


EMPTY_TREE = TokenTree()


@lru_cache(maxsize=4096)
def choice_tree(choices: tuple[tuple[int, ...], ...]) -> TokenTree:
    """The tokens to run through the model to score these choices; the last token of a choice is only predicted.

    Cached: most rows of a run have the same choices.
    """
    # Sorted, a node stands right before its descendants: depth first.
    nodes = sorted({choice[:length] for choice in choices for length in range(1, len(choice))})
    node_index = {node: index for index, node in enumerate(nodes)}
    return TokenTree(
        tuple(node[-1] for node in nodes),
        tuple(len(node) - 1 for node in nodes),
        tuple(_subtree_ends(nodes)),
        tuple(tuple(node_index[choice[:length]] for length in range(1, len(choice))) for choice in choices),
    )


def _subtree_ends(nodes: Sequence[tuple[int, ...]]) -> list[int]:
    ends = [len(nodes)] * len(nodes)
    open_nodes: list[int] = []
    for index, node in enumerate(nodes):
        while open_nodes and len(nodes[open_nodes[-1]]) >= len(node):
            ends[open_nodes.pop()] = index
        open_nodes.append(index)
    return ends
