"""The page of `lorica eval --html`: what a reader of two figures, and one of single rows, wants to see."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lorica.commands.eval_report import metric_title
from lorica.commands.evaluated_file import EvaluatedFile
from lorica.commands.pages.eval_page_answers import adapters_section, answers_section
from lorica.commands.pages.eval_page_rows import Describe, rows_section
from lorica.commands.pages.eval_page_runs import configuration_section, latency_section
from lorica.commands.pages.eval_page_scores import ranking_section, scores_section
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
from lorica.reports.page import Cell, Report, ReportTable, Section
from lorica.reports.short_names import short_names, short_paths

# Pairs of files that the verdict speaks of one by one, and groups that a chart shows.
_FEW_PAIRS = 6
_FEW_GROUPS = 40


@dataclass(frozen=True)
class _Pages:
    """What every section needs: files by name, how they are shown, and the metric that decides."""

    files: Sequence[EvaluatedFile]
    names: Mapping[str, str]
    metric: str

    @property
    def title(self) -> str:
        return metric_title(self.files[0].evaluation, self.metric)


def evaluation_page(
    files: Sequence[EvaluatedFile],
    describe: Describe,
    by: Mapping[str, Mapping[str, str]],
    comparison: FileComparison | None,
    facts: Sequence[tuple[str, Cell]],
) -> Report:
    """The whole page. describe: what is shown of a row, and of its gold answer. by: column -> row id -> value, of the
    columns that were grouped by. facts: for the end."""
    page = _page(files)
    shown = list(page.names.values())
    others = f" and {len(shown) - 3} others" if len(shown) > 3 else ""
    return whole_page(
        "Evaluation of " + ", ".join(shown[:3]) + others,
        [*_verdict(page, comparison), *_warnings(page)],
        [*evaluation_sections(files, describe, by, comparison), facts_section(facts)],
    )


def evaluation_sections(
    files: Sequence[EvaluatedFile],
    describe: Describe,
    by: Mapping[str, Mapping[str, str]],
    comparison: FileComparison | None,
) -> list[Section]:
    """Every section about the answers, as `evaluation_page` takes them."""
    page = _page(files)
    sections = [_metrics(page)]
    if comparison is not None:
        sections.append(_pairs(page, comparison))
    sections += [_groups(page), *(_grouping(page, column) for column in files[0].evaluation.by)]
    if files[0].evaluation.health is not None:
        sections += [ranking_section(files, page.names), scores_section(files, page.names)]
    sections += [adapters_section(files, page.names), answers_section(files, page.names)]
    sections += [latency_section(files, page.names), rows_section(files, page.names, describe, by)]
    return [*sections, configuration_section(files, page.names)]


def _page(files: Sequence[EvaluatedFile]) -> _Pages:
    names = short_paths([file.name for file in files])
    return _Pages(files, names, next(iter(files[0].evaluation.metrics)))


def _verdict(page: _Pages, comparison: FileComparison | None) -> list[str]:
    if comparison is None:
        (file,) = page.files
        estimate = file.evaluation.metrics[page.metric]
        sentence = f"{page.names[file.name]}: {page.title} {estimate} on {file.evaluation.n:,} rows."
        if page.metric == "roc_auc" and not math.isnan(estimate.low):
            guessing = "better than guessing" if estimate.low > 0.5 else "not shown to be better than guessing"
            guessing = "worse than guessing: are the labels the wrong way round?" if estimate.high < 0.5 else guessing
            sentence += f" That is {guessing} (0.5)."
        return [sentence]
    if len(comparison.pairs) <= _FEW_PAIRS:
        return [pair_sentence(pair, page.title, page.names) for pair in comparison.pairs]
    best = [page.names[name] for name, rank in comparison.ranks.items() if rank == 1]
    apart = sum(bool(pair.better) for pair in comparison.pairs)
    others = f" and {len(best) - 5} others" if len(best) > 5 else ""
    return [
        f"None is shown to be better than {', '.join(best[:5])}{others}, of {len(page.files)} files ({page.title}).",
        f"{apart} of {len(comparison.pairs)} pairs of files differ by more than the choice of rows explains, corrected "
        f"for the number of pairs.",
    ]


def _warnings(page: _Pages) -> list[str]:
    """What a reader must know before a figure is believed."""
    sentences = []
    for file in page.files[:_FEW_PAIRS]:
        evaluation = file.evaluation
        reasons = list(evaluation.health.reasons.values()) if evaluation.health is not None else []
        counts = {
            "have no answer and count as wrong": len(evaluation.no_answer),
            "have an answer that cannot be read and count as wrong": len(evaluation.unreadable),
            "have a prompt that was truncated": evaluation.truncated,
        }
        reasons += [f"{count:,} of {evaluation.n:,} rows {what}" for what, count in counts.items() if count]
        sentences += [f"Beware, {page.names[file.name]}: {'; '.join(reasons)}."] if reasons else []
    return sentences


def _metrics(page: _Pages) -> Section:
    first = page.files[0].evaluation
    titles = [metric_title(first, metric) for metric in first.metrics]
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    if len(page.files) > len(titles):
        columns = ("answers", "rows", *titles)
        rows = tuple(
            (page.names[file.name], sample_text(list(values)), *map(str, values))
            for file in page.files
            for values in (file.evaluation.metrics.values(),)
        )
    else:
        columns = ("metric", "rows", *(page.names[file.name] for file in page.files))
        rows = tuple(
            (title, sample_text(values), *map(str, values))
            for title, metric in zip(titles, first.metrics, strict=True)
            for values in ([file.evaluation.metrics[metric] for file in page.files],)
        )
    drawn = f"{first.bootstrap_groups} groups of rows" if first.bootstrap_groups else f"{first.n:,} rows"
    estimates = {page.names[file.name]: file.evaluation.metrics[page.metric] for file in page.files}
    return Section(
        "Metrics",
        f"Brackets are 95% intervals from {RESAMPLES:,} bootstrap samples of {drawn}.",
        tables=(ReportTable(columns, rows),),
        charts=(estimates_plot(page.title, estimates.items()),),
    )


def _pairs(page: _Pages, comparison: FileComparison) -> Section:
    ranked = sorted(page.files, key=lambda file: comparison.ranks[file.name])
    ranks = tuple(
        (comparison.ranks[file.name], page.names[file.name], str(file.evaluation.metrics[page.metric]))
        for file in ranked
    )
    return Section(
        "File against file",
        f"{page.title}, pair by pair of answers. Files share a rank where no test tells them apart. {PAIRS_NOTE}",
        tables=(ReportTable(("rank", "answers", page.title), ranks), pairs_table(comparison.pairs, page.names)),
    )


def _groups(page: _Pages) -> Section:
    """The main metric by the rows' own groups, and the share that is right, which is defined in each of them, too."""
    shown = short_names(dict.fromkeys(name for file in page.files for name in file.evaluation.groups), 60)
    right: dict[str, list[int]] = {group: [0] * len(page.files) for group in shown}
    row_counts = Counter(judged.row.group or judged.row.subject for judged in page.files[0].judged)
    for index, file in enumerate(page.files):
        for judged, is_right in zip(file.judged, file.right, strict=True):
            if (group := judged.row.group or judged.row.subject) in right:
                right[group][index] += is_right
    columns = ["group", "rows"]
    rows: list[list[Cell]] = [[shown[group], row_counts[group]] for group in shown]
    for index, file in enumerate(page.files):
        estimates = [file.evaluation.groups[group] for group in shown]
        title = page.names[file.name] if len(page.files) > 1 else ""
        if any(not math.isnan(estimate.value) for estimate in estimates):
            columns.append(f"{title}: {page.title}" if title else page.title)
            for row, estimate in zip(rows, estimates, strict=True):
                row.append("undefined" if math.isnan(estimate.value) else str(estimate))
        if page.metric not in ("accuracy", "exact_match"):
            columns.append(f"{title}: share right" if title else "share right")
            for row, group in zip(rows, shown, strict=True):
                row.append(right[group][index] / row_counts[group])
    table = ReportTable(tuple(columns), tuple(map(tuple, rows)), interactive=True)
    defined = {
        shown[group]: estimate
        for group, estimate in page.files[0].evaluation.groups.items()
        if not math.isnan(estimate.value)
    }
    plots = (
        (estimates_plot(page.title, defined.items()),)
        if len(page.files) == 1 and 1 < len(defined) <= _FEW_GROUPS
        else ()
    )
    return Section("By group", tables=(table,) if rows else (), charts=plots)


def _grouping(page: _Pages, column: str) -> Section:
    """Every metric within the values of a column; of several files the main metric."""
    groupings = [file.evaluation.by[column] for file in page.files]
    shown = short_names(groupings[0].groups, 60)
    if len(groupings) == 1:
        metrics = list(groupings[0].means)
        heads = [metric_title(page.files[0].evaluation, metric) for metric in metrics]
        picked = [(groupings[0], metric) for metric in metrics]
    else:
        heads = list(page.names.values())
        picked = [(grouping, page.metric) for grouping in groupings]
    rows: list[tuple[Cell, ...]] = [
        (shown[group], groupings[0].rows[group], *(str(grouping.groups[group][metric]) for grouping, metric in picked))
        for group in shown
    ]
    means = [str(grouping.means[metric]) for grouping, metric in picked]
    rows.insert(0, ("mean, each counted once", page.files[0].evaluation.n, *means))
    return Section(f"By {column}", tables=(ReportTable((column, "rows", *heads), tuple(rows), interactive=True),))
