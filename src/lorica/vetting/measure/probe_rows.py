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


def shipped_rows(task_name: str) -> list[Row]:
    """The probes of the task `task_name`, all with gold. Of a task whose rows have examples each two are a pair: one of
    label 1, one of label 0."""
    task = load_task(task_name)
    return rows_from_memory(task.probes.records(), task.schemas)


def common_words() -> list[str]:
    """Words and signs that answers begin with."""
    return (_FOLDER / "words.txt").read_text("utf-8").split()


def chosen_rows(rows: Sequence[Row], max_rows: int, seed: int) -> list[Row]:
    """At most `max_rows` rows, drawn evenly from each gold label, in the order of the file."""
    if len(rows) <= max_rows:
        return list(rows)
    generator = np.random.default_rng(seed)
    by_gold: dict[object, list[int]] = {}
    for row_index in generator.permutation(len(rows)).tolist():
        gold = rows[row_index].gold
        by_gold.setdefault(gold if isinstance(gold, int) else gold is None, []).append(row_index)
    drawn_indices: list[int] = []
    while len(drawn_indices) < max_rows:
        for label_indices in by_gold.values():
            if label_indices and len(drawn_indices) < max_rows:
                drawn_indices.append(label_indices.pop())
    return [rows[row_index] for row_index in sorted(drawn_indices)]


def with_shuffled_texts(task: Task, rows: Sequence[Row], seed: int) -> list[Row]:
    """Each row with the text of another: what is left tells how much an answer owes to it. Gold stays."""
    random_order = np.random.default_rng(seed).permutation(len(rows)).tolist()
    # Each row takes the text of the next in a random circle, so that none keeps its own.
    donor_indices = dict(zip(random_order, random_order[1:] + random_order[:1], strict=True))
    return [task.with_text_of(row, rows[donor_indices[row_index]]) for row_index, row in enumerate(rows)]
