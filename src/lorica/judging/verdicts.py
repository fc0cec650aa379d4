"""Two calls, one in each order, to the verdict on a row."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from lorica.judging.calls import CallRecord
from lorica.judging.rubrics import Rubric

NOT_ASKED = "not_asked"
_EQUAL = 1e-12  # a difference of probabilities that rounding makes


@dataclass(frozen=True)
class RowVerdict:
    """The verdict on a row; label "" where there is none, and `failure` says why.

    score: the labels' values by their probability, in the mean of both orders. orders: the label in each order, as
    asked and swapped. by_rule: nobody was asked, because a row without an answer is never right.
    """

    row_id: str
    label: str = ""
    score: float = math.nan
    probabilities: Mapping[str, float] = field(default_factory=dict)
    orders: tuple[str, str] = ("", "")
    failure: str = ""
    detail: str = ""
    by_rule: bool = False

    @property
    def is_judged(self) -> bool:
        """Whether it has a verdict."""
        return bool(self.label)

    @property
    def is_consistent(self) -> bool:
        """Whether both orders gave the same label; of a row that was asked."""
        return self.orders[0] == self.orders[1]


def combine(row_id: str, rubric: Rubric, records: tuple[CallRecord | None, CallRecord | None]) -> RowVerdict:
    """The verdict of the same item in both orders; None for a call that was not made."""
    first, second = records
    if first is None or second is None:
        return RowVerdict(row_id, failure=NOT_ASKED, detail="a limit ended the run before")
    failed_record = next((record for record in (first, second) if record.failure), None)
    if failed_record is not None:
        return RowVerdict(row_id, failure=failed_record.failure, detail=failed_record.detail)
    orders = (record_label(rubric, first), record_label(rubric, second))
    means = {
        label.name: (first.probabilities[label.name] + second.probabilities[label.name]) / 2 for label in rubric.labels
    }
    score = sum(share * rubric.value_of(name) for name, share in means.items())
    return RowVerdict(row_id, likeliest(rubric, means), score, means, orders)


def by_rule(row_id: str, rubric: Rubric, label_name: str) -> RowVerdict:
    """The verdict on a row of which one answer is missing."""
    return RowVerdict(row_id, label_name, rubric.value_of(label_name), by_rule=True)


def record_label(rubric: Rubric, record: CallRecord) -> str:
    """The label that a call speaks for."""
    return likeliest(rubric, record.probabilities)


def likeliest(rubric: Rubric, probabilities: Mapping[str, float]) -> str:
    """The label of the highest probability; the undecided one where several share it."""
    highest = max(probabilities.values())
    names = [name for name, share in probabilities.items() if share >= highest - _EQUAL]
    return names[0] if len(names) == 1 else rubric.undecided.name
