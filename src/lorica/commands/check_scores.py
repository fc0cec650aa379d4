"""`lorica check --scores`: the health of a column of scores, wherever it came from."""

from __future__ import annotations

import argparse

from lorica.commands.arguments import emit, resolve
from lorica.commands.check_result import finding_dict, finding_text
from lorica.errors import DataError
from lorica.metrics.health import ScoreHealth
from lorica.reports.page import Cell, ReportTable
from lorica.reports.text_table import plain_table
from lorica.vetting.findings import EXIT_CODES, judge
from lorica.vetting.score_columns import read_scores
from lorica.vetting.score_findings import check_scores


def check(options: argparse.Namespace) -> int:
    """Judge one file of scores, print, and return the exit code. Raises DataError for a file without scores, and where
    no score has a label."""
    gold_by_id = None
    if options.gold is not None:
        from lorica.commands.base_trial import labels  # imports what scores alone do without

        gold_by_id = labels(options.gold, resolve(["task=rules", *options.overrides]).config)
    scores = read_scores(options.scores, column=options.column, gold_column=options.gold_column, gold=gold_by_id)
    if gold_by_id is not None and gold_by_id.keys().isdisjoint(scores.ids):  # nobody would know
        fix = "give the file that was scored, or map its id column with task.columns.row_id=NAME"
        raise DataError(f"none of its {len(scores.ids)} ids is in {options.gold}", path=options.scores, fix=fix)
    health, findings = check_scores(scores)
    verdict = judge(options.scores.name, str(options.scores), findings, {4})
    text_parts = [
        f"{verdict.name}: {verdict.status.upper()}",
        plain_table(_table(health)),
        *(finding_text(finding) for finding in verdict.findings),
    ]
    emit(
        {
            "path": verdict.path,
            "status": verdict.status,
            "exit_code": EXIT_CODES[verdict.status],
            "health": health,
            "findings": [finding_dict(finding) for finding in verdict.findings],
        },
        as_json=options.json,
        text="\n".join(text_parts),
    )
    return EXIT_CODES[verdict.status]


def _table(health: ScoreHealth) -> ReportTable:
    table_rows: list[tuple[str, Cell]] = [
        ("scores", health.n),
        ("missing", health.missing),
        ("different values", health.unique),
        ("diversity", health.diversity),
        ("entropy of the histogram", health.entropy),
        ("mean", health.mean),
        ("standard deviation", health.std),
        ("smallest", health.minimum),
        ("largest", health.maximum),
        ("share at the lower bound", health.at_low),
        ("share at the upper bound", health.at_high),
        ("share of the commonest value", health.mode_share),
        ("share above the middle", health.balance),
        ("share of fall-backs", health.fallback_share),
    ]
    return ReportTable(("measure", "value"), tuple(table_rows))
