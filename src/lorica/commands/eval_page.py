"""The page of `lorica eval --html`: what a reader of two figures, and one of single rows, wants to see."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lorica.commands.eval_report import metric_title, row_counts
from lorica.data.write import atomic_file
from lorica.metrics.bootstrap import RESAMPLES
from lorica.metrics.score_curves import Curve, precision_curve, roc_curve, score_histogram
from lorica.pipeline.compare import FileComparison
from lorica.pipeline.evaluate import Evaluation
from lorica.pipeline.judged_answers import JudgedAnswer, bootstrap_clusters
from lorica.records import Row
from lorica.reports.page import (
    Cell,
    IntervalPlot,
    IntervalPoint,
    Line,
    LineChart,
    Report,
    ReportTable,
    Section,
    without_formula,
)
from lorica.reports.short_names import short_paths
from lorica.tasks.base import Task

MAX_ROWS = 2000
"""Rows that a page lists; more are sampled, and the page says so."""

_BINS = 20
_MAX_TEXT = 160
_NAME_WIDTH = 40


@dataclass(frozen=True)
class EvaluatedFile:
    """One file of answers: its rows as the task reads them, whether each is right, and its measures."""

    name: str
    judged: Sequence[JudgedAnswer]
    right: Sequence[bool]
    evaluation: Evaluation


def evaluation_page(
    files: Sequence[EvaluatedFile],
    texts: Mapping[str, tuple[str, str]],
    comparison: FileComparison | None,
    facts: Sequence[tuple[str, str]],
) -> Report:
    """The whole page. texts: row id -> what is shown of the row and of its gold answer. facts: for the end."""
    names = short_paths([file.name for file in files], _NAME_WIDTH)
    first = files[0].evaluation
    main_metric = next(iter(first.metrics))
    sections = [_metrics(files, names, main_metric)]
    if comparison is not None:
        sections.append(_pairs(comparison, names))
    if any(file.evaluation.groups for file in files):
        sections.append(_groups(files, names, main_metric))
    if first.health is not None:
        sections += [_curves(files, names), _scores(files, names)]
    sections += [_answers(files, names), _rows(files, names, texts)]
    sections.append(Section("Where it comes from", tables=(ReportTable(("fact", "value"), tuple(facts)),), folded=True))
    return Report(
        title="Evaluation of " + ", ".join(names.values()),
        summary=_verdict(files, names, main_metric, comparison),
        sections=tuple(sections),
        footer="One file without any request: it opens from a disk, in print and on a telephone.",
    )


def _verdict(
    files: Sequence[EvaluatedFile], names: Mapping[str, str], main_metric: str, comparison: FileComparison | None
) -> str:
    title = metric_title(files[0].evaluation, main_metric)
    sentences = [
        f"{names[file.name]}: {title} {file.evaluation.metrics[main_metric]} on {file.evaluation.n:,} rows."
        for file in files
    ]
    for pair in comparison.pairs if comparison is not None else ():
        first, second = names[pair.first], names[pair.second]
        if pair.better:
            worse = second if pair.better == pair.first else first
            sentences.append(
                f"{names[pair.better]} is better than {worse} by more than the choice of rows explains "
                f"({pair.test.difference}, first minus second)."
            )
        else:
            sentences.append(f"These rows do not tell {first} and {second} apart ({pair.test.difference}).")
    for file in files:
        health = file.evaluation.health
        reasons = health.reasons.values() if health is not None else ()
        sentences += [f"Beware, {names[file.name]}: {reason}." for reason in reasons]
    return "\n\n".join(sentences)


def _metrics(files: Sequence[EvaluatedFile], names: Mapping[str, str], main_metric: str) -> Section:
    first = files[0].evaluation
    rows = tuple(
        (metric_title(first, metric), *(str(file.evaluation.metrics[metric]) for file in files))
        for metric in first.metrics
    )
    points = tuple(
        IntervalPoint(names[file.name], estimate.value, estimate.low, estimate.high)
        for file in files
        for estimate in (file.evaluation.metrics[main_metric],)
    )
    plot = IntervalPlot(metric_title(first, main_metric), points)
    drawn = f"{first.bootstrap_groups} groups of rows" if first.bootstrap_groups else f"{first.n:,} rows"
    return Section(
        "Metrics",
        f"Brackets are 95% intervals from {RESAMPLES:,} bootstrap samples of {drawn}.",
        tables=(ReportTable(("metric", *(names[file.name] for file in files)), rows),),
        charts=(plot,),
    )


def _pairs(comparison: FileComparison, names: Mapping[str, str]) -> Section:
    rows = tuple(
        (
            names[pair.first],
            names[pair.second],
            str(pair.test.difference),
            pair.p_corrected,
            pair.test.detectable,
            pair.mcnemar.only_first,
            pair.mcnemar.only_second,
            names.get(pair.better, "neither"),
        )
        for pair in comparison.pairs
    )
    columns = ("first", "second", "difference", "p (Holm)", "detectable", "right only in first", "right only in second")
    return Section(
        "File against file",
        f"{comparison.metric}, pair by pair of answers. `detectable` is the smallest difference that so many rows show "
        "four times in five.",
        tables=(ReportTable((*columns, "better"), rows),),
    )


def _groups(files: Sequence[EvaluatedFile], names: Mapping[str, str], main_metric: str) -> Section:
    group_names = list(dict.fromkeys(name for file in files for name in file.evaluation.groups))
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (group, files[0].evaluation.groups[group].n, *(str(file.evaluation.groups[group]) for file in files))
        for group in group_names
    )
    columns = ("group", "rows", *(names[file.name] for file in files))
    return Section(
        f"By group: {metric_title(files[0].evaluation, main_metric)}",
        tables=(ReportTable(columns, rows, interactive=True),),
    )


def _curves(files: Sequence[EvaluatedFile], names: Mapping[str, str]) -> Section:
    roc_lines: list[Line] = []
    precision_lines: list[Line] = []
    for file in files:
        scored = [judged for judged in file.judged if judged.answer.score is not None]
        gold = [judged.row.gold for judged in scored]
        scores = [judged.answer.score for judged in scored]
        clusters = bootstrap_clusters([judged.row for judged in scored])
        for lines, curve in (
            (roc_lines, roc_curve(gold, scores, groups=clusters)),
            (precision_lines, precision_curve(gold, scores, groups=clusters)),
        ):
            lines += [] if curve is None else [_line(names[file.name], curve)]
    points = files[0].evaluation.operating_points
    table = ReportTable(
        ("false-positive rate", "score from", "reached", "true-positive rate", "precision"),
        tuple((point.max_fpr, point.threshold, point.fpr, point.tpr, point.precision) for point in points),
        caption=f"Thresholds of {names[files[0].name]}",
    )
    charts = (
        LineChart("ROC curve", tuple(roc_lines), "false-positive rate", "true-positive rate"),
        LineChart("Precision and recall", tuple(precision_lines), "recall", "precision"),
    )
    return Section(
        "Ranking",
        "The shade is the pointwise 95% band.",
        tables=(table,) if points else (),
        charts=charts if roc_lines else (),
    )


def _line(name: str, curve: Curve) -> Line:
    return Line(
        name, tuple(zip(curve.x, curve.y, strict=True)), tuple(zip(curve.x, curve.low, curve.high, strict=True))
    )


def _scores(files: Sequence[EvaluatedFile], names: Mapping[str, str]) -> Section:
    charts: list[LineChart] = []
    reliability_lines = [Line("perfectly calibrated", ((0.0, 0.0), (1.0, 1.0)))]
    for file in files:
        scored = [(judged.row.gold, judged.answer.score) for judged in file.judged if judged.answer.score is not None]
        scores = np.array([score for _, score in scored])
        low, high = min(0.0, float(scores.min())), max(1.0, float(scores.max()))
        edges = np.linspace(low, high, _BINS + 1)
        lines = []
        for label, title in ((1, "gold: Yes"), (0, "gold: No")):
            shares = score_histogram([score for gold, score in scored if gold == label], _BINS, low, high)
            steps = [(float(edge), share) for index, share in enumerate(shares) for edge in edges[index : index + 2]]
            lines.append(Line(title, tuple(steps)))
        charts.append(LineChart(f"Scores of {names[file.name]}", tuple(lines), "score", "share of rows"))
        if file.evaluation.reliability:
            reliability_lines.append(
                Line(
                    names[file.name],
                    tuple((bin_.mean_probability, bin_.share) for bin_ in file.evaluation.reliability),
                )
            )
    if len(reliability_lines) > 1:
        charts.append(LineChart("Reliability", tuple(reliability_lines), "mean probability", "share of Yes"))
    return Section("Scores", charts=tuple(charts))


def _answers(files: Sequence[EvaluatedFile], names: Mapping[str, str]) -> Section:
    kinds = list(dict.fromkeys(name for file in files for name in _counts(file.evaluation)))
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (kind, *(_counts(file.evaluation).get(kind, 0) for file in files)) for kind in kinds
    )
    columns = tuple(names[file.name] for file in files)
    tables = [ReportTable(("rows by stage and flag", *columns), rows)]
    for file in files:
        if "f1" in file.evaluation.metrics:
            counts = [
                [sum(judged.row.gold == gold and judged.value == label for judged in file.judged) for label in (1, 0)]
                for gold in (1, 0)
            ]
            none = [sum(judged.row.gold == gold and judged.value is None for judged in file.judged) for gold in (1, 0)]
            confusion: tuple[tuple[Cell, ...], ...] = tuple(
                (f"gold: {title}", *counts[index], none[index]) for index, title in enumerate(("Yes", "No"))
            )
            tables.append(
                ReportTable(("", "answered Yes", "answered No", "no answer"), confusion, caption=names[file.name])
            )
    return Section("Answers", tables=tuple(tables))


def _counts(evaluation: Evaluation) -> dict[str, int]:
    failures = {"no answer": len(evaluation.no_answer), "unreadable": len(evaluation.unreadable)}
    return row_counts(evaluation) | {name: count for name, count in failures.items() if count}


def _rows(files: Sequence[EvaluatedFile], names: Mapping[str, str], texts: Mapping[str, tuple[str, str]]) -> Section:
    """The rows that are worth reading first: wrong with the surest score, then the most uncertain, then others."""
    order = sorted(
        range(len(files[0].judged)), key=lambda index: _interest(files[0].judged[index], files[0].right[index])
    )
    total = len(order)
    if total > MAX_ROWS:  # the most interesting half, and an even sample of the others
        others = order[MAX_ROWS // 2 :]
        order = order[: MAX_ROWS // 2] + others[:: max(1, math.ceil(len(others) / (MAX_ROWS // 2)))]
    columns: dict[str, list[Cell]] = {
        "id": [files[0].judged[index].row.id for index in order],
        "row": [_short(texts[files[0].judged[index].row.id][0]) for index in order],
        "gold": [_short(texts[files[0].judged[index].row.id][1]) for index in order],
    }
    for file in files:
        answers = [file.judged[index].answer for index in order]
        columns[f"{names[file.name]}: answer"] = [_short(answer.answer or "") for answer in answers]
        columns[f"{names[file.name]}: score"] = [
            None if answer.score is None else round(answer.score, 4) for answer in answers
        ]
    columns["outcome"] = [_outcome([file.right[index] for file in files], list(names.values())) for index in order]
    columns = {head: cells for head, cells in columns.items() if any(cell not in ("", None) for cell in cells)}
    note = f"{len(order):,} of {total:,} rows: the surest mistakes, the most uncertain, and a sample of the others."
    return Section(
        "Rows to read",
        note if total > MAX_ROWS else "The surest mistakes first, then the most uncertain rows.",
        tables=(
            ReportTable(
                tuple(columns),
                tuple(zip(*columns.values(), strict=True)),
                interactive=True,
                choose=("outcome", "gold"),
                narrow=("id", "row", "gold", "outcome"),
            ),
        ),
    )


def _interest(judged: JudgedAnswer, is_right: bool) -> tuple[bool, float]:
    margin = abs((judged.answer.score if judged.answer.score is not None else 0.5) - 0.5)
    return is_right, margin if is_right else -margin


def _outcome(right: Sequence[bool], names: Sequence[str]) -> str:
    if len(right) == 1:
        return "right" if right[0] else "wrong"
    if all(right) or not any(right):
        return "all right" if all(right) else "all wrong"
    return "wrong: " + ", ".join(name for name, is_right in zip(names, right, strict=True) if not is_right)


def _short(text: str) -> str:
    return text if len(text) <= _MAX_TEXT else text[: _MAX_TEXT - 1] + "…"


def gold_text(task: Task, row: Row) -> str:
    """The gold answer of a row as people read it: an option's letter with its text, Yes or No, accepted texts."""
    if isinstance(row.gold, tuple):
        return " / ".join(row.gold)
    options = list(task.options(row).items())
    if isinstance(row.gold, int) and row.gold < len(options) and task.answer_type == "option":
        letter, option_text = options[row.gold]
        return f"{letter}: {option_text}"
    return "Yes" if row.gold == 1 else "No"


def write_rows(path: Path, files: Sequence[EvaluatedFile], texts: Mapping[str, tuple[str, str]]) -> None:
    """All rows, with every file's answer, score and whether it is right, as CSV; cells that a spreadsheet would run are
    spelled so that it shows them."""
    names = [file.name for file in files]
    heads = [f"{name}: {column}" for name in names for column in ("answer", "score", "right")]
    content = io.StringIO()
    writer = csv.writer(content, lineterminator="\n")
    writer.writerow(["id", "row", "gold", *heads])
    for index, judged in enumerate(files[0].judged):
        cells: list[Cell] = [judged.row.id, *texts[judged.row.id]]
        for file in files:
            answer = file.judged[index].answer
            cells += [answer.answer or "", answer.score, "yes" if file.right[index] else "no"]
        writer.writerow([without_formula(cell) for cell in cells])
    with atomic_file(path) as output_file:
        output_file.write(content.getvalue().encode("utf-8"))
