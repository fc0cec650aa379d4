"""Files of rows as the configuration says to read them: the one way in which commands open them, and tell about it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
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
    rows_file: Path,
    *,
    schemas: Sequence[RowSchema] = (),
    read_log: ReadLog | None = None,
    check_row: Callable[[Row], object] | None = None,
) -> Iterator[Row]:
    """The rows of a file in the schemas of the task. `read_log` is one of `reading_log`; without it no note reaches
    anybody.

    schemas: those of the task, where something is added to them. check_row: raises ValueError for a row that the
    command cannot use. Raises what `lorica.data.read.read_rows` does.
    """
    with naming_its_task(task):
        return read_rows(
            rows_file,
            schemas or task.schemas,
            columns=config.task.columns,
            constants=config.task.constants,
            options=table_options(config),
            log=read_log or reading_log(config),
            check=check_row,
        )


def read_and_tell(config: Config, task: Task, rows_file: Path, *, most: int | None = None) -> list[Row]:
    """The rows of a file, the first `most` of them; what of it is not read is said on standard error."""
    read_log = reading_log(config)
    rows = list(islice(open_rows(config, task, rows_file, read_log=read_log), most))
    tell(read_log)
    return rows


@contextmanager
def naming_its_task(task: Task) -> Iterator[None]:
    """A table that this task does not know and another one does: name that one."""
    try:
        yield
    except NoTableError as error:
        schemas_by_task = {task_name: load_task(task_name).schemas for task_name in TASKS if task_name != task.name}
        matching_columns = {
            task_name: max(count_matches(schema, error.columns) for schema in task_schemas)
            for task_name, task_schemas in schemas_by_task.items()
        }
        best_tasks = [
            f"task={task_name}"
            for task_name, column_count in matching_columns.items()
            if 0 < column_count == max(matching_columns.values())
        ]
        if best_tasks:
            error.fix = f"it is a table of {' or '.join(best_tasks)}; otherwise {error.fix}"
        raise


def id_names(config: Config, task: Task) -> frozenset[str]:
    """What the column of ids may be called in a file of answers to the task's rows, besides `id`."""
    return frozenset(config.task.columns.get(schema.id_column, schema.id_column) for schema in task.schemas)


def table_options(config: Config) -> TableOptions:
    """How files are laid out, where the configuration says so."""
    return TableOptions(config.reading.quoting, config.reading.delimiter, config.reading.sheet)


def reading_log(config: Config, *, unsaid: Collection[str] = ()) -> ReadLog:
    """What takes the rows that are left out, where the configuration wants them left out. unsaid: notes not to keep."""
    return ReadLog(skip=config.reading.bad_rows == "skip", unsaid=unsaid)


def tell(read_log: ReadLog) -> None:
    """Say on standard error what was not read, and was not said before."""
    for note in read_log.new_notes():
        inform(note)


def list_skipped(read_log: ReadLog, skipped_path: Path) -> dict[str, Any]:
    """Write the rows that were left out to `skipped_path`, and give all that was not read as plain values for a record.

    Where none was left out no file stays there: one from an earlier run would tell of rows that are there now.
    """
    if not write_skipped(skipped_path, read_log.skipped):
        return read_log.as_dict()
    inform(f"the rows that were left out: {skipped_path}")
    return read_log.as_dict() | {"skipped_file": str(skipped_path)}
