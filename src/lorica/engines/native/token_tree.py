"""Choices of several tokens as a tree: what they begin alike with is read once. No torch here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache


@dataclass(frozen=True)
class Branches:
    """All but the last token of every choice, depth first; a token sees the prompt, its ancestors and itself.

    tokens, depths: of each node. until: the node before which its descendants end. paths: the nodes of each choice.
    """

    tokens: tuple[int, ...] = ()
    depths: tuple[int, ...] = ()
    until: tuple[int, ...] = ()
    paths: tuple[tuple[int, ...], ...] = ()


NO_BRANCHES = Branches()


@lru_cache(maxsize=4096)
def branches_of(choices: tuple[tuple[int, ...], ...]) -> Branches:
    """What must be read to score these choices after a prompt; the last token of each is predicted, never read.

    Most rows of a run have the same choices, hence the memory.
    """
    known = {choice[:length] for choice in choices for length in range(1, len(choice))}
    # Sorted, every beginning stands right before what goes on from it: depth first.
    nodes = sorted(known)
    number = {node: index for index, node in enumerate(nodes)}
    return Branches(
        tuple(node[-1] for node in nodes),
        tuple(len(node) - 1 for node in nodes),
        tuple(_ends(nodes)),
        tuple(tuple(number[choice[:length]] for length in range(1, len(choice))) for choice in choices),
    )


def _ends(nodes: Sequence[tuple[int, ...]]) -> list[int]:
    ends = [len(nodes)] * len(nodes)
    open_nodes: list[int] = []
    for index, node in enumerate(nodes):
        while open_nodes and len(nodes[open_nodes[-1]]) >= len(node):
            ends[open_nodes.pop()] = index
        open_nodes.append(index)
    return ends
