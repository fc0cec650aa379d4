"""Train/validation splits without leakage: nothing held out was, in effect, seen in training.

Rows of one group, and rows whose texts are equal or nearly equal (see `near_duplicates`), form one component, also
across steps (a ~ b and b ~ c put a, b, c together). Components are never divided; the classes' shares are
kept as well as that allows.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence

import msgspec

from lorica.data.near_duplicates import join_rewritten
from lorica.data.union_find import UnionFind
from lorica.errors import ConfigError, DataError
from lorica.records import Row


class _Component(msgspec.Struct, frozen=True):
    members: list[int]
    classes: dict[str, int]  # class -> number of members


def split(
    rows: Sequence[Row], *, ratio: float, seed: int, text: Callable[[Row], str], source: str = "<rows>"
) -> tuple[list[Row], list[Row]]:
    """(rows to train on, rows held out), each in the order of `rows`; about `ratio` of them are held out.

    Stratified by `gold` where it is an integer. The same rows and seed give the same split. Neither side is
    empty. source: what a message calls the rows, such as their file. Raises ConfigError unless 0 < ratio < 1, and
    DataError when all rows form one component.
    """
    if not 0 < ratio < 1:
        raise ConfigError(
            f"the held-out share must lie between 0 and 1, got {ratio}", fix="e.g. training.val_ratio=0.15"
        )
    components = _shuffled(rows, text, seed)
    split_sides = "a training and a held-out side"
    require_components(
        rows, len(components), 2, split_sides, source=source, otherwise="training.val_ratio=0 trains on all rows"
    )
    targets = {class_name: ratio * class_count for class_name, class_count in Counter(map(label_text, rows)).items()}
    counts = Counter[str]()
    chosen: list[_Component] = []
    remaining: list[_Component] = []
    for component in components:
        if _gain(component, counts, targets) > 0:
            counts.update(component.classes)
            chosen.append(component)
        else:
            remaining.append(component)
    if not chosen:  # every component overshoots: take the one that does so least
        chosen.append(max(remaining, key=lambda candidate: (_gain(candidate, counts, targets), -candidate.members[0])))
        remaining.remove(chosen[0])
    elif not remaining:
        remaining.append(chosen.pop())
    held_rows = {row_index for component in chosen for row_index in component.members}
    return (
        [row for row_index, row in enumerate(rows) if row_index not in held_rows],
        [row for row_index, row in enumerate(rows) if row_index in held_rows],
    )


def components_of(rows: Sequence[Row], text_of_row: Callable[[Row], str]) -> list[list[int]]:
    """The indices of rows that must stay together, each list ascending, the lists by their first index."""
    union_find = UnionFind(len(rows))
    join_groups(rows, union_find)
    join_rewritten([text_of_row(row) for row in rows], union_find)
    members: dict[int, list[int]] = {}
    for row_index in range(len(rows)):
        members.setdefault(union_find.find(row_index), []).append(row_index)
    return list(members.values())


def join_groups(rows: Sequence[Row], union_find: UnionFind) -> None:
    """Make one set of the rows of each group; rows without one stay."""
    first_by_group: dict[str, int] = {}
    for row_index, row in enumerate(rows):
        if row.group:
            union_find.join(first_by_group.setdefault(row.group, row_index), row_index)


def _shuffled(rows: Sequence[Row], text_of_row: Callable[[Row], str], seed: int) -> list[_Component]:
    """Components in an order that only the rows and the seed decide; single rows last, for they even the rest out."""
    components = [
        _Component(members, dict(Counter(label_text(rows[row_index]) for row_index in members)))
        for members in components_of(rows, text_of_row)
    ]
    random.Random(seed).shuffle(components)
    return sorted(components, key=lambda component: len(component.members) == 1)


def label_text(row: Row) -> str:
    """The label of a row whose gold answer is one, "" of any other."""
    return str(row.gold) if isinstance(row.gold, int) else ""


def _gain(component: _Component, counts: Counter[str], targets: dict[str, float]) -> float:
    """How much nearer the held-out counts come to their targets, squared and relative to the class's size."""
    total_gain = 0.0
    for class_name, class_count in component.classes.items():
        missing_count = targets[class_name] - counts[class_name]
        total_gain += (missing_count**2 - (missing_count - class_count) ** 2) / targets[class_name]
    return total_gain


def require_components(
    rows: Sequence[Row], component_count: int, minimum: int, sides: str, *, source: str, otherwise: str
) -> None:
    """Raise DataError for too few sets of rows that can be told apart to make these sides."""
    if component_count >= minimum:
        return
    groups = len({row.group for row in rows if row.group})
    raise DataError(
        f"{len(rows)} rows in {groups} groups cannot be divided into {sides}: rows of one group and "
        f"near-duplicate texts stay together, which leaves {component_count} that can be told apart",
        path=source,
        fix=f"add rows that differ, or group them less coarsely; {otherwise}",
    )
