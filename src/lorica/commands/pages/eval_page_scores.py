"""What the page of an evaluation shows of scores: how they rank, how they lie, whether they are probabilities."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from lorica.commands.evaluated_file import EvaluatedFile
from lorica.metrics.score_curves import Curve, precision_curve, roc_curve, score_histogram
from lorica.pipeline.judged_answers import JudgedAnswer, bootstrap_clusters, row_weights
from lorica.reports.page import Cell, Line, LineChart, ReportTable, Section
from lorica.reports.short_names import short_names

# Curves that one chart can tell apart, files whose adapters have charts of their own, and how many of these.
DRAWN = 6
_WITH_ADAPTERS = 2
_BINS = 20


def ranking_section(files: Sequence[EvaluatedFile], names: Mapping[str, str]) -> Section:
    """ROC, precision over recall, and thresholds."""
    drawn = best_files(files)
    roc_lines: list[Line] = []
    precision_lines: list[Line] = []
    for file in drawn:
        scored = [judged for judged in file.judged if judged.answer.score is not None]
        gold_labels = [judged.row.gold for judged in scored]
        scores = [judged.answer.score for judged in scored]
        clusters, weights = bootstrap_clusters([judged.row for judged in scored]), row_weights(scored)
        for lines, measure in ((roc_lines, roc_curve), (precision_lines, precision_curve)):
            curve = measure(gold_labels, scores, groups=clusters, weights=weights)
            lines += [] if curve is None else [_line(names[file.name], curve)]
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (names[file.name], point.max_fpr, point.threshold, point.fpr, point.tpr, point.precision)
        for file in files
        for point in file.evaluation.operating_points
    )
    columns = ("answers", "false-positive rate", "score from", "reached", "true-positive rate", "precision")
    table = ReportTable(columns, rows, caption="Thresholds", interactive=len(files) > 2)
    charts = (
        LineChart("ROC curve", tuple(roc_lines), "false-positive rate", "true-positive rate"),
        LineChart("Precision and recall", tuple(precision_lines), "recall", "precision"),
    )
    return Section(
        "Ranking",
        f"The shade is the pointwise 95% band.{_which(files, drawn)}",
        tables=(table,) if rows else (),
        charts=charts if roc_lines else (),
    )


def best_files(files: Sequence[EvaluatedFile]) -> list[EvaluatedFile]:
    """At most DRAWN files, those with the best main metric, in their order."""
    metric = next(iter(files[0].evaluation.metrics))
    values = np.nan_to_num([file.evaluation.metrics[metric].value for file in files], nan=-np.inf)
    chosen = set(np.argsort(-values, kind="stable")[:DRAWN].tolist())
    return [file for index, file in enumerate(files) if index in chosen]


def _which(files: Sequence[EvaluatedFile], drawn: Sequence[EvaluatedFile]) -> str:
    return "" if len(drawn) == len(files) else f" Drawn are the {len(drawn)} best of {len(files)} files."


def _line(name: str, curve: Curve) -> Line:
    points, band = zip(curve.x, curve.y, strict=True), zip(curve.x, curve.low, curve.high, strict=True)
    return Line(name, tuple(points), tuple(band))


def scores_section(files: Sequence[EvaluatedFile], names: Mapping[str, str]) -> Section:
    """Histograms of scores by gold label, over all and for each adapter, and the reliability curve."""
    drawn = best_files(files)
    charts: list[LineChart] = []
    for file in drawn:
        scored = [judged for judged in file.judged if judged.answer.score is not None]
        scores = np.array([judged.answer.score for judged in scored])
        ends = min(0.0, float(scores.min())), max(1.0, float(scores.max()))
        charts.append(_histogram(f"Scores of {names[file.name]}", scored, ends))
        row_counts = Counter(judged.answer.adapter for judged in scored)
        if len(row_counts) > 1 and len(files) <= _WITH_ADAPTERS:
            shown = short_names(row_counts, 40)
            for adapter, count in row_counts.most_common(DRAWN):
                title = f"{names[file.name]}, adapter {shown[adapter] or '(none)'}: {count:,} rows"
                charts.append(
                    _histogram(title, [judged for judged in scored if judged.answer.adapter == adapter], ends)
                )
    reliability_lines = [
        Line(names[file.name], tuple((bin_.mean_probability, bin_.share) for bin_ in file.evaluation.reliability))
        for file in drawn
        if file.evaluation.reliability
    ]
    if reliability_lines:
        diagonal = Line("perfectly calibrated", ((0.0, 0.0), (1.0, 1.0)))
        charts.append(LineChart("Reliability", (*reliability_lines, diagonal), "mean probability", "share of Yes"))
    return Section(
        "Scores",
        f"Of each gold label the share of its rows in each of {_BINS} bins.{_which(files, drawn)}",
        charts=tuple(charts),
    )


def _histogram(title: str, scored: Iterable[JudgedAnswer], ends: tuple[float, float]) -> LineChart:
    edges = np.linspace(*ends, _BINS + 1)
    by_label: dict[int, list[float]] = {1: [], 0: []}
    for judged in scored:
        if isinstance(judged.row.gold, int) and judged.answer.score is not None:
            by_label[judged.row.gold].append(judged.answer.score)
    lines = []
    for label, label_title in ((1, "gold: Yes"), (0, "gold: No")):
        shares = score_histogram(by_label[label], _BINS, *ends)
        steps = [(float(edge), share) for index, share in enumerate(shares) for edge in edges[index : index + 2]]
        lines.append(Line(f"{label_title} ({len(by_label[label]):,} rows)", tuple(steps)))
    return LineChart(title, tuple(lines), "score", "share of rows")
