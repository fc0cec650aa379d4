"""What the page of an evaluation shows of the runs that answered: latency, the slowest rows, configuration, digests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from lorica.commands.arguments import inform
from lorica.commands.evaluated_file import AnsweringRun, EvaluatedFile
from lorica.data.row_timings import read_timings
from lorica.errors import DataError
from lorica.reports.page import Cell, Line, LineChart, ReportTable, Section
from lorica.reports.short_names import short_names
from lorica.runs.run_record import TIMINGS_NAME, RunRecord, run_folder_of
from lorica.runs.select_runs import flatten
from lorica.runs.stored_run import record_of_answers

_SLOWEST_ROWS = 20
_DRAWN = 6
_CURVE_POINTS = 101
_QUANTILES = {"median": 0.5, "90% within": 0.9, "99% within": 0.99}


def answering_run(answers_path: Path) -> AnsweringRun | None:
    """The run beside a file of answers; None, with a message where there is one, if it does not tell of this file."""
    folder = run_folder_of(answers_path)
    try:
        record = record_of_answers(answers_path)
        if record is None:
            return None
        timings_path = folder / TIMINGS_NAME
        timings = read_timings(timings_path) if timings_path.exists() else []
    except DataError as error:
        inform(f"the page shows nothing of that run: {error}")
        return None
    return AnsweringRun(record, {timing.id: timing for timing in timings if not timing.warmup})


def latency_section(files: Sequence[EvaluatedFile], names: Mapping[str, str]) -> Section:
    """How long rows took: over all, by subject, and the slowest."""
    timed = [file for file in files if file.seconds]
    over_all = [(names[file.name], *_latency_cells(list(file.seconds.values()))) for file in timed]
    lines = [Line(names[file.name], _share_within(list(file.seconds.values()))) for file in timed[:_DRAWN]]
    tables = (_latency_table((), over_all, ""), _latency_table(("subject",), _by_subject(timed, names), "By subject"))
    return Section(
        "Latency",
        "The engine's own seconds of each row: no loading, reading, tokenising or writing; a row computed in a "
        "batch has its share of it.",
        tables=(*(table for table in tables if table.rows), *(_slowest_table(file, names) for file in timed[:_DRAWN])),
        charts=(LineChart("Share of rows within", tuple(lines), "seconds", "share of rows"),) if lines else (),
    )


def _latency_table(heads: tuple[str, ...], rows: Sequence[tuple[Cell, ...]], caption: str) -> ReportTable:
    columns = ("answers", *heads, "rows", *_QUANTILES, "slowest", "sum")
    return ReportTable(columns, tuple(rows), caption=caption, interactive=len(rows) > _SLOWEST_ROWS)


def _latency_cells(seconds: Sequence[float]) -> tuple[Cell, ...]:
    quantiles = np.quantile(seconds, list(_QUANTILES.values())).tolist()
    return len(seconds), *(f"{value:.4g} s" for value in (*quantiles, max(seconds), sum(seconds)))


def _by_subject(timed: Sequence[EvaluatedFile], names: Mapping[str, str]) -> list[tuple[Cell, ...]]:
    rows: list[tuple[Cell, ...]] = []
    for file in timed:
        by_subject: dict[str, list[float]] = {}
        for judged in file.judged:
            if judged.row.id in file.seconds:
                by_subject.setdefault(judged.row.subject, []).append(file.seconds[judged.row.id])
        shown = short_names(by_subject, 60)
        if len(by_subject) > 1:
            rows += [
                (names[file.name], shown[subject] or "(none)", *_latency_cells(seconds))
                for subject, seconds in by_subject.items()
            ]
    return rows


def _slowest_table(file: EvaluatedFile, names: Mapping[str, str]) -> ReportTable:
    right_by_id = {judged.row.id: is_right for judged, is_right in zip(file.judged, file.right, strict=True)}
    timings = sorted(file.timings, key=lambda timing: -timing.seconds)
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (
            timing.id,
            f"{timing.seconds:.4g} s",
            timing.prompt_tokens,
            timing.generated_tokens,
            timing.adapter,
            "right" if right_by_id[timing.id] else "wrong",
        )
        for timing in timings[:_SLOWEST_ROWS]
    )
    columns = ("id", "seconds", "prompt tokens", "generated tokens", "adapter", "outcome")
    return ReportTable(columns, rows, f"The slowest rows of {names[file.name]}", total=len(timings))


def _share_within(seconds: Sequence[float]) -> tuple[tuple[float, float], ...]:
    shares = np.linspace(0, 1, _CURVE_POINTS)
    return tuple(zip(np.quantile(seconds, shares).tolist(), shares.tolist(), strict=True))


def configuration_section(files: Sequence[EvaluatedFile], names: Mapping[str, str]) -> Section:
    """Of each file's run what it was given and where it ran; of several runs what differs, then what does not."""
    values = {names[file.name]: _run_values(file.run.record) for file in files if file.run is not None}
    keys = list(dict.fromkeys(key for run_values in values.values() for key in run_values))
    rows: list[tuple[Cell, ...]] = [(key, *(run_values.get(key, "") for run_values in values.values())) for key in keys]
    differing = tuple(row for row in rows if len(set(row[1:])) > 1)
    alike = tuple(row[:2] for row in rows if len(set(row[1:])) == 1)
    tables = (
        ReportTable(("key", *values), differing, "What differs", interactive=True),
        ReportTable(("key", "value"), alike, "What is alike in all" if len(values) > 1 else "", interactive=True),
    )
    return Section("Configuration and digests", tables=tuple(table for table in tables if table.rows), folded=True)


def _run_values(record: RunRecord) -> dict[str, Cell]:
    """Every value of a record by a dotted key, and the digests of its files by their roles."""
    fields: dict[str, Any] = msgspec.to_builtins(record)
    for left_out in ("schema", "origins", "manifest"):
        fields.pop(left_out)
    for files in (fields.pop("inputs"), fields.pop("outputs")):
        fields |= {file["role"]: f"{file['path']}, {file['digest']}" for file in files}
    return {key: value if isinstance(value, int | float) else str(value) for key, value in flatten(fields).items()}
