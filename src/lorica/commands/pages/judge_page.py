"""The page of `lorica judge --html`: how far the judge can be believed, then what it found, and the rows to read."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random

from lorica.commands.judge_report import FAILURE_REASONS, belief_table, confusion_table, letter_sentence, rates_sentence
from lorica.commands.pages.page_parts import MAX_ROWS, MAX_TEXT, estimates_plot, facts_section, whole_page
from lorica.judging.agreement import Agreement
from lorica.judging.judge_result import JudgeResult
from lorica.judging.rubrics import JudgeItem
from lorica.judging.verdicts import RowVerdict
from lorica.names import count_of
from lorica.reports.page import Cell, Report, ReportTable, Section
from lorica.reports.page_size import shorten
from lorica.reports.write_report import write_csv

_NO_ITEM = JudgeItem("", "", ())


def judge_page(result: JudgeResult, facts: Sequence[tuple[str, Cell]]) -> Report:
    """The whole page. facts: files with their digests, for the end."""
    identity = [(f"judge: {name}", value) for name, value in result.judge.items()]
    calls: list[tuple[str, Cell]] = [
        ("calls of this run", result.calls),
        ("calls from the journal", result.journaled),
        ("sent again", result.retried),
        ("prompt tokens", result.prompt_tokens),
        ("reply tokens", result.completion_tokens),
    ]
    rubric = [("rubric", result.rubric), ("rubric's digest", result.rubric_digest)]
    sections = [
        _belief(result),
        *(_agreement(entry) for entry in result.agreements if entry.n),
        _verdicts(result),
        _rows(result),
        facts_section([*identity, *rubric, *calls, *facts]),
    ]
    return whole_page(f"Verdicts of a judge: {result.rubric}", _summary(result), sections)


def _summary(result: JudgeResult) -> list[str]:
    """Whether to believe the judge comes before what it says."""
    beliefs = [
        f"The judge agrees with {entry.reference} on {entry.accuracy} of {entry.n:,} rows, Cohen's kappa {entry.kappa}."
        for entry in result.agreements
        if entry.n and entry.is_beyond_chance
    ]
    beliefs += [f"Beware: {warning}" for warning in result.warnings]
    if not result.agreements:
        beliefs.append("Beware: nothing was there to hold the judge against; --labels names rows that people labelled.")
    mean = result.mean
    sampled = f", a sample of {result.row_count:,}" if result.sampled else ""
    sentence = f"Mean verdict {mean.mean} over the {mean.judged:,} judged of {mean.n:,} rows{sampled}."
    if result.failed:
        sentence += f" Between {mean.lowest:.3f} and {mean.highest:.3f} with the {result.failed:,} that failed."
    return [*beliefs, sentence]


def _belief(result: JudgeResult) -> Section:
    notes = [letter_sentence(result)] if letter_sentence(result) else []
    if result.label_mass is not None:
        lowest, average = result.label_mass
        notes.append(f"The letters had {average:.1%} of the model's probability in the mean, {lowest:.1%} at least.")
    if result.control_tokens:
        holding = count_of(len(result.control_tokens), "row holds", "rows hold")
        notes.append(f"{holding} text that a server may take for its control tokens.")
    return Section("Can the judge be believed?", tables=(belief_table(result),), notes=tuple(notes))


def _agreement(entry: Agreement) -> Section:
    return Section(
        f"Against {entry.reference}",
        f"On {entry.n:,} rows. {rates_sentence(entry)}",
        tables=(confusion_table(entry),),
        charts=(
            estimates_plot("agreement and kappa", (("agreement", entry.accuracy), ("Cohen's kappa", entry.kappa))),
        ),
    )


def _verdicts(result: JudgeResult) -> Section:
    counts: list[tuple[Cell, ...]] = [(label, count, count / result.mean.n) for label, count in result.labels.items()]
    counts += [
        (f"failed: {FAILURE_REASONS[failure]}", count, count / result.mean.n)
        for failure, count in result.failures.items()
    ]
    ruled = count_of(result.no_answer, "row without an answer has", "rows without an answer have")
    notes = [f"{ruled} a verdict by rule."] if result.no_answer else []
    if result.mean.score is not None:
        notes.append(f"Mean by probability: {result.mean.score}.")
    return Section("Verdicts", tables=(ReportTable(("verdict", "rows", "share"), tuple(counts)),), notes=tuple(notes))


def _rows(result: JudgeResult) -> Section:
    """Rows to read: failures and verdicts that did not stay before others, then the least certain."""
    order = sorted(range(len(result.rows)), key=lambda index: _interest(result.rows[index]))
    if len(order) > MAX_ROWS:
        first, others = order[: MAX_ROWS // 2], order[MAX_ROWS // 2 :]
        order = first + sorted(Random(0).sample(others, MAX_ROWS - len(first)))
    verdicts = [result.rows[index] for index in order]
    columns = _row_columns(result.items, verdicts, max_characters=MAX_TEXT)
    columns = {head: cells for head, cells in columns.items() if any(cell not in ("", None) for cell in cells)}
    table = ReportTable(
        tuple(columns),
        tuple(zip(*columns.values(), strict=True)),
        interactive=True,
        choose=tuple(head for head in columns if head in ("verdict", "failure", "as asked", "swapped")),
        narrow=("id", "question", "answer", "verdict"),
        opens=True,
        detail=tuple(head for head in columns if head in ("as asked", "swapped", "failure", "detail", "by rule")),
        marks=tuple(_marks(verdict) for verdict in verdicts),
        total=len(result.rows),
        sampling="failures, verdicts that did not stay, the least certain, and a sample of the others, seed 0",
    )
    note = "Failures first, then verdicts that depend on the order, then the least certain."
    return Section("Rows to read", note, tables=(table,))


def _interest(verdict: RowVerdict) -> tuple[bool, bool, float]:
    return verdict.is_judged, verdict.is_consistent, max(verdict.probabilities.values(), default=1.0)


def _marks(verdict: RowVerdict) -> tuple[str, ...]:
    conditions = {"failures": not verdict.is_judged, "verdicts that depend on the order": not verdict.is_consistent}
    return tuple(name for name, applies in conditions.items() if applies)


def _row_columns(
    items: Mapping[str, JudgeItem], verdicts: Sequence[RowVerdict], *, max_characters: int
) -> dict[str, list[Cell]]:
    row_items = [items.get(verdict.row_id, _NO_ITEM) for verdict in verdicts]
    answer_count = max((len(item.answers) for item in row_items), default=0)
    texts = {"question": [item.question for item in row_items], "gold": [item.reference for item in row_items]}
    for number in range(answer_count):
        head = "answer" if answer_count == 1 else f"answer {number + 1}"
        texts[head] = [item.answers[number] if item.answers else "" for item in row_items]
    columns: dict[str, list[Cell]] = {"id": [verdict.row_id for verdict in verdicts]}
    columns |= {head: [shorten(text, max_characters) for text in column] for head, column in texts.items()}
    return columns | {
        "verdict": [verdict.label for verdict in verdicts],
        "score": [None if math.isnan(verdict.score) else round(verdict.score, 4) for verdict in verdicts],
        "as asked": [verdict.orders[0] for verdict in verdicts],
        "swapped": [verdict.orders[1] for verdict in verdicts],
        "by rule": ["yes" if verdict.by_rule else "" for verdict in verdicts],
        "failure": [verdict.failure for verdict in verdicts],
        "detail": [shorten(verdict.detail, max_characters) for verdict in verdicts],
    }


def write_judged_rows(path: Path, result: JudgeResult) -> None:
    """All rows with their verdicts as CSV. Raises DataError."""
    columns = _row_columns(result.items, result.rows, max_characters=sys.maxsize)
    write_csv(path, tuple(columns), zip(*columns.values(), strict=True))
