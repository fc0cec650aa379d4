"""A file of rows answered in windows, each committed to a journal: a killed run loses at most one batch of scores, or
one group of generations.
"""

from __future__ import annotations

import itertools
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lorica.data.answers import CALIBRATION_COLUMNS, PASSAGE_COLUMNS
from lorica.data.journal import Journal
from lorica.data.write import write_answers
from lorica.pipeline.answer import Pipeline
from lorica.pipeline.retrieve import RETRIEVAL_FAILED
from lorica.records import Answer, Row


@dataclass
class Summary:
    """What happened to the rows of one output file; every count is in rows.

    `seconds` is the wall time of this call alone, in which `answered` rows were computed; after a resume that is fewer
    than `rows`. `passages` counts passages of a knowledge base; `first_failed_look_up` names the first row whose
    look-up failed.
    """

    rows: int = 0
    answered: int = 0
    seconds: float = 0.0
    adapters: Counter[str] = field(default_factory=Counter)
    routes: Counter[str] = field(default_factory=Counter)
    stages: Counter[str] = field(default_factory=Counter)
    flags: Counter[str] = field(default_factory=Counter)
    first_error: str = ""
    passages: Counter[str] = field(default_factory=Counter)  # `shown`, `cut` and `dropped`
    first_failed_look_up: str = ""
    masses: array[float] = field(default_factory=lambda: array("d"))  # `Answer.choice_mass` of the rows that have one

    def count(self, answer: Answer) -> None:
        """Add one answer."""
        self.rows += 1
        self.adapters[answer.adapter] += 1
        self.routes[answer.route] += 1
        self.stages[answer.stage] += 1
        self.flags.update(answer.flags)
        if answer.choice_mass is not None:
            self.masses.append(answer.choice_mass)
        if "error" in answer.flags and not self.first_error:
            self.first_error = f"{answer.id}: {answer.problem}"
        if answer.passages is not None:
            cut = sum(passage.dropped_tokens > 0 for passage in answer.passages)
            self.passages.update(shown=len(answer.passages), cut=cut, dropped=answer.dropped_passages)
        if RETRIEVAL_FAILED in answer.flags and not self.first_failed_look_up:
            self.first_failed_look_up = f"{answer.id}: {answer.problem}"


def answer_file(
    pipeline: Pipeline,
    rows: Iterator[Row],
    journal: Journal,
    output: Path,
    *,
    window_rows: int,
    csv_guard: bool = True,
    on_done: Callable[[int], None] | None = None,
    warmup_rows: Sequence[Row] = (),
    amended: Callable[[Answer], Answer] | None = None,
) -> Summary:
    """Answer `rows` in windows, committing each to the journal, and write `output` in input order at the end.

    Rows that the journal already holds are skipped, not computed again; nor is what was finished of the window under
    way. Memory holds one window. warmup_rows: computed once beforehand, where anything is left to compute; their
    timings are logged as those of a warm-up. amended: makes of an answer what is written.
    """
    summary = Summary()
    started = time.perf_counter()
    skipped = sum(1 for _ in itertools.islice(rows, journal.done))
    if on_done is not None and skipped:
        on_done(skipped)
    first_row = next(rows, None)
    if first_row is not None:
        rows = itertools.chain([first_row], rows)
        if warmup_rows:
            journal.log_timings(pipeline.warm_up(warmup_rows, journal.part))
    while window := list(itertools.islice(rows, window_rows)):
        journal.commit(*pipeline.answer_timed(window, on_done, journal.outputs()))
        summary.answered += len(window)
    answers = journal.answers()
    write_answers(
        output,
        _count_answers(answers if amended is None else map(amended, answers), summary),
        csv_guard=csv_guard,
        optional_columns=(
            *(CALIBRATION_COLUMNS if pipeline.calibrations else ()),
            *(PASSAGE_COLUMNS if pipeline.retriever is not None else ()),
        ),
    )
    summary.seconds = time.perf_counter() - started
    return summary


def _count_answers(answers: Iterable[Answer], summary: Summary) -> Iterator[Answer]:
    for answer in answers:
        summary.count(answer)
        yield answer
