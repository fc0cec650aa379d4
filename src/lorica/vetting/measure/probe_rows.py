"""The rows that are asked: shipped ones of each task, or an even sample of a user's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lorica.data.read import rows_from_memory
from lorica.records import Row
from lorica.tasks import load_task
from lorica.tasks.base import Task

_FOLDER = Path(__file__).parent / "probes"


def shipped_rows(name: str) -> list[Row]:
    """The probes of the task `name`, all with gold. Of a task whose rows have examples each two are a pair: one of
    label 1, one of label 0."""
    task = load_task(name)
    return rows_from_memory(task.probes.records(), task.schemas)


def common_words() -> list[str]:
    """Words and signs that answers begin with."""
    return (_FOLDER / "words.txt").read_text("utf-8").split()


def chosen_rows(rows: Sequence[Row], count: int, seed: int) -> list[Row]:
    """At most `count` rows, drawn evenly from each gold label, in the order of the file."""
    if len(rows) <= count:
        return list(rows)
    random = np.random.default_rng(seed)
    by_gold: dict[object, list[int]] = {}
    for index in random.permutation(len(rows)).tolist():
        gold = rows[index].gold
        by_gold.setdefault(gold if isinstance(gold, int) else gold is None, []).append(index)
    drawn: list[int] = []
    while len(drawn) < count:
        for members in by_gold.values():
            if members and len(drawn) < count:
                drawn.append(members.pop())
    return [rows[index] for index in sorted(drawn)]


def with_shuffled_texts(task: Task, rows: Sequence[Row], seed: int) -> list[Row]:
    """Each row with the text of another: what is left tells how much an answer owes to it. Gold stays."""
    order = np.random.default_rng(seed).permutation(len(rows)).tolist()
    # Each row takes the text of the next in a random circle, so that none keeps its own.
    donors = {index: order[(turn + 1) % len(order)] for turn, index in enumerate(order)}
    return [task.with_text_of(row, rows[donors[index]]) for index, row in enumerate(rows)]
