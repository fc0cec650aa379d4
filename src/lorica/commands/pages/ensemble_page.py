"""The page of `lorica ensemble --html`: is the blend better than its best member, and what does each member add."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lorica.commands.ensemble_report import EnsembleResult, correlation_table
from lorica.commands.evaluated_file import EvaluatedFile, shown_names
from lorica.commands.pages.eval_page_answers import ranking_section, scores_section
from lorica.commands.pages.eval_page_rows import rows_section
from lorica.commands.pages.page_parts import (
    PAIRS_NOTE,
    difference_text,
    estimates_plot,
    facts_section,
    pair_sentence,
    pairs_table,
    sample_text,
    whole_page,
)
from lorica.names import count_of
from lorica.reports.page import Cell, Report, ReportTable, Section
from lorica.reports.short_names import short_paths
from lorica.tasks.base import Task


def ensemble_page(
    result: EnsembleResult, files: Sequence[EvaluatedFile], task: Task | None, facts: Sequence[tuple[str, Cell]]
) -> Report:
    """The whole page. files: with gold the blend, the best member, and the others, measured; () without, and no task.
    facts: for the end."""
    names = shown_names(files) or short_paths(result.members)
    sections = [_members(result, names), _added(result, names), _correlations(result, names)]
    if files and files[0].evaluation.health is not None:
        sections += [ranking_section(files), scores_section(files)]
    if task is not None:
        sections.append(rows_section(files[:2], task, {}))
    sections.append(facts_section([("method", result.method), *facts]))
    left_out = [f"Left out: {name}: {reason}." for name, reason in result.left_out.items()]
    title = f"A blend of {count_of(len(result.members), 'file')} of answers"
    return whole_page(title, [_verdict(result, names), *left_out], sections)


def _verdict(result: EnsembleResult, names: Mapping[str, str]) -> str:
    if result.over_best is None:
        blended = count_of(len(result.members), "file was", "files were")
        return f"{blended} blended. Whether that helps is not known: --gold says."
    advice = "" if result.over_best.better == result.over_best.first else " Use the best member alone."
    return pair_sentence(result.over_best, result.metric, names) + advice


def _members(result: EnsembleResult, names: Mapping[str, str]) -> Section:
    if not result.estimates:
        rows: tuple[tuple[Cell, ...], ...] = tuple((names[name], result.weights.get(name)) for name in result.members)
        return Section("Members", tables=(ReportTable(("answers", "weight"), rows),))
    measured = tuple(
        (
            names[name],
            "fitted" if result.method == "stack" and name in result.weights else result.weights.get(name, ""),
            str(estimate),
            sample_text([estimate]),
        )
        for name, estimate in result.estimates.items()
    )
    against = () if result.over_best is None else (pairs_table([result.over_best], names),)
    return Section(
        "The blend and its members",
        f"The best member is chosen on the same rows, which favours it a little. {PAIRS_NOTE}",
        tables=(ReportTable(("answers", "weight", result.metric, "rows"), measured), *against),
        charts=(
            estimates_plot(result.metric, ((names[name], estimate) for name, estimate in result.estimates.items())),
        ),
    )


def _added(result: EnsembleResult, names: Mapping[str, str]) -> Section:
    """What each member adds: the blend minus the blend without it."""
    differences = {names[name]: pair.test.difference for name, pair in result.over_without.items()}
    rows = tuple((name, difference_text(difference)) for name, difference in differences.items())
    plot = estimates_plot(f"{result.metric} that a member adds", differences.items(), zero="nothing")
    return Section(
        "What each member adds",
        "The blend minus the blend without the member, on the same bootstrap samples.",
        tables=(ReportTable(("member", "adds"), rows),) if rows else (),
        charts=(plot,) if rows else (),
    )


def _correlations(result: EnsembleResult, names: Mapping[str, str]) -> Section:
    if len(result.members) < 2 or not result.correlations:
        return Section("Rank correlation")
    return Section(
        "Rank correlation",
        "Spearman's, of every two members. Members that rank alike (near 1) have little to add to each other.",
        tables=(correlation_table(result, names),),
    )
