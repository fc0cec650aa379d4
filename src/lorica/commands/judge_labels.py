"""Rows that people have labelled, to hold a judge against."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lorica.commands.gold_file import GoldFile
from lorica.data.column_mapping import id_text
from lorica.data.column_names import fold_name
from lorica.data.formats import open_unconfigured
from lorica.errors import DataError
from lorica.judging.rubrics import Rubric
from lorica.names import did_you_mean

# What a label of the best and of the worst value may be written as, too.
_RIGHT, _WRONG = ("1", "true", "yes"), ("0", "false", "no")


def read_labels(labels_file: Path, gold: GoldFile, rubric: Rubric) -> dict[str, str]:
    """Row id -> label, of a table with a column of ids and `label`. Raises DataError for a label that the rubric has
    not, an id twice, and one of no row."""
    table = open_unconfigured(labels_file)
    id_names = {fold_name(name) for name in ("id", *gold.id_names)}
    spellings = {label.name.casefold(): label.name for label in rubric.labels}
    if rubric.kind != "pairwise":
        spellings |= dict.fromkeys(_RIGHT, rubric.best.name) | dict.fromkeys(_WRONG, rubric.worst.name)
    row_ids = {row.id for row in gold.rows}
    labels: dict[str, str] = {}
    for line, record in table.whole_records(table.names):
        row_id, label_text = _cells(labels_file, line, record, id_names)
        if row_id in labels:
            raise DataError(
                "the row is labelled twice", path=labels_file, line=line, row_id=row_id, fix="keep one label"
            )
        if row_id not in row_ids:
            fix = "label rows of the file that is judged"
            raise DataError(
                f"the label is of no row of {gold.path}", path=labels_file, line=line, row_id=row_id, fix=fix
            )
        label = spellings.get(label_text.casefold())
        if label is None:
            raise DataError(
                f"{label_text!r} is no label of the rubric {rubric.name}; allowed: {', '.join(spellings)}",
                path=labels_file,
                line=line,
                row_id=row_id,
                fix=did_you_mean(label_text, spellings, otherwise="write one of these, or leave the row out"),
            )
        labels[row_id] = label
    if not labels:
        raise DataError("the file holds no label", path=labels_file, fix="add rows with id and label")
    return labels


def _cells(labels_file: Path, line: int, record: Mapping[str, Any], id_names: set[str]) -> tuple[str, str]:
    ids = [cell for column, cell in record.items() if fold_name(column) in id_names]
    labels = [cell for column, cell in record.items() if fold_name(column) == "label"]
    if len(ids) != 1 or len(labels) != 1:
        raise DataError(
            f"a label needs the columns id and label; this row has {', '.join(record)}",
            path=labels_file,
            line=line,
            fix="id,label",
        )
    try:
        row_id = id_text(ids[0])
    except ValueError as error:
        raise DataError(str(error), path=labels_file, line=line, fix="give every label the id of its row") from error
    label = labels[0]
    return row_id, (str(label).lower() if isinstance(label, bool) else "" if label is None else str(label)).strip()
