"""The workloads, as token ids: nothing but the standard library, so that every peer's interpreter can make them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

NEW_TOKENS = 48


@dataclass(frozen=True)
class Item:
    """One row. choices: single tokens to score after the prompt; none means NEW_TOKENS greedy tokens are wanted.
    shared: how many of the prompt's first tokens all rows of its adapter begin with.
    """

    id: str
    adapter: str
    prompt: tuple[int, ...]
    choices: tuple[int, ...]
    shared: int


@dataclass(frozen=True)
class Shape:
    """rows; prefix, own (range), suffix: tokens; choices: per row."""

    rows: int
    prefix: int
    own: tuple[int, int]
    suffix: int
    choices: int


SHAPES = {
    "w1": Shape(200, 350, (20, 150), 30, 2),
    "w2": Shape(200, 60, (80, 160), 0, 4),
    "w3": Shape(64, 60, (20, 80), 0, 0),
}
SPREADS = (1, 4, 32, 128)


def names(adapters: int) -> list[str]:
    """The adapters' names."""
    return [f"adapter-{number}" for number in range(adapters)]


def make(work: str, vocab_size: int, rows: int = 0) -> list[Item]:
    """A workload by name: w1, w2, w3 (four adapters, interleaved), or w4-N (w1's rows over N adapters).

    rows: 0 for as many as the workload has.
    """
    spread = int(work[3:]) if work.startswith("w4-") else 4
    shape = SHAPES["w1" if work.startswith("w4-") else work]
    rng = random.Random(f"{work[:2] if work[:2] != 'w4' else 'w1'} {vocab_size}")

    def some(count: int) -> tuple[int, ...]:
        return tuple(rng.randrange(vocab_size) for _ in range(count))

    suffix = some(shape.suffix)
    tails = [some(rng.randint(*shape.own)) + suffix for _ in range(rows or shape.rows)]
    choices = some(shape.choices)
    starts = {name: some(shape.prefix) for name in names(spread)}
    order = names(spread)
    return [
        Item(f"row-{i}", order[i % spread], starts[order[i % spread]] + tail, choices, shape.prefix)
        for i, tail in enumerate(tails)
    ]


def by_adapter(items: list[Item]) -> Iterator[tuple[str, list[int]]]:
    """Each adapter with the numbers of its items."""
    found: dict[str, list[int]] = {}
    for number, item in enumerate(items):
        found.setdefault(item.adapter, []).append(number)
    yield from found.items()
