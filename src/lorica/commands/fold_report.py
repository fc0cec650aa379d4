"""What training by folds shows: the audit before it, the table of folds after it, as text and as plain values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorica.commands.eval_report import estimate_text, number_text
from lorica.data.fold_audit import FoldAudit
from lorica.names import listed, shell_line, shell_word
from lorica.pipeline.fold_scores import FoldTable
from lorica.reports.page import Cell, ReportTable
from lorica.reports.text_table import plain_table

_NAMED = 3  # leaks and contradictions that a text names
# Settings that the next commands do not need.
_OF_TRAINING = ("input=", "run_dir=", "folds", "training", "lora")


@dataclass(frozen=True)
class FoldsResult:
    """What training by folds left besides its adapters. plan, out_of_fold: files. digest: of the plan. leaks_allowed:
    whether it was trained in spite of the leaks in `audit`. names: what the user's column calls the folds, () where
    there is none."""

    plan: Path
    digest: str
    audit: FoldAudit
    leaks_allowed: bool
    names: tuple[str, ...]
    out_of_fold: Path
    table: FoldTable


def audit_text(audit: FoldAudit, names: Sequence[str] = ()) -> str:
    """The audit in sentences, and the labels of each fold."""
    lines = [
        f"{audit.rows} rows of {audit.strata} {'rule or subject' if audit.strata == 1 else 'rules or subjects'}, "
        f"{_counted(audit.groups, 'named group')}",
        f"duplicates: {audit.exact_duplicates} rows repeat the text of an earlier one, {audit.near_duplicates} more "
        f"nearly so; {_counted(audit.components, 'set')} of rows stay together, the largest has {audit.largest}",
    ]
    if audit.largest * len(audit.folds) > audit.rows:
        lines.append(
            f"UNEVEN: that set is larger than a fold's share of {audit.rows // len(audit.folds)} rows: group less "
            "coarsely, or, where near-duplicates tie groups to each other, see folds.near_duplicates"
        )
    if audit.contradictions:
        named = "; ".join(listed(map(repr, row_ids), 4) for row_ids in audit.contradictions[:_NAMED])
        lines.append(
            f"contradictions: {_counted(len(audit.contradictions), 'text')} with different labels, such as rows {named}"
        )
    else:
        lines.append("contradictions: none: equal texts have equal labels")
    if audit.leaks:
        lines.append(f"LEAKS: {_counted(len(audit.leaks), 'set')} of rows on both sides of a fold, such as")
        lines += [f"  {leak}" for leak in audit.leaks[:_NAMED]]
    else:
        lines.append("leaks: none: no near-duplicates and no group on both sides of a fold")
    if audit.shown:
        named = listed(map(repr, audit.shown), _NAMED)
        lines.append(
            f"examples: {_counted(len(audit.shown), 'row')} ({named}) are shown with a label in "
            "prompts of other folds' rows: a model may remember them, which folds cannot prevent"
        )
    return "\n".join(lines) + "\n\n" + plain_table(_label_table(audit, names))


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")


def _label_table(audit: FoldAudit, names: Sequence[str]) -> ReportTable:
    labels = [label for label in audit.labels if label]
    rows: list[tuple[Cell, ...]] = [
        (fold_name(fold, names), sum(counts.values()), *(counts.get(label, 0) for label in labels))
        for fold, counts in enumerate(audit.folds, start=1)
    ]
    return ReportTable(("held out in", "rows", *(f"label {label}" for label in labels)), tuple(rows))


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
            f"LEAKS were allowed (folds.allow_leaks): {len(result.audit.leaks)} sets of rows are on both sides of a "
            "fold, and the figures are too good by an unknown amount"
        )
    settings = shell_line(*(word for word in overrides if not word.startswith(_OF_TRAINING)))
    answers, plan_folder = shell_word(str(result.out_of_fold)), shell_word(str(result.plan.parent))
    paragraphs.append(
        f"out-of-fold scores: {answers}; plan: {result.plan}\n"
        f"  -> lorica eval {answers} {shell_word(gold)} {settings}\n"
        f"  -> one adapter, the ensemble or the best fold? lorica folds {plan_folder} TEST.csv {settings}\n"
        "     (TEST: rows that no fold was trained on)"
    )
    return "\n\n".join(paragraphs)


def folds_dict(result: FoldsResult) -> dict[str, Any]:
    """The result as values of JSON (`names.json_values`)."""
    return audit_dict(result.audit, result.digest, leaks_allowed=result.leaks_allowed) | {
        "plan": result.plan,
        "out_of_fold": result.out_of_fold,
        "names": result.names,
        "table": result.table,
        "best": fold_name(result.table.best),
    }
