"""What the page of an evaluation shows of answers: by adapter, by parse stage and flag, confusion, truncation; and of
their scores: how they rank, how they lie, whether they are probabilities."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from lorica.commands.evaluated_file import EvaluatedFile
from lorica.metrics.score_curves import Curve, precision_curve, roc_curve, score_histogram
from lorica.pipeline.judged_answers import JudgedAnswer, bootstrap_clusters, row_kinds, row_weights
from lorica.reports.page import Cell, Line, LineChart, ReportTable, Section
from lorica.reports.short_names import short_names

# Options of a question that a table of confusion holds.
_MOST_OPTIONS = 10
_LETTERS = "ABCDEFGHIJ"
# Curves that one chart can tell apart, files whose adapters have charts of their own, and how many of these.
_DRAWN = 6
_WITH_ADAPTERS = 2
_BINS = 20


def adapters_section(files: Sequence[EvaluatedFile]) -> Section:
    """What each adapter answered, and how well."""
    rows: list[tuple[Cell, ...]] = []
    for file in files:
        members: dict[str, list[int]] = defaultdict(list)
        for index, judged in enumerate(file.judged):
            members[judged.answer.adapter].append(index)
        shown = short_names(members, 60)
        for adapter, indexes in members.items():
            right = float(np.mean([file.right[index] for index in indexes]))
            medians = [_median_score([file.judged[index] for index in indexes], label) for label in (1, 0)]
            rows.append((file.shown, shown[adapter] or "(none)", len(indexes), right, *medians))
    heads = ["answers", "adapter", "rows", "share right", "median score of Yes", "median score of No"]
    if all(row[4] is None and row[5] is None for row in rows):
        heads, rows = heads[:4], [row[:4] for row in rows]
    has_adapters = any(judged.answer.adapter for file in files for judged in file.judged[:1])
    table = ReportTable(tuple(heads), tuple(rows), interactive=True, choose=("answers", "adapter"))
    return Section("By adapter", tables=(table,) if has_adapters else ())


def _median_score(answered: Sequence[JudgedAnswer], label: int) -> float | None:
    scores = [
        judged.answer.score for judged in answered if judged.row.gold == label and judged.answer.score is not None
    ]
    return float(np.median(scores)) if scores else None


def answers_section(files: Sequence[EvaluatedFile]) -> Section:
    """Rows by parse stage and flag with the share that is right, truncation, abstentions, and confusion."""
    drawn = _best_files(files)
    tables = [_kinds_table(files)]
    truncation = [_truncation(file) for file in files]
    if any(row[0] for row in truncation):
        rows: tuple[tuple[Cell, ...], ...] = tuple(
            (file.shown, *cells) for file, cells in zip(files, truncation, strict=True)
        )
        heads = ("answers", "truncated rows", "tokens cut, median", "most", "share right", "share right of the others")
        tables.append(ReportTable(heads, rows, caption="Prompts that were truncated"))
    abstentions = [file.evaluation.abstentions for file in files]
    if any(counts is not None and (counts.answers or counts.unanswerable) for counts in abstentions):
        tables.append(
            ReportTable(
                ("answers", "say that they do not know", "of them right", "rows that gold calls not answerable"),
                tuple(
                    (file.shown, counts.answers, counts.right, counts.unanswerable)
                    for file, counts in zip(files, abstentions, strict=True)
                    if counts is not None
                ),
                caption="Answers that say they do not know",
            )
        )
    tables += [table for table in map(_confusion, drawn) if table is not None]
    which = "" if len(drawn) == len(files) else f"Confusion is shown of the {len(drawn)} best of {len(files)} files."
    return Section("Answers", which, tables=tuple(tables))


def _kinds_table(files: Sequence[EvaluatedFile]) -> ReportTable:
    counts = [Counter[str]() for _ in files]
    right = [Counter[str]() for _ in files]
    for index, file in enumerate(files):
        for judged, is_right in zip(file.judged, file.right, strict=True):
            kinds = row_kinds(judged)
            counts[index].update(kinds)
            right[index].update(kinds if is_right else ())
    kinds = list(dict.fromkeys(kind for count in counts for kind in count))
    rows: list[tuple[Cell, ...]] = []
    for kind in kinds:
        cells: list[Cell] = [kind]
        for count, right_count in zip(counts, right, strict=True):
            cells += [count[kind], right_count[kind] / count[kind] if count[kind] else None]
        rows.append(tuple(cells))
    heads = [f"{file.shown}: {head}" if len(files) > 1 else head for file in files for head in ("rows", "right")]
    return ReportTable(
        ("parse stage or flag", *heads), tuple(rows), caption="Rows, and the share of them that is right"
    )


def _truncation(file: EvaluatedFile) -> tuple[int, float | None, int | None, float | None, float | None]:
    dropped = np.array([judged.answer.dropped_tokens for judged in file.judged])
    right, is_cut = np.array(file.right, dtype=float), dropped > 0
    if not is_cut.any():
        return 0, None, None, None, float(right.mean())
    others = float(right[~is_cut].mean()) if not is_cut.all() else None
    return int(is_cut.sum()), float(np.median(dropped[is_cut])), int(dropped.max()), float(right[is_cut].mean()), others


def _confusion(file: EvaluatedFile) -> ReportTable | None:
    """Gold against answered: Yes and No, or the letters of options; None for texts."""
    pairs = Counter((judged.row.gold, judged.value) for judged in file.judged)
    gold_values = sorted({gold for gold, _ in pairs if isinstance(gold, int)})
    if not gold_values:
        return None
    if "f1" in file.evaluation.metrics:
        titles = {1: "Yes", 0: "No"}
    else:
        answered = {value for _, value in pairs if isinstance(value, int)}
        titles = {index: _LETTERS[index] for index in sorted(answered.union(gold_values)) if index < _MOST_OPTIONS}
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (f"gold: {title}", *(pairs[gold, value] for value in titles), pairs[gold, None])
        for gold, title in titles.items()
    )
    heads = ("", *(f"answered {title}" for title in titles.values()), "no answer")
    counted = sum(pairs[gold, value] for gold in titles for value in (*titles, None))
    note = "" if counted == len(file.judged) else ", without the rows of other options"
    return ReportTable(heads, rows, caption=f"Confusion of {file.shown}{note}")


def ranking_section(files: Sequence[EvaluatedFile]) -> Section:
    """ROC, precision over recall, and thresholds."""
    drawn = _best_files(files)
    roc_lines: list[Line] = []
    precision_lines: list[Line] = []
    for file in drawn:
        scored = [judged for judged in file.judged if judged.answer.score is not None]
        gold_labels = [judged.row.gold for judged in scored]
        scores = [judged.answer.score for judged in scored]
        clusters, weights = bootstrap_clusters([judged.row for judged in scored]), row_weights(scored)
        for lines, measure in ((roc_lines, roc_curve), (precision_lines, precision_curve)):
            curve = measure(gold_labels, scores, groups=clusters, weights=weights)
            lines += [] if curve is None else [_line(file.shown, curve)]
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (file.shown, point.max_fpr, point.threshold, point.fpr, point.tpr, point.precision)
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


def _best_files(files: Sequence[EvaluatedFile]) -> list[EvaluatedFile]:
    """At most _DRAWN files, those with the best main metric, in their order."""
    values = np.nan_to_num([file.evaluation.metrics[files[0].main_metric].value for file in files], nan=-np.inf)
    chosen = set(np.argsort(-values, kind="stable")[:_DRAWN].tolist())
    return [file for index, file in enumerate(files) if index in chosen]


def _which(files: Sequence[EvaluatedFile], drawn: Sequence[EvaluatedFile]) -> str:
    return "" if len(drawn) == len(files) else f" Drawn are the {len(drawn)} best of {len(files)} files."


def _line(name: str, curve: Curve) -> Line:
    points, band = zip(curve.x, curve.y, strict=True), zip(curve.x, curve.low, curve.high, strict=True)
    return Line(name, tuple(points), tuple(band))


def scores_section(files: Sequence[EvaluatedFile]) -> Section:
    """Histograms of scores by gold label, over all and for each adapter, and the reliability curve."""
    drawn = _best_files(files)
    charts: list[LineChart] = []
    for file in drawn:
        scored = [judged for judged in file.judged if judged.answer.score is not None]
        scores = np.array([judged.answer.score for judged in scored])
        ends = min(0.0, float(scores.min())), max(1.0, float(scores.max()))
        charts.append(_histogram(f"Scores of {file.shown}", scored, ends))
        row_counts = Counter(judged.answer.adapter for judged in scored)
        if len(row_counts) > 1 and len(files) <= _WITH_ADAPTERS:
            shown = short_names(row_counts, 40)
            for adapter, count in row_counts.most_common(_DRAWN):
                title = f"{file.shown}, adapter {shown[adapter] or '(none)'}: {count:,} rows"
                charts.append(
                    _histogram(title, [judged for judged in scored if judged.answer.adapter == adapter], ends)
                )
    reliability_lines = [
        Line(file.shown, tuple((bin_.mean_probability, bin_.share) for bin_ in file.evaluation.reliability))
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
