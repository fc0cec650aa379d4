"""What `lorica eval` shows: an evaluation as text and as plain values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import msgspec

from lorica.commands.pages.page_parts import p_text
from lorica.metrics.bootstrap import RESAMPLES, Estimate
from lorica.names import count_of
from lorica.pipeline.compare import FileComparison, PairComparison
from lorica.pipeline.evaluate import Evaluation, Grouping
from lorica.reports.page import Cell, ReportTable
from lorica.reports.short_names import short_paths
from lorica.reports.text_table import plain_table

# Rows without an answer, and unreadable answers, that the text names.
_NAMED = 5
# Notes and names of groups are read to their ends.
_WIDEST = 200


def evaluation_dict(evaluation: Evaluation) -> dict[str, Any]:
    """The evaluation as values of JSON (`names.json_values`)."""

    compared = {name: {"normalisation": normalised} for name, normalised in evaluation.normalisations.items()}

    def estimates(metric_estimates: dict[str, Estimate]) -> dict[str, Any]:
        return {
            name: msgspec.structs.asdict(estimate) | compared.get(name, {})
            for name, estimate in metric_estimates.items()
        }

    values = {field.name: getattr(evaluation, field.name) for field in fields(evaluation)}
    del values["normalisations"]
    return values | {
        "metrics": estimates(evaluation.metrics),
        "by": {
            column_name: {
                "groups": {
                    group_name: {"rows": grouping.rows[group_name], "metrics": estimates(group_estimates)}
                    for group_name, group_estimates in grouping.groups.items()
                },
                "mean_over_groups": estimates(grouping.means),
            }
            for column_name, grouping in evaluation.by.items()
        },
        "no_answer": {"count": len(evaluation.no_answer), "ids": evaluation.no_answer},
        "unreadable": {
            "count": len(evaluation.unreadable),
            "rows": [{"id": row_id, "problem": problem} for row_id, problem in evaluation.unreadable.items()],
        },
        "contradictory": {"count": len(evaluation.contradictory), "ids": evaluation.contradictory},
    }


def metric_title(evaluation: Evaluation, metric_name: str) -> str:
    """A metric's name, with what its texts were compared under."""
    normalisation = evaluation.normalisations.get(metric_name)
    return metric_name if normalisation is None else f"{metric_name} ({normalisation})"


def evaluation_text(evaluation: Evaluation) -> str:
    """Tables and sentences for a terminal."""
    health = evaluation.health
    paragraphs = [
        _table("metric", {metric_title(evaluation, name): estimate for name, estimate in evaluation.metrics.items()})
    ]
    paragraphs += [
        _grouping_table(evaluation, column_name, grouping) for column_name, grouping in evaluation.by.items()
    ]
    if evaluation.groups and not evaluation.by:
        paragraphs.append(
            _table(f"group ({metric_title(evaluation, next(iter(evaluation.metrics)))})", evaluation.groups)
        )
    if evaluation.operating_points:
        paragraphs.append(_operating_table(evaluation))
    paragraphs.append(f"rows: {_row_counts_text(evaluation)}")
    paragraphs.append(_bootstrap_text(evaluation))
    if evaluation.no_answer:
        paragraphs.append(f"no answer: {_some(evaluation, evaluation.no_answer)}, which count as wrong")
    if evaluation.unreadable:
        unreadable_lines = [
            f"  {row_id!r}: {explanation}" for row_id, explanation in list(evaluation.unreadable.items())[:_NAMED]
        ]
        count = f"{len(evaluation.unreadable)} of {evaluation.n} rows"
        paragraphs.append(
            "\n".join([f"cannot be read as an answer: {count}, which count as wrong, such as", *unreadable_lines])
        )
    if evaluation.contradictory:
        contradictory_rows = _some(evaluation, evaluation.contradictory)
        paragraphs.append(f"the answer contradicts the score: {contradictory_rows}; the score (from 0.5 on) counts")
    if evaluation.unscored:
        paragraphs.append(
            f"{evaluation.unscored} of {evaluation.n} rows have no score and are left out of metrics on scores"
        )
    if health is not None:
        paragraphs.append(
            f"scores: {health.unique} distinct, mean {health.mean:.3f}, std {health.std:.3f}, "
            f"{health.minimum:.3f} to {health.maximum:.3f}"
        )
    choice_mass = evaluation.choice_mass
    if choice_mass is not None:
        paragraphs.append(f"choice mass: {choice_mass}")
    reasons = (
        health.reasons if health is not None else {"low_mass": choice_mass.problem} if choice_mass is not None else {}
    )
    paragraphs += [
        f"warning: {flag_name}: {explanation}" for flag_name, explanation in sorted(reasons.items()) if explanation
    ]
    return "\n\n".join(paragraphs)


def _table(heading: str, estimates: dict[str, Estimate]) -> str:
    table_rows = [
        (
            estimate_name,
            f"{estimate.value:.4f}",
            f"{estimate.low:.4f} to {estimate.high:.4f}",
            f"{estimate.n} in {estimate.groups} groups" if estimate.groups else str(estimate.n),
            estimate.note,
        )
        for estimate_name, estimate in estimates.items()
    ]
    return plain_table(
        ReportTable((heading, "value", "95% interval", "n", "note"), tuple(table_rows)), max_cell=_WIDEST
    )


def _grouping_table(evaluation: Evaluation, column_name: str, grouping: Grouping) -> str:
    table_rows = [
        (name, str(grouping.rows[name]), *(estimate_text(estimate) for estimate in estimates.values()))
        for name, estimates in grouping.groups.items()
    ]
    table_rows.append(
        (f"mean of {len(grouping.groups)} groups", str(evaluation.n), *map(estimate_text, grouping.means.values()))
    )
    metric_titles = (metric_title(evaluation, name) for name in grouping.means)
    return plain_table(ReportTable((column_name, "rows", *metric_titles), tuple(table_rows)), max_cell=_WIDEST)


def _operating_table(evaluation: Evaluation) -> str:
    table_rows = tuple(
        (
            f"{point.max_fpr:g}",
            "none" if math.isinf(point.threshold) else f"{point.threshold:.4f}",
            *map(number_text, (point.fpr, point.tpr, point.precision)),
        )
        for point in evaluation.operating_points
    )
    columns = ("false-positive rate", "score from", "reached", "true-positive rate", "precision")
    return plain_table(ReportTable(columns, table_rows))


def number_text(number: float) -> str:
    """A figure, or that it is undefined."""
    return "undefined" if math.isnan(number) else f"{number:.4f}"


def row_counts(evaluation: Evaluation) -> dict[str, int]:
    """Rows by parse stage and flag, those whose prompt lost tokens or that were asked again among them."""
    counts = {name or "(no stage)": count for name, count in {**evaluation.stages, **evaluation.flags}.items()}
    counted = {"truncated": evaluation.truncated, "retried": evaluation.retried}
    return counts | {name: count for name, count in counted.items() if count}


def _row_counts_text(evaluation: Evaluation) -> str:
    counts = ", ".join(f"{name} {count}" for name, count in sorted(row_counts(evaluation).items()))
    abstentions = evaluation.abstentions
    if abstentions is None or not (abstentions.answers or abstentions.unanswerable):
        return counts
    return (
        f"{counts}; {abstentions.answers} say that they do not know, "
        f"{abstentions.right} of them where gold calls {count_of(abstentions.unanswerable, 'row')} not answerable"
    )


def _bootstrap_text(evaluation: Evaluation) -> str:
    groups = evaluation.bootstrap_groups
    drawn = count_of(groups, "group of rows", "groups of rows") if groups else count_of(evaluation.n, "row")
    weighted = "" if evaluation.effective_n is None else f" Rows are weighted; n is worth {evaluation.effective_n:.1f}."
    return f"intervals: {RESAMPLES:,} bootstrap samples of {drawn}.{weighted}"


def estimate_text(estimate: Estimate) -> str:
    """A value with its interval."""
    interval = f"{estimate.value:.4f} [{estimate.low:.4f}, {estimate.high:.4f}]"
    return "undefined" if math.isnan(estimate.value) else interval


def _some(evaluation: Evaluation, row_ids: Sequence[str]) -> str:
    first_ids = ", ".join(map(repr, row_ids[:_NAMED])) + (", ..." if len(row_ids) > _NAMED else "")
    return f"{len(row_ids)} of {evaluation.n} rows ({first_ids})"


def comparison_dict(comparison: FileComparison) -> dict[str, Any]:
    """The comparison of several files as values of JSON."""
    pairs = [pair_dict(pair) for pair in comparison.pairs]
    return {"metric": comparison.metric, "ranks": comparison.ranks, "pairs": pairs}


def pair_dict(pair: PairComparison) -> dict[str, Any]:
    """Two files of answers as values of JSON."""
    return {
        "first": pair.first,
        "second": pair.second,
        "n": pair.n,
        **msgspec.structs.asdict(pair.test),
        "p_corrected": pair.p_corrected,
        "mcnemar": pair.mcnemar,
        "better": pair.better or None,
    }


def comparison_text(
    comparison: FileComparison, evaluations: Mapping[str, Evaluation], metric_names: Sequence[str]
) -> str:
    """Ranks, with these metrics of each file, pairs, and what of the rows was no clean answer, for a terminal."""
    names = short_paths(evaluations)
    first_evaluation = next(iter(evaluations.values()))
    titles = tuple(metric_title(first_evaluation, name) for name in metric_names)
    ranked = sorted(evaluations, key=lambda name: comparison.ranks[name])
    rank_rows: tuple[tuple[Cell, ...], ...] = tuple(
        (
            comparison.ranks[name],
            names[name],
            *(estimate_text(evaluations[name].metrics[metric]) for metric in metric_names),
        )
        for name in ranked
    )
    pair_rows = tuple(
        (
            f"{names[pair.first]} - {names[pair.second]}",
            f"{pair.test.difference}",
            p_text(pair.p_corrected),
            p_text(pair.test.detectable),
            f"{pair.mcnemar.only_first} : {pair.mcnemar.only_second}, p {p_text(pair.mcnemar.p_value)}",
            names[pair.better] if pair.better else "neither: not shown by these rows",
        )
        for pair in comparison.pairs
    )
    title = metric_title(first_evaluation, comparison.metric)
    pair_table = ReportTable(
        (f"{title}, paired", "difference", "p (Holm)", "detectable", "right only in one", "better"), pair_rows
    )
    counts_of_files = [f"{names[name]}: {_row_counts_text(evaluation)}" for name, evaluation in evaluations.items()]
    return "\n\n".join(
        [
            plain_table(ReportTable(("rank", "answers", *titles), rank_rows), max_cell=_WIDEST),
            plain_table(pair_table, max_cell=_WIDEST),
            f"{_bootstrap_text(first_evaluation)} Files share a rank where no paired test tells them apart; "
            f"`detectable` is the smallest difference that {first_evaluation.n} such rows show four times in five.",
            "\n".join(counts_of_files),
        ]
    )
