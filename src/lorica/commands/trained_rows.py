"""Rows whose own labels an adapter was trained on: noted where they are answered, refused where they are judged."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lorica.adaptation.harvest import TextLabels
from lorica.adaptation.ledger import read_ledger, trained_digests
from lorica.commands.arguments import warn
from lorica.errors import DataError
from lorica.names import listed
from lorica.records import Row
from lorica.runs.former_run import finished_record
from lorica.runs.run_record import run_folder_of
from lorica.tasks.base import Task

TRAINED_ROWS = "trained_rows"
"""The entry in the summary of a run of `infer` that lists them."""


class TrainedRows:
    """Notes, of rows that are read to be answered, those whose own labels an adapter was trained on."""

    def __init__(self, task: Task, folders: Mapping[str, Path]) -> None:
        """folders: of the adapters that may answer. Raises DataError for a damaged ledger."""
        digests = [trained_digests(read_ledger(folder)) for folder in folders.values()]
        self._digests = frozenset().union(*digests)
        self._texts = None if task.row_examples is None else TextLabels(task, task.row_examples)
        self._row_ids: dict[str, None] = {}

    def noted(self, rows: Iterable[Row]) -> Iterator[Row]:
        """The rows, as they are."""
        for row in rows:
            if self._digests and self._texts is not None and self._texts.digest(row) in self._digests:
                self._row_ids[row.id] = None
            yield row

    def summary(self) -> dict[str, Any]:
        """What a record says of them; nothing where there are none."""
        return {TRAINED_ROWS: list(self._row_ids)} if self._row_ids else {}


def add_trained_option(command: argparse.ArgumentParser) -> None:
    """`--allow-training-rows`."""
    command.add_argument(
        "--allow-training-rows",
        action="store_true",
        help="judge also scores of rows whose own labels the answering adapter was trained on (`lorica adapt`), and "
        "say how many there are",
    )


def find_trained_rows(answers_path: Path, rows: Sequence[Row], *, allow: bool) -> list[str]:
    """The ids of those rows with gold that an adapter answered which was trained on their own labels, as the record of
    the run tells. Raises DataError for any, unless that is allowed."""
    row_ids = {row.id for row in rows}
    trained_ids = [row_id for row_id in recorded_trained_rows(answers_path) if row_id in row_ids]
    if not trained_ids:
        return []
    problem = (
        f"the adapter was trained on the own labels of {len(trained_ids)} of {len(rows)} rows "
        f"({listed(trained_ids, 3)}): it knows their answers, and its scores of them prove nothing"
    )
    if not allow:
        raise DataError(
            problem,
            path=answers_path,
            row_id=trained_ids[0],
            fix="judge on other rows: leave these out of the gold file; eval, ensemble and calibrate take "
            "--allow-training-rows",
        )
    warn(f"{answers_path}: {problem}")
    return trained_ids


def recorded_trained_rows(answers_path: Path) -> list[str]:
    """The ids of the rows whose own labels the answering adapter was trained on, as the record of the run tells."""
    try:
        record = finished_record(run_folder_of(answers_path))
    except DataError:
        return []  # a damaged record tells nothing; whoever needs it says so
    trained = [] if record is None else record.summary.get(TRAINED_ROWS)
    return [row_id for row_id in trained if isinstance(row_id, str)] if isinstance(trained, list) else []
