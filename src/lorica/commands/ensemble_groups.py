"""Within what `lorica ensemble --within COLUMN` takes ranks: the column's value for each row."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from lorica.commands import build
from lorica.commands.ensemble_request import FOLD, BlendRequest
from lorica.commands.gold_file import GoldFile
from lorica.commands.rows import open_rows, table_options
from lorica.config.schema import Config
from lorica.data.group_columns import GroupColumns
from lorica.ensemble.members import EnsembleMember
from lorica.errors import DataError

# Adapters of folds are called so by `commands.fold_report.fold_name`.
_OF_FOLD = re.compile(r"fold-\d+")


def rank_groups(
    config: Config,
    request: BlendRequest,
    gold: GoldFile | None,
    members: Sequence[EnsembleMember],
    row_ids: Sequence[str],
) -> list[str] | None:
    """The value of each row [n]; None where ranks are taken over all. Of `--within fold` it is the fold that gave the
    members' out-of-fold scores, where these are such.

    Raises DataError for a column that is none, for rows that the file of rows lacks, and for members that were divided
    into different folds.
    """
    if not request.within:
        return None
    if request.within == FOLD and (folds := _folds_of(members, row_ids)):
        return folds
    if request.within == FOLD and gold is None and request.rows is None:
        raise DataError(
            "its answers are no out-of-fold scores: not each is of an adapter fold-1, fold-2, ...",
            path=request.files[0],
            fix="give out_of_fold.csv of `lorica train folds=5`, or --gold or --rows FILE with a column fold",
        )
    rows_file = request.rows or (request.files[0] if gold is None else gold.path)
    values = gold.by if gold is not None and request.within in gold.by else None
    value_of_row = (values or _read_column(config, rows_file, request.within))[request.within]
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


def _folds_of(members: Sequence[EnsembleMember], row_ids: Sequence[str]) -> list[str]:
    """The fold that answered each row [n]; [] where a member's answers are not all of folds. Raises DataError where two
    members' folds differ."""
    folds = [[member.answers[row_id].adapter for row_id in row_ids] for member in members]
    if not all(_OF_FOLD.fullmatch(fold) for member_folds in folds for fold in member_folds):
        return []
    for member, member_folds in zip(members, folds, strict=True):
        for row_id, fold, first_fold in zip(row_ids, member_folds, folds[0], strict=True):
            if fold != first_fold:
                raise DataError(
                    f"it was scored by {fold}, and in {members[0].name} by {first_fold}: ranks within folds need "
                    "members that were divided alike",
                    path=member.name,
                    row_id=row_id,
                    fix="rank each file alone first (lorica ensemble FILE --within fold --output RANKED.csv), and "
                    "blend the ranked files",
                )
    return folds[0]


def _read_column(config: Config, rows_file: Path, column: str) -> Mapping[str, Mapping[str, str]]:
    task = build.build_task(config)
    columns_to_read = GroupColumns(task.schemas, [column])
    for _ in open_rows(config, task, rows_file, schemas=columns_to_read.schemas):
        pass
    columns_to_read.check(rows_file, table_options(config))
    return columns_to_read.values
