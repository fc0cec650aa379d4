"""`--submission` of `lorica infer` and `ensemble`: which columns of the answers; the file of them beside the output."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from lorica.commands.arguments import inform, warn
from lorica.data.submission import SUFFIX, SubmissionColumn, parse_columns, write_submission
from lorica.data.write import read_answers
from lorica.errors import UsageError
from lorica.names import count_of


def add_submission_option(command: argparse.ArgumentParser) -> None:
    """Let a command take `--submission`."""
    command.add_argument(
        "--submission",
        metavar="NAME=FIELD,...",
        help="write these columns of the answers also as OUTPUT.submission.csv, every value as it is: `id,score`, or "
        "under other names; fields are those of the output (`scores.A`: the probability of choice A)",
    )


def parse_submission(columns_text: str | None) -> tuple[SubmissionColumn, ...]:
    """The columns that were asked for; () where none were. Raises UsageError."""
    if columns_text is None:
        return ()
    try:
        return parse_columns(columns_text)
    except ValueError as error:
        raise UsageError(
            f"--submission {columns_text}: {error}", fix="as in --submission row_id=id,rule_violation=score"
        ) from error


def submission_path(output_path: Path) -> Path:
    """Where the submission of an output goes."""
    return output_path.with_name(output_path.name.removesuffix(".gz").rpartition(".")[0] + SUFFIX)


def write_submission_beside(output_path: Path, columns: Sequence[SubmissionColumn]) -> Path:
    """Write it beside the output, and say of which rows a value is missing."""
    path = submission_path(output_path)
    for field_name, empty_row_ids in write_submission(path, read_answers(output_path), columns).items():
        rows_text = count_of(len(empty_row_ids), "row has", "rows have")
        warn(f"{path}: {rows_text} no {field_name}, first {empty_row_ids[0]}: the cell is left empty")
    inform(f"{path} holds {', '.join(column.name for column in columns)}")
    return path
