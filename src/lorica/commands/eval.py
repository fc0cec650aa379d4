"""`lorica eval`: a result file against the rows with their gold answers."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from lorica.commands import build
from lorica.commands.arguments import as_path, emit, parser, resolve
from lorica.commands.eval_report import evaluation_dict, evaluation_text, health_dict
from lorica.commands.rows import list_skipped, open_rows, reading_log, table_options, tell
from lorica.data.group_columns import GroupColumns
from lorica.data.schema import gold_only
from lorica.data.write import read_answers
from lorica.errors import CellError, DataError, UsageError
from lorica.metrics.health import ScoreHealth, score_health
from lorica.metrics.normalise import LORICA, NORMALISATIONS
from lorica.pipeline.evaluate import evaluate
from lorica.records import Answer, Row
from lorica.tasks.base import Task

GOLD_SUFFIX = ".gold-skipped.jsonl"

_OPTIONS = ("by", "normalisation")


def run(arguments: Sequence[str]) -> int:
    """Measure, and print metrics, groups and the health of the scores."""
    given = _parsed(arguments)
    config = resolve(given.overrides).config
    task = build.build_task(config)
    by = dict.fromkeys(name.strip() for name in ",".join(given.by).split(",") if name.strip())
    schemas = (*task.schemas, *filter(None, map(gold_only, task.schemas)))
    columns = GroupColumns(schemas, list(by))
    log = reading_log(config)
    rows = list(open_rows(config, task, given.gold, schemas=columns.schemas, log=log, check=_need_gold))
    tell(log)
    columns.check(given.gold, table_options(config))
    id_names = {config.task.columns.get(schema.id_column, schema.id_column) for schema in task.schemas}
    answers = {answer.id: answer for answer in read_answers(given.answers, id_names=id_names)}
    for bad in log.skipped:  # their answers are judged by nothing
        answers.pop(bad.id or "", None)
    _refuse_strangers(answers, rows, given.answers, given.gold)
    evaluation = evaluate(
        task,
        rows,
        answers,
        by=columns.values,
        normalisation=given.normalisation,
        gold_file=str(given.gold),
        answer_file=str(given.answers),
    )
    health = _health(task, rows, answers)
    reading = list_skipped(log, given.answers.with_name(given.answers.name + GOLD_SUFFIX))
    emit(
        evaluation_dict(evaluation) | {"health": None if health is None else health_dict(health), "reading": reading},
        as_json=given.json,
        text=evaluation_text(evaluation, health),
    )
    return 0


def _parsed(arguments: Sequence[str]) -> argparse.Namespace:
    options = parser(
        "eval",
        "Compare answers with gold: every metric with its 95% bootstrap interval and n, per group, with the counts of\n"
        "truncated, invalid and fall-back rows, of rows without an answer and of answers that cannot be read, and the\n"
        "health of the score column. Texts are compared as docs/metrics.md says.",
        "  lorica eval answers.csv examples/rules/posts.csv task=rules\n"
        "  lorica eval answers.jsonl gold.jsonl task=mcq --json\n"
        "  lorica eval answers.csv gold.csv task=saq --by country,subject --normalisation squad",
        overrides=False,
    )
    options.add_argument(
        "answers",
        type=as_path,
        nargs="?",
        help="what `lorica infer` wrote, or any table with the rows' ids and `answer`",
    )
    options.add_argument("gold", type=as_path, nargs="?", help="the rows with their gold answers")
    options.add_argument("overrides", nargs="*", metavar="key=value", help="task=... and column mappings")
    options.add_argument(
        "--by", metavar="COLUMN,...", action="append", default=[], help="columns of the gold file to group by, as well"
    )
    options.add_argument(
        "--normalisation",
        choices=tuple(NORMALISATIONS),
        default=LORICA.name,
        help="; ".join(f"{normalisation.name}: {normalisation.about}" for normalisation in NORMALISATIONS.values())
        + " (%(default)s)",
    )
    given = options.parse_args(list(arguments))
    if given.gold is None or "=" in given.gold.name:
        raise UsageError("lorica eval needs two files", fix="lorica eval ANSWERS GOLD task=...")
    for override in given.overrides:
        name, _, value = override.partition("=")
        if name in _OPTIONS:
            raise UsageError(f"{override}: {name} is an option of lorica eval, not a key", fix=f"--{name} {value}")
    return given


def _need_gold(row: Row) -> None:
    if row.gold_problem is not None:
        raise CellError(row.gold_problem.message, fix=row.gold_problem.fix)
    if row.gold is None:
        raise ValueError("the row has no gold answer")


def _refuse_strangers(answers: dict[str, Answer], rows: Sequence[Row], path: Path, gold: Path) -> None:
    row_ids = {row.id for row in rows}
    strangers = [row_id for row_id in answers if row_id not in row_ids]
    if strangers:
        raise DataError(
            f"{len(strangers)} of {len(answers)} answers belong to no row of {gold}",
            path=path,
            row_id=strangers[0],
            fix=f"evaluate against the file that was answered (the first row of this one is {rows[0].id!r})",
        )


def _health(task: Task, rows: Sequence[Row], answers: dict[str, Answer]) -> ScoreHealth | None:
    chosen = [answers[row.id] for row in rows]
    if task.answer_type != "score" or all(answer.score is None for answer in chosen):
        return None
    return score_health(
        [answer.score for answer in chosen],
        gold=[row.gold for row in rows],
        fallback=[answer.stage == "fallback" for answer in chosen],
        masses=[answer.choice_mass for answer in chosen],
    )
