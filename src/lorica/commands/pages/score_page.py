"""The page of `lorica score --html`: who leads, the leaderboard, and the accuracy-latency front."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lorica.commands.pages.page_parts import difference_text, estimates_plot, facts_section, p_text, whole_page
from lorica.commands.score_result import ScoreResult, leaderboard, notes, subject_table
from lorica.names import count_of
from lorica.reports.page import Cell, Report, ReportTable, ScatterPlot, ScatterPoint, Section
from lorica.reports.short_names import short_paths


def score_page(result: ScoreResult, facts: Sequence[tuple[str, Cell]]) -> Report:
    """The whole page. facts: for the end."""
    names = short_paths([run.name for run in result.runs])
    sections = [
        Section(
            "Leaderboard",
            tables=(leaderboard(result),),
            charts=(estimates_plot("score", ((names[run.name], run.score) for run in result.runs)),),
            notes=tuple(notes(result)),
        ),
        Section(
            "Accuracy and latency",
            "On the front are the runs that no other one beats in both. Bars are 95% intervals.",
            charts=(_front(result, names),),
        ),
        _pairs(result, names),
        Section("By subject", tables=(subject_table(result),) if result.subjects else ()),
        _measured(result, names),
        facts_section([("machine", result.machine), *facts]),
    ]
    return whole_page(f"Accuracy and latency of {count_of(len(names), 'run')}", [result.verdict], sections)


def _front(result: ScoreResult, names: dict[str, str]) -> ScatterPlot:
    points = tuple(
        ScatterPoint(
            names[run.name],
            1000 * run.latency.value,
            run.accuracy.value,
            (1000 * run.latency.low, 1000 * run.latency.high),
            (run.accuracy.low, run.accuracy.high),
            joined=not run.dominated_by,
        )
        for run in result.runs
    )
    return ScatterPlot("The front", points, f"ms per {result.unit}", result.metric, "the front")


def _pairs(result: ScoreResult, names: dict[str, str]) -> Section:
    rows = tuple(
        (
            names[pair.first],
            names[pair.second],
            difference_text(pair.difference),
            p_text(pair.p_corrected),
            names.get(pair.better, "neither"),
        )
        for pair in result.pairs
    )
    table = ReportTable(("first", "second", "difference", "p (Holm)", "better"), rows, interactive=len(rows) > 1)
    note = "Scores, first minus second, on the same bootstrap samples."
    return Section("Run against run", note, tables=(table,) if rows else ())


def _measured(result: ScoreResult, names: dict[str, str]) -> Section:
    """What each run computed, and the settings that set it apart."""
    settings = list(dict.fromkeys(key for facts in result.facts.values() for key in facts.settings))
    rows: list[tuple[Cell, ...]] = []
    for run in result.runs:
        facts = result.facts[run.name]
        per_token = None if math.isnan(facts.seconds_per_token) else 1000 * facts.seconds_per_token
        counts = (facts.seconds, facts.prompt_tokens, facts.generated_tokens, per_token, facts.warmup_rows, facts.parts)
        rows.append((names[run.name], *counts, *(facts.settings.get(key, "") for key in settings)))
    columns = ("run", "seconds", "prompt tokens", "generated tokens", "ms per token", "warm-up rows", "processes")
    return Section("What the runs did", tables=(ReportTable((*columns, *settings), tuple(rows)),))
