"""Within what `lorica ensemble --within COLUMN` takes ranks: the column's value for each row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from lorica.commands import build
from lorica.commands.ensemble_request import BlendRequest
from lorica.commands.gold_file import GoldFile
from lorica.commands.rows import open_rows, table_options
from lorica.config.schema import Config
from lorica.data.group_columns import GroupColumns
from lorica.errors import DataError


def rank_groups(
    config: Config, request: BlendRequest, gold: GoldFile | None, row_ids: Sequence[str]
) -> list[str] | None:
    """The value of each row [n]; None where ranks are taken over all. Raises DataError for a column that is none, and
    for rows that the file of rows lacks."""
    if not request.within:
        return None
    rows_file = request.rows or request.files[0]
    values = gold.by if gold is not None else _read_column(config, rows_file, request.within)
    value_of_row = values[request.within]
    missing = [row_id for row_id in row_ids if row_id not in value_of_row]
    if missing:
        raise DataError(
            f"it lacks {len(missing)} of the {len(row_ids)} rows of the answers, and ranks are taken within "
            f"{request.within!r}",
            path=rows_file,
            row_id=missing[0],
            fix="name the file of rows that was answered: --rows FILE",
        )
    return [value_of_row[row_id] for row_id in row_ids]


def _read_column(config: Config, rows_file: Path, column: str) -> Mapping[str, Mapping[str, str]]:
    task = build.build_task(config)
    columns_to_read = GroupColumns(task.schemas, [column])
    for _ in open_rows(config, task, rows_file, schemas=columns_to_read.schemas):
        pass
    columns_to_read.check(rows_file, table_options(config))
    return columns_to_read.values
