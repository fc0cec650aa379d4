"""One file of answers with all that its page shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from lorica.pipeline.evaluate import Evaluation
from lorica.pipeline.judged_answers import JudgedAnswer
from lorica.records import Answer, RowTiming
from lorica.runs.run_record import RunRecord


@dataclass(frozen=True)
class AnsweringRun:
    """The run that wrote a file of answers. timings: by row id, without its warm-up."""

    record: RunRecord
    timings: Mapping[str, RowTiming]


@dataclass(frozen=True)
class EvaluatedFile:
    """name: of the file. judged: its rows as the task reads them; right: whether each is. run: that wrote it, where it
    left a record."""

    name: str
    judged: Sequence[JudgedAnswer]
    right: Sequence[bool]
    evaluation: Evaluation
    run: AnsweringRun | None = None

    def __post_init__(self) -> None:
        if len(self.judged) != len(self.right):
            raise ValueError(f"{self.name}: {len(self.judged)} rows and {len(self.right)} marks of right and wrong")

    @cached_property
    def timings(self) -> list[RowTiming]:
        """Of the evaluated rows that the run measured."""
        timings = {} if self.run is None else self.run.timings
        return [timings[judged.row.id] for judged in self.judged if judged.row.id in timings]

    @cached_property
    def seconds(self) -> dict[str, float]:
        """Row id -> the engine's seconds, of the evaluated rows that the run measured."""
        return {timing.id: timing.seconds for timing in self.timings if timing.seconds}


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
