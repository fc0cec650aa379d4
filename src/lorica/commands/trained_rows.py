"""Rows whose own labels an adapter was trained on: flagged where they are answered, refused where they are judged."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from lorica.adaptation.harvest import TextLabels
from lorica.adaptation.ledger import read_ledger, trained_digests
from lorica.adapters.member import open_member
from lorica.adapters.passport import read_passport
from lorica.admission.provenance import rows_facts
from lorica.commands.arguments import warn
from lorica.errors import DataError, LoricaError
from lorica.names import listed
from lorica.records import Answer, Row
from lorica.runs.former_run import finished_record
from lorica.runs.run_record import RunRecord, run_folder_of
from lorica.tasks.base import Task

TRAINED_ROWS = "trained_rows"
"""The entry in the summary of a run of `infer` that lists them."""

TRAINED_ON = "trained_on"
"""The flag of an answer by an adapter that was trained on the row's own label."""


class TrainedRows:
    """Flags answers of rows whose own labels the answering adapter was trained on, as its ledger tells."""

    def __init__(self, task: Task, folders: Mapping[str, Path]) -> None:
        """folders: of the adapters that may answer, by name. Raises DataError for a damaged ledger."""
        digests = {name: trained_digests(read_ledger(folder)) for name, folder in folders.items()}
        self._digests = {name: trained for name, trained in digests.items() if trained}
        self._texts = None if task.row_examples is None else TextLabels(task, task.row_examples)
        self._adapters: dict[str, frozenset[str]] = {}  # row id -> that were trained on its own label
        self._row_ids: dict[str, None] = {}

    def trained_on(self, row: Row) -> frozenset[str]:
        """The names of the adapters that were trained on the row's own label."""
        if not self._digests or self._texts is None:
            return frozenset()
        own_digest = self._texts.digest(row)
        return frozenset(name for name, digests in self._digests.items() if own_digest in digests)

    def noted(self, rows: Iterable[Row]) -> Iterator[Row]:
        """The rows, as they are."""
        for row in rows:
            if names := self.trained_on(row):
                self._adapters[row.id] = names
            yield row

    def flagged(self, answer: Answer) -> Answer:
        """The answer to a row that was noted, with its flag where that is due."""
        if answer.adapter not in self._adapters.get(answer.id, ()):
            return answer
        self._row_ids[answer.id] = None
        return with_flag(answer)

    def summary(self) -> dict[str, Any]:
        """What a record says of them; nothing where there are none."""
        return {TRAINED_ROWS: list(self._row_ids)} if self._row_ids else {}


def with_flag(answer: Answer) -> Answer:
    """The answer, flagged `trained_on`."""
    return msgspec.structs.replace(answer, flags=tuple(sorted({*answer.flags, TRAINED_ON})))


def add_trained_option(command: argparse.ArgumentParser) -> None:
    """`--allow-training-rows`."""
    command.add_argument(
        "--allow-training-rows",
        action="store_true",
        help="judge also scores of rows whose own labels the answering adapter was trained on (`lorica adapt`), and "
        "say how many there are",
    )


def run_beside(answers_path: Path) -> RunRecord | None:
    """The record of the finished run beside a file of answers, None where there is none. A damaged one tells nothing;
    whoever needs it says so."""
    with suppress(DataError):
        return finished_record(run_folder_of(answers_path))
    return None


def find_trained_rows(
    answers_path: Path, record: RunRecord | None, answers: Iterable[Answer], rows: Sequence[Row], *, allow: bool
) -> list[str]:
    """The ids of those rows with gold that an adapter answered which was trained on their own labels. record: of the
    run beside the answers, where there is one. Raises DataError for any, unless that is allowed."""
    row_ids = {row.id for row in rows}
    trained_ids = [row_id for row_id in trained_row_ids(record, answers) if row_id in row_ids]
    if not trained_ids:
        return []
    problem = _trained_problem(trained_ids, len(rows))
    if not allow:
        raise DataError(
            problem,
            path=answers_path,
            row_id=trained_ids[0],
            fix="judge on other rows: leave these out of the gold file; eval, ensemble and calibrate take "
            "--allow-training-rows, from Python allow_training_rows=True",
        )
    warn(f"{answers_path}: {problem}")
    return trained_ids


def _trained_problem(trained_ids: Sequence[str], row_count: int) -> str:
    return (
        f"the adapter was trained on the own labels of {len(trained_ids)} of {row_count} rows "
        f"({listed(trained_ids, 3)}): it knows their answers, and its scores of them prove nothing"
    )


def trained_row_ids(record: RunRecord | None, answers: Iterable[Answer]) -> list[str]:
    """The ids of the rows whose own labels the answering adapter was trained on: those that are flagged, which a copy
    of the file keeps, and those that the record of the run lists, which outlasts a change of the file."""
    flagged = [answer.id for answer in answers if TRAINED_ON in answer.flags]
    return list(dict.fromkeys((*flagged, *_recorded(record))))


def _recorded(record: RunRecord | None) -> list[str]:
    trained = [] if record is None else record.summary.get(TRAINED_ROWS)
    return [row_id for row_id in trained if isinstance(row_id, str)] if isinstance(trained, list) else []


def warn_of_training_rows(answers_path: Path, record: RunRecord, rows: Sequence[Row]) -> None:
    """Say where an adapter that gave these answers was trained on just these rows, as far as the record of the run
    tells which adapter it was and that one is still where it was: of another one in its place nothing is said."""
    if not record.adapters:
        return
    try:
        adapters = record.config["adapters"]
        folders = {name: Path(adapters["paths"].get(name) or Path(adapters["dir"], name)) for name in record.adapters}
    except (KeyError, TypeError, AttributeError):
        return  # a damaged record tells nothing; whoever needs it says so
    _warn_of_passports(answers_path, folders, rows, digests=record.adapters)


def refuse_training_rows(
    task: Task,
    rows_path: Path,
    folders: Mapping[str, Path],
    rows: Sequence[Row],
    answering: Callable[[Row], Collection[str | None]],
) -> None:
    """Hold rows with gold that are to be answered against what these adapters were trained on. answering: the names of
    those that answer a row. Raises DataError for rows whose own labels one of these was trained on, and says where one
    was trained on just these rows."""
    trained = TrainedRows(task, folders)
    trained_ids = [row.id for row in rows if trained.trained_on(row).intersection(answering(row))]
    if trained_ids:
        raise DataError(
            _trained_problem(trained_ids, len(rows)),
            path=rows_path,
            row_id=trained_ids[0],
            fix="measure on other rows: leave these out of the file",
        )
    _warn_of_passports(rows_path, folders, rows)


def _warn_of_passports(
    measured_path: Path, folders: Mapping[str, Path], rows: Sequence[Row], *, digests: Mapping[str, str] | None = None
) -> None:
    """Say which adapters' passports have just these rows as those of the training: figures on them say little of
    others. digests: by name, where only adapters count that still have these."""
    content = rows_facts(rows).content
    for name, folder in folders.items():
        with suppress(LoricaError):  # a damaged one tells nothing
            passport = read_passport(folder)
            data = None if passport is None else passport.data
            if data is None or content not in (data.all.content, data.train.content):
                continue
            if digests is None or open_member(folder).digest == digests[name]:
                warn(
                    f"{measured_path}: the adapter {name} was trained on {data.train.rows} of these {len(rows)} "
                    "rows: the figures say how well it remembers them, and little of other rows"
                )
