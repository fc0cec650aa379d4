"""Files of rows as the configuration says to read them: the one way in which commands open them, and tell about it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lorica.commands.arguments import inform
from lorica.config.schema import Config
from lorica.data.column_mapping import count_matches
from lorica.data.read import read_rows
from lorica.data.read_log import ReadLog, write_skipped
from lorica.data.table import TableOptions
from lorica.errors import NoTableError
from lorica.records import Row, RowSchema
from lorica.tasks import TASKS, load_task
from lorica.tasks.base import Task


def open_rows(
    config: Config,
    task: Task,
    path: Path,
    *,
    schemas: Sequence[RowSchema] = (),
    log: ReadLog | None = None,
    check: Callable[[Row], object] | None = None,
) -> Iterator[Row]:
    """The rows of a file in the schemas of the task. `log` is one of `reading_log`; without it no note reaches anybody.

    schemas: those of the task, where something is added to them. check: raises ValueError for a row that the command
    cannot use. Raises what `lorica.data.read.read_rows` does.
    """
    with naming_its_task(task):
        return read_rows(
            path,
            schemas or task.schemas,
            columns=config.task.columns,
            constants=config.task.constants,
            options=table_options(config),
            log=log or reading_log(config),
            check=check,
        )


@contextmanager
def naming_its_task(task: Task) -> Iterator[None]:
    """A table that this task does not know and another one does: name that one."""
    try:
        yield
    except NoTableError as error:
        schemas = {name: load_task(name).schemas for name in TASKS if name != task.name}
        alike = {name: max(count_matches(schema, error.columns) for schema in own) for name, own in schemas.items()}
        best = [f"task={name}" for name, value in alike.items() if 0 < value == max(alike.values())]
        if best:
            error.fix = f"it is a table of {' or '.join(best)}; otherwise {error.fix}"
        raise


def table_options(config: Config) -> TableOptions:
    """How files are laid out, where the configuration says so."""
    return TableOptions(config.reading.quoting, config.reading.delimiter, config.reading.sheet)


def reading_log(config: Config) -> ReadLog:
    """What takes the rows that are left out, where the configuration wants them left out."""
    return ReadLog(skip=config.reading.bad_rows == "skip")


def tell(log: ReadLog) -> None:
    """Say on standard error what was not read, and was not said before."""
    for note in log.new_notes():
        inform(note)


def list_skipped(log: ReadLog, path: Path) -> dict[str, Any]:
    """Write the rows that were left out to `path`, and give all that was not read as plain values for a record.

    Where none was left out no file stays at `path`: one from an earlier run would tell of rows that are there now.
    """
    if not write_skipped(path, log.skipped):
        return log.as_dict()
    inform(f"the rows that were left out: {path}")
    return log.as_dict() | {"skipped_file": str(path)}
