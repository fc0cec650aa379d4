"""The columns of a result file that somebody asks for, under their names: what a competition takes."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from lorica.data.answers import ANSWER_COLUMNS
from lorica.data.write import atomic_file
from lorica.records import Answer

SUFFIX = ".submission.csv"
_SCORE_PREFIX = "scores."


class SubmissionColumn(msgspec.Struct, frozen=True):
    """A column: its name, and the field of the answer it holds (`scores.A`: the probability of choice A)."""

    name: str
    field: str


def parse_columns(text: str) -> tuple[SubmissionColumn, ...]:
    """The columns of `row_id=id,rule_violation=score`; a word alone names the field and the column.

    Raises ValueError, with what is allowed, for a field that no answer has or a name that stands twice.
    """
    columns = []
    for item in text.split(","):
        name, equals, field = (word.strip() for word in item.partition("="))
        column = SubmissionColumn(name, field if equals else name)
        is_score = column.field.startswith(_SCORE_PREFIX) and column.field != _SCORE_PREFIX
        if not name or not (is_score or column.field in ANSWER_COLUMNS):
            raise ValueError(
                f"{item.strip()!r} is no column: give NAME=FIELD with a field of {', '.join(ANSWER_COLUMNS)}"
            )
        columns.append(column)
    names = [column.name for column in columns]
    if len(set(names)) < len(names):
        raise ValueError(f"a name stands twice among {', '.join(names)}")
    return tuple(columns)


def write_submission(
    path: Path, answers: Iterable[Answer], columns: Sequence[SubmissionColumn]
) -> dict[str, list[str]]:
    """Write answers, in their order, as a CSV file of these columns, each value as it is and no other word.

    Returns field -> the ids of rows that have no value there: their cells are empty. Atomic. Raises DataError for a
    place that cannot be written.
    """
    missing: dict[str, list[str]] = {}
    with atomic_file(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([column.name for column in columns])
        for answer in answers:
            cells = [_cell(answer, column.field) for column in columns]
            for column, cell in zip(columns, cells, strict=True):
                if cell is None:
                    missing.setdefault(column.field, []).append(answer.id)
            writer.writerow(["" if cell is None else cell for cell in cells])
        text.flush()
        text.detach()  # the file belongs to its context
    return missing


def _cell(answer: Answer, field: str) -> str | None:
    choice = field.removeprefix(_SCORE_PREFIX)
    value = (answer.scores or {}).get(choice) if choice != field else getattr(answer, field)
    if isinstance(value, Mapping):
        return msgspec.json.encode(value).decode()
    if isinstance(value, tuple):
        return " ".join(value)
    return None if value is None else value if isinstance(value, str) else repr(value)
