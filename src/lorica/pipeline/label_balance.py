"""Label balance of a training set: from rows with one answer alone an adapter learns to give it to everything."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lorica.names import count_of
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
        answer_key = (
            row.gold if isinstance(row.gold, int) else " ".join(row.gold[0].split()).casefold() if row.gold else ""
        )
        counts[answer_key] += 1
        examples.setdefault(answer_key, row)
    if not counts:
        return AnswerCounts(0, 0, 0)
    answer, largest = counts.most_common(1)[0]
    return AnswerCounts(counts.total(), len(counts), largest, examples[answer])


def label_notes(task: Task, training_answers: AnswerCounts, held_out_answers: AnswerCounts) -> list[str]:
    """What a person should know of the answers before the training begins."""
    balance_notes = []
    if training_answers.example is not None and training_answers.rows > 1:
        answer = f"{task.target(training_answers.example)!r:.60}"
        if training_answers.distinct == 1:
            balance_notes.append(
                f"all {training_answers.rows} training rows have the answer {answer}: the adapter can only learn "
                "to say that to everything. Add rows with other answers"
            )
        elif is_lopsided(training_answers.rows, training_answers.largest):
            balance_notes.append(
                f"{training_answers.largest} of {training_answers.rows} training rows have the answer "
                f"{answer}: a loss can fall by saying that to everything. "
                "Look at ROC-AUC or the rarer answers, not at accuracy"
            )
    if (
        held_out_answers.example is not None
        and held_out_answers.rows > 1
        and held_out_answers.distinct == 1
        and training_answers.distinct > 1
    ):
        balance_notes.append(
            f"all {held_out_answers.rows} held-out rows have the answer "
            f"{task.target(held_out_answers.example)!r:.60}: the best checkpoint is chosen by that answer alone. "
            "Add rows, or raise training.val_ratio"
        )
    return balance_notes


def contradiction_notes(task: Task, rows: Iterable[Row]) -> list[str]:
    """What a person should know of rows that ask the same and have different labels; texts may have several answers."""
    first_rows: dict[tuple[object, ...], Row] = {}
    contradictions: list[tuple[Row, Row]] = []
    for row in rows:
        if not isinstance(row.gold, int):
            continue
        asked = (task.baseline_text(row), *task.options(row).items())
        first_row = first_rows.setdefault(asked, row)
        if first_row.gold != row.gold:
            contradictions.append((first_row, row))
    if not contradictions:
        return []
    first_row, row = contradictions[0]
    counted = count_of(len(contradictions), "row asks", "rows ask")
    return [
        f"{counted} what an earlier row asks, with another answer, first {row.id!r} (the earlier one is "
        f"{first_row.id!r}): nothing can learn both. Correct them, or leave them out"
    ]


def label_facts(training_answers: AnswerCounts, held_out_answers: AnswerCounts) -> Mapping[str, object]:
    """For training.json."""
    return {"labels": {"training": training_answers.plain(), "held_out": held_out_answers.plain()}}


def is_lopsided(rows: int, largest: int) -> bool:
    """Whether nearly all rows have one answer."""
    return rows >= _ROWS and largest >= _SHARE * rows
