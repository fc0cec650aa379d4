"""Label balance of a training set: from rows with one answer alone an adapter learns to give it to everything."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lorica.records import Row

if TYPE_CHECKING:
    from lorica.tasks.base import Task

# From this share of the rows on, and of so many rows, the commonest answer is worth a word.
_SHARE, _ROWS = 0.9, 10


@dataclass(frozen=True)
class AnswerCounts:
    """Rows with an answer, how many different answers they have, and how many rows have the commonest one (`example`
    is one of them). Texts that differ in capitals alone are one answer."""

    rows: int
    distinct: int
    largest: int
    example: Row | None = None

    def plain(self) -> dict[str, int]:
        """For a record."""
        return {"rows": self.rows, "distinct": self.distinct, "largest": self.largest}


def count_answers(rows: Iterable[Row]) -> AnswerCounts:
    """Count the gold answers of rows; rows without one are left out."""
    counts: Counter[object] = Counter()
    examples: dict[object, Row] = {}
    for row in rows:
        if row.gold is None:
            continue
        key = row.gold if isinstance(row.gold, int) else " ".join(row.gold[0].split()).casefold() if row.gold else ""
        counts[key] += 1
        examples.setdefault(key, row)
    if not counts:
        return AnswerCounts(0, 0, 0)
    answer, largest = counts.most_common(1)[0]
    return AnswerCounts(counts.total(), len(counts), largest, examples[answer])


def label_notes(task: Task, train: AnswerCounts, held: AnswerCounts) -> list[str]:
    """What a person should know of the answers before the training begins."""
    notes = []
    if train.example is not None and train.rows > 1:
        answer = f"{task.target(train.example)!r:.60}"
        if train.distinct == 1:
            notes.append(
                f"all {train.rows} training rows have the answer {answer}: the adapter can only learn to say that to "
                "everything. Add rows with other answers"
            )
        elif is_lopsided(train.rows, train.largest):
            notes.append(
                f"{train.largest} of {train.rows} training rows have the answer {answer}: a loss can fall by saying "
                "that to everything. Look at ROC-AUC or the rarer answers, not at accuracy"
            )
    if held.example is not None and held.rows > 1 and held.distinct == 1 and train.distinct > 1:
        notes.append(
            f"all {held.rows} held-out rows have the answer {task.target(held.example)!r:.60}: the best checkpoint is "
            "chosen by that answer alone. Add rows, or raise training.val_ratio"
        )
    return notes


def label_facts(train: AnswerCounts, held: AnswerCounts) -> Mapping[str, object]:
    """For training.json."""
    return {"labels": {"training": train.plain(), "held_out": held.plain()}}


def is_lopsided(rows: int, largest: int) -> bool:
    """Whether nearly all rows have one answer."""
    return rows >= _ROWS and largest >= _SHARE * rows
