"""The columns of a result file that somebody asks for, under their names: what a competition takes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from lorica.data.answers import ANSWER_COLUMNS
from lorica.data.write import atomic_file, csv_writer
from lorica.records import Answer

SUFFIX = ".submission.csv"
_SCORE_PREFIX = "scores."


class SubmissionColumn(msgspec.Struct, frozen=True):
    """A column: its name, and the field of the answer it holds (`scores.A`: the probability of choice A)."""

    name: str
    field: str


def parse_columns(columns_text: str) -> tuple[SubmissionColumn, ...]:
    """The columns of `row_id=id,rule_violation=score`; a word alone names the field and the column.

    Raises ValueError, with what is allowed, for a field that no answer has or a name that stands twice.
    """
    columns = []
    for column_text in columns_text.split(","):
        column_name, equals_sign, answer_field = (stripped_text.strip() for stripped_text in column_text.partition("="))
        column = SubmissionColumn(column_name, answer_field if equals_sign else column_name)
        is_score = column.field.startswith(_SCORE_PREFIX) and column.field != _SCORE_PREFIX
        if not column_name or not (is_score or column.field in ANSWER_COLUMNS):
            raise ValueError(
                f"{column_text.strip()!r} is no column: give NAME=FIELD with a field of {', '.join(ANSWER_COLUMNS)}"
            )
        columns.append(column)
    column_names = [column.name for column in columns]
    if len(set(column_names)) < len(column_names):
        raise ValueError(f"a name stands twice among {', '.join(column_names)}")
    return tuple(columns)


def write_submission(
    path: Path, answers: Iterable[Answer], columns: Sequence[SubmissionColumn]
) -> dict[str, list[str]]:
    """Write answers, in their order, as a CSV file of these columns, each value as it is and no other word.

    Returns field -> the ids of rows that have no value there: their cells are empty. Atomic. Raises DataError for a
    place that cannot be written.
    """
    missing: dict[str, list[str]] = {}
    with atomic_file(path) as binary_file, csv_writer(binary_file) as writer:
        writer.writerow([column.name for column in columns])
        for answer in answers:
            cell_texts = [_cell(answer, column.field) for column in columns]
            for column, cell_text in zip(columns, cell_texts, strict=True):
                if cell_text is None:
                    missing.setdefault(column.field, []).append(answer.id)
            writer.writerow(["" if cell_text is None else cell_text for cell_text in cell_texts])
    return missing


def _cell(answer: Answer, answer_field: str) -> str | None:
    choice = answer_field.removeprefix(_SCORE_PREFIX)
    field_value = (answer.scores or {}).get(choice) if choice != answer_field else getattr(answer, answer_field)
    if answer_field == "flags":
        return " ".join(answer.flags)
    if isinstance(field_value, (Mapping, tuple)):
        return msgspec.json.encode(field_value).decode()
    return None if field_value is None else field_value if isinstance(field_value, str) else repr(field_value)
