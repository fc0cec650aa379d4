"""`lorica eval`: a result file against the rows with their gold answers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lorica.data.write import read_answers
from lorica.errors import CellError, DataError, UsageError
from lorica.metrics.bootstrap import Estimate
from lorica.metrics.health import ScoreHealth, score_health
from lorica.pipeline.evaluate import Evaluation, evaluate
from lorica.records import Answer, Row
from lorica.reports.page import Table
from lorica.reports.table import plain_table
from lorica.tasks.base import Task
from lorica.verbs import build
from lorica.verbs.arguments import as_path, emit, parser, resolve
from lorica.verbs.rows import list_skipped, open_rows, reading_log, tell

GOLD_SUFFIX = ".gold-skipped.jsonl"


def run(arguments: Sequence[str]) -> int:
    """Measure, and print metrics, groups and the health of the scores."""
    asked = parser(
        "eval",
        "Compare answers with gold: every metric with its 95% bootstrap interval and n, per group, with the counts of\n"
        "truncated, invalid and fall-back rows and the health of the score column.",
        "  lorica eval answers.csv examples/rules/posts.csv task=rules\n"
        "  lorica eval answers.jsonl gold.jsonl task=mcq --json",
        overrides=False,
    )
    asked.add_argument("answers", type=as_path, nargs="?", help="what `lorica infer` wrote")
    asked.add_argument("gold", type=as_path, nargs="?", help="the rows with their gold answers")
    asked.add_argument("overrides", nargs="*", metavar="key=value", help="task=... and column mappings")
    given = asked.parse_args(list(arguments))
    if given.gold is None or "=" in given.gold.name:
        raise UsageError("lorica eval needs two files", fix="lorica eval ANSWERS GOLD task=...")
    config = resolve(given.overrides).config
    task = build.build_task(config)
    log = reading_log(config)
    rows = list(open_rows(config, task, given.gold, log=log, check=_need_gold))
    tell(log)
    answers = {answer.id: answer for answer in read_answers(given.answers)}
    for bad in log.skipped:  # their answers are judged by nothing
        answers.pop(bad.id or "", None)
    _refuse_strangers(answers, rows, given.answers, given.gold)
    found = evaluate(task, rows, answers, gold_file=str(given.gold), answer_file=str(given.answers))
    health = _health(task, rows, answers)
    reading = list_skipped(log, given.answers.with_name(given.answers.name + GOLD_SUFFIX))
    emit(
        evaluation_dict(found) | {"health": None if health is None else _health_dict(health), "reading": reading},
        as_json=given.json,
        text=_text(found, health),
    )
    return 0


def _need_gold(row: Row) -> None:
    if row.gold_problem is not None:
        raise CellError(row.gold_problem.message, fix=row.gold_problem.fix)
    if row.gold is None:
        raise ValueError("the row has no gold answer")


def evaluation_dict(found: Evaluation) -> dict[str, Any]:
    """The evaluation as plain values; what is undefined is null."""
    return asdict(found) | {
        "metrics": {name: estimate_dict(one) for name, one in found.metrics.items()},
        "groups": {name: estimate_dict(one) for name, one in found.groups.items()},
    }


def estimate_dict(one: Estimate) -> dict[str, Any]:
    """An estimate as plain values; NaN becomes None."""

    def number(value: float) -> float | None:
        return None if math.isnan(value) else value

    return {
        "value": number(one.value),
        "low": number(one.low),
        "high": number(one.high),
        "n": one.n,
        "note": one.note,
    }


def _refuse_strangers(answers: dict[str, Answer], rows: Sequence[Row], path: Path, gold: Path) -> None:
    known = {row.id for row in rows}
    strangers = [row_id for row_id in answers if row_id not in known]
    if strangers:
        raise DataError(
            f"{len(strangers)} of {len(answers)} answers belong to no row of {gold}",
            path=path,
            row_id=strangers[0],
            fix="evaluate against the file that was answered",
        )


def _health(task: Task, rows: Sequence[Row], answers: dict[str, Answer]) -> ScoreHealth | None:
    if task.name != "rules":
        return None
    chosen = [answers[row.id] for row in rows]
    return score_health(
        [answer.score for answer in chosen],
        gold=[row.gold for row in rows],
        fallback=[answer.stage == "fallback" for answer in chosen],
    )


def _health_dict(health: ScoreHealth) -> dict[str, Any]:
    plain = {name: getattr(health, name) for name in health.__struct_fields__}
    return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in plain.items()}


def _text(found: Evaluation, health: ScoreHealth | None) -> str:
    parts = [_table("metric", found.metrics)]
    if found.groups:
        parts.append(_table(f"group ({next(iter(found.metrics))})", found.groups))
    counts = {**found.stages, **found.flags}
    parts.append("rows: " + ", ".join(f"{name} {count}" for name, count in sorted(counts.items())))
    if found.unscored:
        parts.append(f"{found.unscored} of {found.n} rows have no score and are left out of metrics on scores")
    if health is not None:
        parts.append(
            f"scores: {health.unique} distinct, mean {health.mean:.3f}, std {health.std:.3f}, "
            f"{health.minimum:.3f} to {health.maximum:.3f}"
        )
        parts += [f"warning: {flag}: {health.reasons[flag]}" for flag in health.flags]
    return "\n\n".join(parts)


def _table(heading: str, estimates: dict[str, Estimate]) -> str:
    rows = [
        (name, f"{one.value:.4f}", f"{one.low:.4f} to {one.high:.4f}", str(one.n), one.note)
        for name, one in estimates.items()
    ]
    return plain_table(Table((heading, "value", "95% interval", "n", "note"), tuple(rows)))
