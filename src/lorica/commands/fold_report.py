"""What training by folds shows: the audit before it, the table of folds after it, as text and as plain values."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorica.calibration.saved import SavedCalibration
from lorica.commands.eval_report import estimate_text, number_text
from lorica.commands.next_command import next_settings
from lorica.data.fold_audit import FoldAudit
from lorica.names import count_of, listed, shell_word
from lorica.pipeline.fold_scores import FoldTable
from lorica.reports.page import Cell, ReportTable
from lorica.reports.text_table import plain_table

_NAMED = 3  # leaks and contradictions that a text names


@dataclass(frozen=True)
class FoldsResult:
    """What training by folds left besides its adapters. plan, out_of_fold: files. digest: of the plan. leaks_allowed:
    whether it was trained in spite of the leaks in `audit`. names: what the user's column calls the folds, () where
    there is none. calibrations: fold's name -> what its scores are calibrated by, {} where they are as they were."""

    plan: Path
    digest: str
    audit: FoldAudit
    leaks_allowed: bool
    names: tuple[str, ...]
    out_of_fold: Path
    table: FoldTable
    calibrations: Mapping[str, SavedCalibration]

    @property
    def calibrated(self) -> str:
        """The method of the calibrations, "off" where there are none."""
        return next((calibration.method for calibration in self.calibrations.values()), "off")

    @property
    def pooling_costs(self) -> bool:
        """Whether it costs more of the main metric than the choice of rows explains."""
        cost = self.table.pooling_cost
        return cost is not None and cost.low > 0

    @property
    def pooling(self) -> str:
        """What it costs to pool the folds' scores, in a sentence; "" where no metric ranks them."""
        cost, metric = self.table.pooling_cost, self.table.metric
        if cost is None or math.isnan(cost.value):
            return ""
        if not self.pooling_costs:
            return (
                f"pooling: {metric} changes by {cost.value:+.4f} [{cost.low:+.4f}, {cost.high:+.4f}] where scores are "
                "ranked within their folds: the folds' scales cost nothing that the choice of rows does not explain"
            )
        ranked = self.table.pooled[metric].value + cost.value
        return (
            f"POOLING COSTS {cost.value:.4f} [{cost.low:.4f}, {cost.high:.4f}] of {metric}: ranked within their folds "
            f"the same scores have {ranked:.4f}; the folds' scores are on different scales"
            + (", though they are calibrated" if self.calibrations else "")
        )


def audit_text(audit: FoldAudit, names: Sequence[str] = ()) -> str:
    """The audit in sentences, and the labels of each fold."""
    lines = [
        f"{count_of(audit.rows, 'row')} of {count_of(audit.strata, 'rule or subject', 'rules or subjects')}, "
        f"{count_of(audit.groups, 'named group')}",
        f"duplicates: {count_of(audit.exact_duplicates, 'row repeats', 'rows repeat')} the text of an earlier one, "
        f"{audit.near_duplicates} more "
        f"nearly so; {count_of(audit.components, 'set')} of rows stay together, the largest has {audit.largest}",
    ]
    if audit.largest * len(audit.folds) > audit.rows:
        lines.append(
            f"UNEVEN: that set is larger than a fold's share of {audit.rows // len(audit.folds)} rows: group less "
            "coarsely, or, where near-duplicates tie groups to each other, see folds.near_duplicates"
        )
    if audit.contradictions:
        named = "; ".join(listed(map(repr, row_ids), 4) for row_ids in audit.contradictions[:_NAMED])
        lines.append(
            f"contradictions: {count_of(len(audit.contradictions), 'text')} with different labels, such as rows {named}"
        )
    else:
        lines.append("contradictions: none: equal texts have equal labels")
    if audit.leaks:
        lines.append(f"LEAKS: {count_of(len(audit.leaks), 'set')} of rows on both sides of a fold, such as")
        lines += [f"  {leak}" for leak in audit.leaks[:_NAMED]]
    else:
        lines.append("leaks: none: no near-duplicates and no group on both sides of a fold")
    if audit.shown:
        named = listed(map(repr, audit.shown), _NAMED)
        lines.append(
            f"examples: {count_of(len(audit.shown), 'row')} ({named}) are shown with a label in "
            "prompts of other folds' rows: a model may remember them, which folds cannot prevent"
        )
    labels = [label for label in audit.labels if label]
    rows: list[tuple[Cell, ...]] = [
        (fold_name(fold, names), sum(counts.values()), *(counts.get(label, 0) for label in labels))
        for fold, counts in enumerate(audit.folds, start=1)
    ]
    table = ReportTable(("held out in", "rows", *(f"label {label}" for label in labels)), tuple(rows))
    return "\n".join(lines) + "\n\n" + plain_table(table)


def fold_name(fold: int, names: Sequence[str] = ()) -> str:
    """What a fold is called in tables."""
    return f"fold-{fold} ({names[fold - 1]})" if names else f"fold-{fold}"


def audit_dict(audit: FoldAudit, digest: str, *, leaks_allowed: bool) -> dict[str, Any]:
    """The audit as values of JSON (`names.json_values`)."""
    return {"plan_digest": digest, "leaks_allowed": leaks_allowed, "audit": audit}


def folds_text(result: FoldsResult, gold: str, overrides: Sequence[str]) -> str:
    """The fold table, what was trained in spite of, and what to do next. gold: the file of the training rows.
    overrides: those that it was trained with."""
    table = result.table
    metric_names = list(table.pooled)
    rows: list[tuple[Cell, ...]] = [
        (
            fold_name(scores.fold, result.names),
            scores.rows,
            *(estimate_text(scores.metrics[name]) for name in metric_names),
        )
        for scores in table.folds
    ]
    row_count = sum(scores.rows for scores in table.folds)
    rows += [
        ("mean over folds", "", *(number_text(table.mean[name]) for name in metric_names)),
        ("spread (std)", "", *(number_text(table.spread[name]) for name in metric_names)),
        ("pooled", row_count, *(estimate_text(table.pooled[name]) for name in metric_names)),
    ]
    paragraphs = [plain_table(ReportTable(("held out in", "rows", *metric_names), tuple(rows)))]
    if result.audit.leaks:
        paragraphs.append(
            f"LEAKS were allowed (folds.allow_leaks): {count_of(len(result.audit.leaks), 'set')} of rows on both sides "
            "of a fold; the figures are too good by an unknown amount"
        )
    settings = next_settings(overrides)
    answers, gold_word = shell_word(str(result.out_of_fold)), shell_word(gold)
    plan_folder = shell_word(str(result.plan.parent))
    paragraphs += _scale_paragraphs(result, f"lorica ensemble {answers} --within fold --gold {gold_word} {settings}")
    if result.calibrations:
        settings = f"adapters.calibration=auto {settings}"
    paragraphs.append(
        f"out-of-fold scores: {answers}; plan: {result.plan}\n"
        f"  -> lorica eval {answers} {gold_word} {next_settings(overrides)}\n"
        f"  -> one adapter, the ensemble or the best fold? lorica folds {plan_folder} TEST.csv {settings}\n"
        "     (TEST: rows that no fold was trained on)"
    )
    return "\n\n".join(paragraphs)


def _scale_paragraphs(result: FoldsResult, ranking: str) -> Iterator[str]:
    """What was done about the folds' scales, and what they cost. ranking: the command that ranks within folds."""
    if result.calibrations:
        row_counts = sorted({calibration.rows.rows for calibration in result.calibrations.values()})
        row_range = " to ".join(map(str, (row_counts[0], row_counts[-1])[: len(row_counts)]))
        yield (
            f"calibrated: each fold's scores by {result.calibrated}, fitted on {row_range} rows "
            "that its training held out, and kept with its adapter (`lorica infer` applies it with "
            "adapters.calibration=auto)"
        )
    if result.pooling_costs:
        lines = [result.pooling, f"  -> {ranking}"]
        if not result.calibrations:
            calibrating = "the same command with folds.calibrate=platt training.resume=true calibrates them"
            lines.insert(1, f"  -> {calibrating}; trains nothing")
        yield "\n".join(lines)
    elif result.pooling:
        yield result.pooling


def folds_dict(result: FoldsResult) -> dict[str, Any]:
    """The result as values of JSON (`names.json_values`)."""
    return audit_dict(result.audit, result.digest, leaks_allowed=result.leaks_allowed) | {
        "plan": result.plan,
        "out_of_fold": result.out_of_fold,
        "names": result.names,
        "table": result.table,
        "pooling": result.pooling or None,
        "calibrated": result.calibrated,
        "calibrations": result.calibrations,
        "best": fold_name(result.table.best),
    }
