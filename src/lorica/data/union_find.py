"""Disjoint sets: which of many items belong together, by pairs of which that is known."""

from __future__ import annotations

from collections.abc import Iterable


class UnionFind:
    """Disjoint sets of 0..n-1; the representative of a set is its smallest member."""

    def __init__(self, item_count: int) -> None:
        self._parent = list(range(item_count))

    def find(self, item: int) -> int:
        """The representative of the item's set."""
        parent = self._parent
        while parent[item] != item:
            parent[item] = parent[parent[item]]
            item = parent[item]
        return item

    def join(self, first_item: int, second_item: int) -> None:
        """Make one set of the two items' sets."""
        first_item, second_item = self.find(first_item), self.find(second_item)
        self._parent[max(first_item, second_item)] = min(first_item, second_item)

    def join_all(self, items: Iterable[int]) -> None:
        """Make one set of the sets of all these items."""
        first_item, *followers = items
        for follower in followers:
            self.join(first_item, follower)
