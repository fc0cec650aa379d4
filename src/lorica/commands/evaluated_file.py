"""One file of answers with all that its page shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lorica.pipeline.evaluate import Evaluation
from lorica.pipeline.judged_answers import JudgedAnswer
from lorica.records import Answer


@dataclass(frozen=True)
class EvaluatedFile:
    """name: of the file. judged: its rows as the task reads them; right: whether each is. seconds: row id -> how long
    its answer took, of rows that say so."""

    name: str
    judged: Sequence[JudgedAnswer]
    right: Sequence[bool]
    evaluation: Evaluation
    seconds: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.judged) != len(self.right):
            raise ValueError(f"{self.name}: {len(self.judged)} rows and {len(self.right)} marks of right and wrong")


def certainty(answer: Answer) -> float | None:
    """How far an answer is from being undecided, 0 to 1: from a score of 0.5, or between the two likeliest choices;
    None where it has no probabilities."""
    if answer.score is not None:
        return min(1.0, 2 * abs(answer.score - 0.5))
    if answer.scores and len(answer.scores) > 1:
        second, first = sorted(answer.scores.values())[-2:]
        return first - second
    return None


def row_kinds(judged: JudgedAnswer) -> list[str]:
    """The parse stage and the flags of a row, and whether its prompt was truncated, it was asked again, or it has no
    answer that can be read."""
    answer = judged.answer
    conditions = {
        "truncated": answer.dropped_tokens > 0,
        "retried": answer.retries > 0,
        "no answer": judged.value is None and not judged.problem,
        "unreadable": bool(judged.problem),
        "answer contradicts its score": judged.contradictory,
    }
    kinds = [answer.stage or "(no stage)", *answer.flags, *(name for name, applies in conditions.items() if applies)]
    return list(dict.fromkeys(kinds))
