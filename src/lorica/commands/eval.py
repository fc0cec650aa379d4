"""`lorica eval`: a result file against the rows with their gold answers."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lorica.commands import build
from lorica.commands.arguments import as_path, emit, parser, resolve
from lorica.commands.eval_report import evaluation_dict, evaluation_text
from lorica.commands.rows import list_skipped, open_rows, reading_log, table_options, tell
from lorica.config.schema import Config
from lorica.data.column_mapping import gold_only
from lorica.data.group_columns import GroupColumns
from lorica.data.write import read_answers
from lorica.errors import CellError, DataError, UsageError
from lorica.metrics.normalise import LORICA, NORMALISATIONS
from lorica.pipeline.evaluate import Evaluation, evaluate
from lorica.records import Answer, Row

GOLD_SUFFIX = ".gold-skipped.jsonl"

_OPTIONS = ("by", "normalisation")


def run(arguments: Sequence[str]) -> int:
    """Measure, and print metrics, groups and the health of the scores."""
    options = _parse(arguments)
    evaluation, reading = evaluate_answers(
        resolve(options.overrides).config,
        options.answers,
        options.gold,
        group_columns=[column_name.strip() for column_name in ",".join(options.by).split(",")],
        normalisation=options.normalisation,
    )
    emit(
        evaluation_dict(evaluation) | {"reading": reading},
        as_json=options.json,
        text=evaluation_text(evaluation),
    )
    return 0


def evaluate_answers(
    config: Config,
    answers: Path | Sequence[Answer],
    gold_file: Path,
    *,
    group_columns: Sequence[str],
    normalisation: str,
) -> tuple[Evaluation, dict[str, Any]]:
    """Measure answers on the rows of a file with gold, and what of that file was not read.

    by: columns of it to group by. Raises DataError for rows without gold or without an answer, and for answers of other
    rows.
    """
    task = build.build_task(config)
    schemas = (*task.schemas, *filter(None, map(gold_only, task.schemas)))
    columns_to_read = GroupColumns(schemas, list(dict.fromkeys(filter(None, group_columns))))
    read_log = reading_log(config)
    rows = list(
        open_rows(config, task, gold_file, schemas=columns_to_read.schemas, read_log=read_log, check_row=_need_gold)
    )
    tell(read_log)
    columns_to_read.check(gold_file, table_options(config))
    answer_file = answers if isinstance(answers, Path) else None
    if isinstance(answers, Path):
        id_names = {config.task.columns.get(schema.id_column, schema.id_column) for schema in task.schemas}
        answers = list(read_answers(answers, id_names=id_names))
    answers_by_id = {answer.id: answer for answer in answers}
    for skipped in read_log.skipped:  # their answers are judged by nothing
        answers_by_id.pop(skipped.id or "", None)
    answers_path = answer_file or Path("answers")
    _refuse_strangers(answers_by_id, rows, answers_path, gold_file)
    evaluation = evaluate(
        task,
        rows,
        answers_by_id,
        by=columns_to_read.values,
        normalisation=normalisation,
        gold_file=str(gold_file),
        answer_file=str(answers_path),
    )
    main_file = answer_file or gold_file
    return evaluation, list_skipped(read_log, main_file.with_name(main_file.name + GOLD_SUFFIX))


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    command = parser(
        "eval",
        "Compare answers with gold: every metric with its 95% bootstrap interval and n, per group, with the counts of\n"
        "truncated, invalid and fall-back rows, of rows without an answer and of answers that cannot be read, and the\n"
        "health of the score column. Texts are compared as docs/metrics.md says.",
        "  lorica eval answers.csv examples/rules/posts.csv task=rules\n"
        "  lorica eval answers.jsonl gold.jsonl task=mcq --json\n"
        "  lorica eval answers.csv gold.csv task=saq --by country,subject --normalisation squad",
        overrides=False,
    )
    command.add_argument(
        "answers",
        type=as_path,
        nargs="?",
        help="what `lorica infer` wrote, or any table with the rows' ids and `answer`",
    )
    command.add_argument("gold", type=as_path, nargs="?", help="the rows with their gold answers")
    command.add_argument("overrides", nargs="*", metavar="key=value", help="task=... and column mappings")
    command.add_argument(
        "--by", metavar="COLUMN,...", action="append", default=[], help="columns of the gold file to group by, as well"
    )
    command.add_argument(
        "--normalisation",
        choices=tuple(NORMALISATIONS),
        default=LORICA.name,
        help="; ".join(f"{normalisation.name}: {normalisation.about}" for normalisation in NORMALISATIONS.values())
        + " (%(default)s)",
    )
    options = command.parse_args(list(arguments))
    if options.gold is None or "=" in options.gold.name:
        raise UsageError("lorica eval needs two files", fix="lorica eval ANSWERS GOLD task=...")
    for override in options.overrides:
        option_name, _, option_value = override.partition("=")
        if option_name in _OPTIONS:
            raise UsageError(
                f"{override}: {option_name} is an option of lorica eval, not a key",
                fix=f"--{option_name} {option_value}",
            )
    return options


def _need_gold(row: Row) -> None:
    if row.gold_problem is not None:
        raise CellError(row.gold_problem.message, fix=row.gold_problem.fix)
    if row.gold is None:
        raise ValueError("the row has no gold answer")


def _refuse_strangers(answers: dict[str, Answer], rows: Sequence[Row], answers_path: Path, gold_file: Path) -> None:
    row_ids = {row.id for row in rows}
    strangers = [row_id for row_id in answers if row_id not in row_ids]
    if strangers:
        raise DataError(
            f"{len(strangers)} of {len(answers)} answers belong to no row of {gold_file}",
            path=answers_path,
            row_id=strangers[0],
            fix=f"evaluate against the file that was answered (the first row of this one is {rows[0].id!r})",
        )
