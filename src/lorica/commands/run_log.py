"""The run folder of a command: `--run DIR`, and what is written into it while the command works."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from lorica.commands.arguments import MESSAGE_LISTENER, as_path, inform
from lorica.data.digest import file_digest
from lorica.data.journal import check_same_run
from lorica.errors import DataError, ResumeError
from lorica.records import Row
from lorica.runs.run_folder import RunFolder
from lorica.runs.run_record import RECORD_NAME, RunFile, RunRecord, read_record

if TYPE_CHECKING:
    from collections import Counter
    from typing import Any

    from lorica.config.compose import Resolved


class RecordedConfiguration(TypedDict):
    """The fields of a `RunRecord` that the configuration decides."""

    task: str
    config: dict[str, Any]
    origins: dict[str, str]


def recorded_configuration(resolved: Resolved) -> RecordedConfiguration:
    """Task, values and origins of every key, for a record."""
    return {"task": resolved.config.task.name, "config": resolved.as_dict(), "origins": dict(resolved.origins)}


def add_run_option(command: argparse.ArgumentParser) -> None:
    """`--run DIR`."""
    run_help = "leave a run folder: command, configuration, digests, machine, log and metrics, for `lorica runs`"
    command.add_argument("--run", type=as_path, metavar="DIR", help=run_help)


@contextmanager
def recorded_run(
    folder: Path | None,
    command: str,
    words: Sequence[str],
    resolved: Resolved,
    inputs: Mapping[str, Sequence[Path | None]],
) -> Iterator[RunFolder | None]:
    """A block whose run is recorded in `folder`; None records nothing. inputs: role ("answers", "gold") -> files, None
    for one that was not given.

    Yields the run folder, for metrics and outputs. Raises what `RunFolder.create` raises, and DataError for an input
    that cannot be read.
    """
    if folder is None:
        yield None
        return
    input_files = [run_file(role, path) for role, paths in inputs.items() for path in paths if path is not None]
    record = RunRecord(command=command, **recorded_configuration(resolved), inputs=input_files)
    with RunFolder.create(folder, record, words=words) as run_log, logged_messages(run_log):
        yield run_log
    inform(f"run: {folder}")


def goes_on(
    folder: Path,
    command: str,
    manifest: Mapping[str, str],
    *,
    resume: bool,
    resume_words: str = "training.resume=true",
    otherwise: str,
) -> bool:
    """Whether to go on with what this command has begun in the folder; a run of another command `RunFolder.create`
    refuses. resume: whether that is wanted, as `resume_words` say. otherwise: what else helps.

    Raises ResumeError for a run that is not to be resumed, and for one with another manifest; DataError for one without
    a record, or with a damaged one.
    """
    refuse_without_record(folder, command, otherwise=otherwise)
    try:
        former = read_record(folder)
    except DataError as error:
        error.fix = f"what it was given is not known any more: {otherwise}"
        raise
    if former.command != command:
        return False
    if not resume:
        fix = f"go on with it: {resume_words}; or {otherwise}"
        raise ResumeError(f"{folder} holds a run of `lorica {command}` already ({former.status})", fix=fix)
    check_same_run(folder, former.manifest, manifest, otherwise=otherwise)
    return True


def refuse_without_record(folder: Path, command: str, *, otherwise: str) -> None:
    """Raise DataError where what this command has begun in a folder is without its record: nobody can tell whether it
    is of the same settings. otherwise: what helps, but to put it back."""
    if not (folder / RECORD_NAME).exists():
        raise DataError(
            f"holds a run of `lorica {command}`, and no {RECORD_NAME} that says what it was given",
            path=folder,
            fix=f"put {RECORD_NAME} back as it was; or {otherwise}",
        )


def run_file(role: str, path: Path | str, *, rows: int | None = None) -> RunFile:
    """A file as a record names it."""
    return RunFile(role=role, path=str(path), digest=file_digest(path), rows=rows)


@contextmanager
def logged_messages(run_log: RunFolder) -> Iterator[None]:
    """A block in which whatever is said on standard error stands in the run's log as well; what a run within it says
    stands in that one's alone."""

    def listen(message: str) -> None:
        run_log.log("message", {"text": message})

    run_log.log("started", {"command": run_log.record.command_line, "call": run_log.record.calls})
    outer_listener = MESSAGE_LISTENER.set(listen)
    try:
        yield
    finally:
        MESSAGE_LISTENER.reset(outer_listener)
        run_log.log("ended")


def counted(advance: Callable[[int], None], run_log: RunFolder) -> Callable[[int], None]:
    """A progress bar's function that counts the rows in the run's log, too."""

    def advance_both(row_count: int) -> None:
        advance(row_count)
        run_log.progress(row_count)

    return advance_both


def count_gold(rows: Iterator[Row], gold_counts: Counter[bool]) -> Iterator[Row]:
    """The rows; `gold_counts` takes how many have a gold answer, and how many have none."""
    for row in rows:
        gold_counts[row.gold is not None] += 1
        yield row
