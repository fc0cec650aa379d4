"""The page of `lorica eval --html`: what a reader of two figures, and one of single rows, wants to see, with latency
and configuration of the runs that answered."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from lorica.commands.eval_report import metric_title
from lorica.commands.evaluated_file import EvaluatedFile, shown_names
from lorica.commands.pages.eval_page_answers import adapters_section, answers_section, ranking_section, scores_section
from lorica.commands.pages.eval_page_rows import rows_section
from lorica.commands.pages.page_parts import (
    PAIRS_NOTE,
    estimates_plot,
    facts_section,
    pair_sentence,
    pairs_table,
    sample_text,
    whole_page,
)
from lorica.metrics.bootstrap import RESAMPLES
from lorica.pipeline.compare import FileComparison
from lorica.reports.page import Cell, Line, LineChart, Report, ReportTable, Section
from lorica.reports.short_names import short_names
from lorica.runs.run_record import RunRecord
from lorica.runs.select_runs import flatten
from lorica.tasks.base import Task

# Pairs of files that the verdict speaks of one by one, and groups that a chart shows.
_FEW_PAIRS = 6
_FEW_GROUPS = 40
_SLOWEST_ROWS = 20
_DRAWN = 6
_CURVE_POINTS = 101
_QUANTILES = {"median": 0.5, "90% within": 0.9, "99% within": 0.99}


def evaluation_page(
    files: Sequence[EvaluatedFile],
    task: Task,
    by: Mapping[str, Mapping[str, str]],
    comparison: FileComparison | None,
    facts: Sequence[tuple[str, Cell]],
) -> Report:
    """The whole page. by: column -> row id -> value, of the columns that were grouped by. facts: for the end."""
    shown = [file.shown for file in files]
    others = f" and {len(shown) - 3} others" if len(shown) > 3 else ""
    return whole_page(
        "Evaluation of " + ", ".join(shown[:3]) + others,
        [*_verdict(files, comparison), *_warnings(files)],
        [*evaluation_sections(files, task, by, comparison), facts_section(facts)],
    )


def evaluation_sections(
    files: Sequence[EvaluatedFile], task: Task, by: Mapping[str, Mapping[str, str]], comparison: FileComparison | None
) -> list[Section]:
    """Every section about the answers, as `evaluation_page` takes them."""
    sections = [_metrics(files)]
    if comparison is not None:
        sections.append(_pairs(files, comparison))
    sections += [_groups(files), *(_grouping(files, column) for column in files[0].evaluation.by)]
    scored = [file for file in files if file.evaluation.health is not None]
    if scored:
        sections += [ranking_section(scored), scores_section(scored)]
    sections += [adapters_section(files), answers_section(files), _latency(files)]
    return [*sections, rows_section(files, task, by), _configuration(files)]


def _title(files: Sequence[EvaluatedFile], comparison: FileComparison | None = None) -> str:
    """What files are compared by, or the metric that decides."""
    return metric_title(files[0].evaluation, files[0].main_metric if comparison is None else comparison.metric)


def _verdict(files: Sequence[EvaluatedFile], comparison: FileComparison | None) -> list[str]:
    title, names = _title(files, comparison), shown_names(files)
    if comparison is None:
        (file,) = files
        estimate = file.evaluation.metrics[file.main_metric]
        sentence = f"{file.shown}: {title} {estimate} on {file.evaluation.n:,} rows."
        if file.main_metric == "roc_auc" and not math.isnan(estimate.low):
            guessing = "better than guessing" if estimate.low > 0.5 else "not shown to be better than guessing"
            guessing = "worse than guessing: are the labels the wrong way round?" if estimate.high < 0.5 else guessing
            sentence += f" That is {guessing} (0.5)."
        return [sentence]
    if len(comparison.pairs) <= _FEW_PAIRS:
        return [pair_sentence(pair, title, names) for pair in comparison.pairs]
    best = [names[name] for name, rank in comparison.ranks.items() if rank == 1]
    apart = sum(bool(pair.better) for pair in comparison.pairs)
    others = f" and {len(best) - 5} others" if len(best) > 5 else ""
    return [
        f"None is shown to be better than {', '.join(best[:5])}{others}, of {len(files)} files ({title}).",
        f"{apart} of {len(comparison.pairs)} pairs of files differ by more than the choice of rows explains, corrected "
        f"for the number of pairs.",
    ]


def _warnings(files: Sequence[EvaluatedFile]) -> list[str]:
    """What a reader must know before a figure is believed."""
    sentences = []
    for file in files[:_FEW_PAIRS]:
        evaluation = file.evaluation
        reasons = list(evaluation.health.reasons.values()) if evaluation.health is not None else []
        counts = {
            "have no answer and count as wrong": len(evaluation.no_answer),
            "have an answer that cannot be read and count as wrong": len(evaluation.unreadable),
            "have a prompt that was truncated": evaluation.truncated,
        }
        reasons += [f"{count:,} of {evaluation.n:,} rows {what}" for what, count in counts.items() if count]
        sentences += [f"Beware, {file.shown}: {'; '.join(reasons)}."] if reasons else []
    return sentences


def _metrics(files: Sequence[EvaluatedFile]) -> Section:
    first = files[0].evaluation
    titles = [metric_title(first, metric) for metric in first.metrics]
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    if len(files) > len(titles):
        columns = ("answers", "rows", *titles)
        rows = tuple(
            (file.shown, sample_text(list(values)), *map(str, values))
            for file in files
            for values in (file.evaluation.metrics.values(),)
        )
    else:
        columns = ("metric", "rows", *(file.shown for file in files))
        rows = tuple(
            (title, sample_text(values), *map(str, values))
            for title, metric in zip(titles, first.metrics, strict=True)
            for values in ([file.evaluation.metrics[metric] for file in files],)
        )
    drawn = f"{first.bootstrap_groups} groups of rows" if first.bootstrap_groups else f"{first.n:,} rows"
    estimates = {file.shown: file.evaluation.metrics[files[0].main_metric] for file in files}
    return Section(
        "Metrics",
        f"Brackets are 95% intervals from {RESAMPLES:,} bootstrap samples of {drawn}.",
        tables=(ReportTable(columns, rows),),
        charts=(estimates_plot(_title(files), estimates.items()),),
    )


def _pairs(files: Sequence[EvaluatedFile], comparison: FileComparison) -> Section:
    ranks = tuple(
        (comparison.ranks[file.name], file.shown, str(file.evaluation.metrics[comparison.metric]))
        for file in sorted(files, key=lambda file: comparison.ranks[file.name])
    )
    title = _title(files, comparison)
    return Section(
        "File against file",
        f"{title}, pair by pair of answers. Files share a rank where no test tells them apart. {PAIRS_NOTE}",
        tables=(ReportTable(("rank", "answers", title), ranks), pairs_table(comparison.pairs, shown_names(files))),
    )


def _groups(files: Sequence[EvaluatedFile]) -> Section:
    """The main metric by the rows' own groups, and the share that is right, which is defined in each of them, too."""
    title = _title(files)
    shown = short_names(dict.fromkeys(name for file in files for name in file.evaluation.groups), 60)
    row_counts = Counter(judged.row.group or judged.row.subject for judged in files[0].judged)
    columns: dict[str, list[Cell]] = {"group": [*shown.values()], "rows": [row_counts[group] for group in shown]}
    for file in files:
        prefix = f"{file.shown}: " if len(files) > 1 else ""
        estimates = [file.evaluation.groups[group] for group in shown]
        if any(not math.isnan(estimate.value) for estimate in estimates):
            columns[f"{prefix}{title}"] = [
                "undefined" if math.isnan(estimate.value) else str(estimate) for estimate in estimates
            ]
        if file.main_metric not in ("accuracy", "exact_match"):
            right = Counter(
                judged.row.group or judged.row.subject
                for judged, is_right in zip(file.judged, file.right, strict=True)
                if is_right
            )
            columns[f"{prefix}share right"] = [right[group] / row_counts[group] for group in shown]
    table = ReportTable(tuple(columns), tuple(zip(*columns.values(), strict=True)), interactive=True)
    defined = {
        shown[group]: estimate
        for group, estimate in files[0].evaluation.groups.items()
        if not math.isnan(estimate.value)
    }
    is_drawn = len(files) == 1 and 1 < len(defined) <= _FEW_GROUPS
    plots = (estimates_plot(title, defined.items()),) if is_drawn else ()
    return Section("By group", tables=(table,) if shown else (), charts=plots)


def _grouping(files: Sequence[EvaluatedFile], column: str) -> Section:
    """Every metric within the values of a column; of several files the main metric."""
    groupings = [file.evaluation.by[column] for file in files]
    shown = short_names(groupings[0].groups, 60)
    if len(groupings) == 1:
        metrics = list(groupings[0].means)
        heads = [metric_title(files[0].evaluation, metric) for metric in metrics]
        picked = [(groupings[0], metric) for metric in metrics]
    else:
        heads = [file.shown for file in files]
        picked = [(grouping, files[0].main_metric) for grouping in groupings]
    rows: list[tuple[Cell, ...]] = [
        (shown[group], groupings[0].rows[group], *(str(grouping.groups[group][metric]) for grouping, metric in picked))
        for group in shown
    ]
    means = [str(grouping.means[metric]) for grouping, metric in picked]
    rows.insert(0, ("mean, each counted once", files[0].evaluation.n, *means))
    return Section(f"By {column}", tables=(ReportTable((column, "rows", *heads), tuple(rows), interactive=True),))


def _latency(files: Sequence[EvaluatedFile]) -> Section:
    """How long rows took: over all, by subject, and the slowest."""
    timed = [file for file in files if file.seconds]
    over_all = [(file.shown, *_latency_cells(list(file.seconds.values()))) for file in timed]
    lines = [Line(file.shown, _share_within(list(file.seconds.values()))) for file in timed[:_DRAWN]]
    tables = (_latency_table((), over_all, ""), _latency_table(("subject",), _by_subject(timed), "By subject"))
    return Section(
        "Latency",
        "The engine's own seconds of each row: no loading, reading, tokenising or writing; a row computed in a "
        "batch has its share of it.",
        tables=(*(table for table in tables if table.rows), *(_slowest_table(file) for file in timed[:_DRAWN])),
        charts=(LineChart("Share of rows within", tuple(lines), "seconds", "share of rows"),) if lines else (),
    )


def _latency_table(heads: tuple[str, ...], rows: Sequence[tuple[Cell, ...]], caption: str) -> ReportTable:
    columns = ("answers", *heads, "rows", *_QUANTILES, "slowest", "sum")
    return ReportTable(columns, tuple(rows), caption=caption, interactive=len(rows) > _SLOWEST_ROWS)


def _latency_cells(seconds: Sequence[float]) -> tuple[Cell, ...]:
    quantiles = np.quantile(seconds, list(_QUANTILES.values())).tolist()
    return len(seconds), *(f"{value:.4g} s" for value in (*quantiles, max(seconds), sum(seconds)))


def _by_subject(timed: Sequence[EvaluatedFile]) -> list[tuple[Cell, ...]]:
    rows: list[tuple[Cell, ...]] = []
    for file in timed:
        by_subject: dict[str, list[float]] = {}
        for judged in file.judged:
            if judged.row.id in file.seconds:
                by_subject.setdefault(judged.row.subject, []).append(file.seconds[judged.row.id])
        shown = short_names(by_subject, 60)
        if len(by_subject) > 1:
            rows += [
                (file.shown, shown[subject] or "(none)", *_latency_cells(seconds))
                for subject, seconds in by_subject.items()
            ]
    return rows


def _slowest_table(file: EvaluatedFile) -> ReportTable:
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
    return ReportTable(columns, rows, f"The slowest rows of {file.shown}", total=len(timings))


def _share_within(seconds: Sequence[float]) -> tuple[tuple[float, float], ...]:
    shares = np.linspace(0, 1, _CURVE_POINTS)
    return tuple(zip(np.quantile(seconds, shares).tolist(), shares.tolist(), strict=True))


def _configuration(files: Sequence[EvaluatedFile]) -> Section:
    """Of each file's run what it was given and where it ran; of several runs what differs, then what does not."""
    values = {file.shown: _run_values(file.record) for file in files if file.record is not None}
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
