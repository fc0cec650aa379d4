"""Disjoint sets: which of many items belong together, by pairs of which that is known."""

from __future__ import annotations

from collections.abc import Iterable


class UnionFind:
    """Disjoint sets of 0..n-1; the representative of a set is its smallest member."""

    def __init__(self, size: int) -> None:
        self._parent = list(range(size))

    def find(self, item: int) -> int:
        """The representative of the item's set."""
        parent = self._parent
        while parent[item] != item:
            parent[item] = parent[parent[item]]
            item = parent[item]
        return item

    def join(self, first: int, second: int) -> None:
        """Make one set of the two items' sets."""
        first, second = self.find(first), self.find(second)
        self._parent[max(first, second)] = min(first, second)

    def join_all(self, items: Iterable[int]) -> None:
        """Make one set of the sets of all these items."""
        first, *followers = items
        for follower in followers:
            self.join(first, follower)
