"""A file of rows with gold answers, read once for all files of answers that are measured on it."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lorica.commands import build
from lorica.commands.answered_texts import check_answered_texts
from lorica.commands.rows import id_names, list_skipped, open_rows, reading_log, table_options, tell
from lorica.commands.trained_rows import find_trained_rows, run_beside, warn_of_training_rows
from lorica.config.schema import Config
from lorica.data.column_mapping import gold_only
from lorica.data.group_columns import GroupColumns
from lorica.data.ids import ID_FIX
from lorica.data.read_log import ReadLog
from lorica.data.write import read_answers
from lorica.errors import CellError, DataError
from lorica.metrics.normalise import LORICA
from lorica.pipeline.evaluate import Evaluation, evaluate_judged
from lorica.pipeline.judged_answers import JudgedAnswer, judge_answers
from lorica.records import Answer, Row
from lorica.tasks.base import Task

GOLD_SUFFIX = ".gold-skipped.jsonl"

DEFAULT_FPRS = (0.01, 0.05, 0.1)
"""False-positive rates at which thresholds are stated."""


@dataclass(frozen=True)
class GoldFile:
    """Rows with gold, read once for all answers that are measured on them. by: column -> row id -> value. weights: row
    id -> weight, empty where all rows count alike. has_texts: whether it has the rows' texts, and not ids and gold
    answers alone. allow_training_rows: whether rows are judged whose own labels the
    adapter was trained on that answered them; trained_rows: their ids, as far as answers were read."""

    path: Path
    task: Task
    rows: list[Row]
    by: Mapping[str, Mapping[str, str]]
    id_names: frozenset[str]
    read_log: ReadLog
    has_texts: bool = False
    weights: Mapping[str, float] = field(default_factory=dict)
    allow_training_rows: bool = False
    trained_rows: set[str] = field(default_factory=set)

    def read_answers(self, answers: Path | Sequence[Answer]) -> dict[str, Answer]:
        """Answers by row id, without those of rows that were left out; says where the adapter was trained on just these
        rows. Raises DataError for answers of other rows, and for those of an adapter that was trained on the rows' own
        labels."""
        file_path = answers if isinstance(answers, Path) else None
        answers_path = file_path or Path("answers")
        if isinstance(answers, Path):
            answers = list(read_answers(answers, id_names=self.id_names))
        record = None if file_path is None else run_beside(file_path)
        trained = find_trained_rows(answers_path, record, answers, self.rows, allow=self.allow_training_rows)
        self.trained_rows.update(trained)
        answers_by_id = {answer.id: answer for answer in answers}
        if len(answers_by_id) < len(answers):  # only from memory: a file is refused when it is read
            doubled = Counter(answer.id for answer in answers).most_common(1)[0][0]
            raise DataError("two answers have this id", path=answers_path, row_id=doubled, fix=ID_FIX)
        for skipped in self.read_log.skipped:  # their answers are judged by nothing
            answers_by_id.pop(skipped.id or "", None)
        _refuse_strangers(answers_by_id, self.rows, answers_path, self.path)
        if file_path is not None and record is not None and self.has_texts:
            texts = {row.id: self.task.text(row) for row in self.rows}
            check_answered_texts(file_path, record, texts, self.path, self.read_log.schema_names)
            warn_of_training_rows(file_path, record, self.rows)
        return answers_by_id

    def judge(self, answers: Mapping[str, Answer], name: str) -> list[JudgedAnswer]:
        """The answers of one file, `name`, as the task reads them. Raises DataError for a row without an answer."""
        return judge_answers(self.task, self.rows, answers, str(self.path), name, self.weights)

    def evaluate(
        self,
        judged: Sequence[JudgedAnswer],
        *,
        normalisation: str = LORICA.name,
        max_fprs: Sequence[float] = DEFAULT_FPRS,
    ) -> Evaluation:
        """Measure the answers of one file."""
        return evaluate_judged(self.task, judged, by=self.by, max_fprs=max_fprs, normalisation=normalisation)

    def list_skipped(self, main_file: Path) -> dict[str, Any]:
        """What of the gold file was not read, as plain values; the rows themselves in a file beside `main_file`."""
        return list_skipped(self.read_log, main_file.with_name(main_file.name + GOLD_SUFFIX))


def read_gold(
    config: Config,
    gold_file: Path,
    group_columns: Sequence[str],
    *,
    weight_column: str = "",
    allow_training_rows: bool = False,
) -> GoldFile:
    """The rows of a file with gold. group_columns: of it, to group by. weight_column: how much each row counts.
    allow_training_rows: see `GoldFile`.

    Raises DataError for a row without gold, where a named column is missing, and for a weight that is none.
    """
    task = build.build_task(config)
    gold_schemas = tuple(filter(None, map(gold_only, task.schemas)))
    column_names = list(dict.fromkeys(filter(None, group_columns)))
    columns_to_read = GroupColumns(
        (*task.schemas, *gold_schemas), list(dict.fromkeys(filter(None, (*column_names, weight_column))))
    )
    # Nothing is asked here: what prompts leave out is no concern.
    read_log = reading_log(config, unsaid=() if task.row_examples is None else (task.row_examples.unused,))
    rows = list(
        open_rows(config, task, gold_file, schemas=columns_to_read.schemas, read_log=read_log, check_row=_need_gold)
    )
    tell(read_log)
    columns_to_read.check(gold_file, table_options(config))
    by = {column_name: columns_to_read.values[column_name] for column_name in column_names}
    weights = _weights(columns_to_read.values[weight_column], rows, weight_column, gold_file) if weight_column else {}
    names = id_names(config, task)
    has_texts = read_log.schema_names.isdisjoint(schema.name for schema in gold_schemas)
    return GoldFile(gold_file, task, rows, by, names, read_log, has_texts, weights, allow_training_rows)


def _need_gold(row: Row) -> None:
    if row.gold_problem is not None:
        raise CellError(row.gold_problem.message, fix=row.gold_problem.fix)
    if row.gold is None:
        raise ValueError("the row has no gold answer")


def _weights(
    texts_by_row: Mapping[str, str], rows: Sequence[Row], weight_column: str, gold_file: Path
) -> dict[str, float]:
    """Row id -> weight. Raises DataError for a cell that is no finite number from 0 on, and where no row counts."""
    weights = {}
    for row in rows:
        try:
            weights[row.id] = float(texts_by_row[row.id])
        except ValueError:
            weights[row.id] = math.nan
        if not 0 <= weights[row.id] < math.inf:
            problem = f"the weight in the column {weight_column!r} is {texts_by_row[row.id]!r}"
            fix = "allowed: finite numbers from 0 on, one in every row"
            raise DataError(problem, path=gold_file, line=row.line or None, row_id=row.id, fix=fix)
    if not any(weights.values()):
        raise DataError(
            f"every weight in the column {weight_column!r} is 0", path=gold_file, fix="some row has to count"
        )
    return weights


def _refuse_strangers(answers: dict[str, Answer], rows: Sequence[Row], answers_path: Path, gold_file: Path) -> None:
    row_ids = {row.id for row in rows}
    strangers = [row_id for row_id in answers if row_id not in row_ids]
    if strangers:
        same_number = {_plain_id(row_id): row_id for row_id in sorted(row_ids)}
        lookalike = same_number.get(_plain_id(strangers[0]))
        fix = f"evaluate against the file that was answered (the first row of this one is {rows[0].id!r})"
        if lookalike is not None:
            fix = f"write ids as there: its row is {lookalike!r} (white space, zeros in front and .0 are part of an id)"
        problem = f"{len(strangers)} of {len(answers)} answers belong to no row of {gold_file}"
        raise DataError(problem, path=answers_path, row_id=strangers[0], fix=fix)


def _plain_id(row_id: str) -> str:
    """An id without what programs add to one: white space, zeros in front, .0."""
    return re.sub(r"(?<=\d)\.0+$", "", row_id.strip()).lstrip("0").casefold()
