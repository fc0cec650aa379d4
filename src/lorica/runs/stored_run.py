"""Run folders as they are read: one, or all below some folders."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lorica.data.digest import file_digest
from lorica.errors import DataError
from lorica.locks import lock_owner
from lorica.runs.former_run import finished_record
from lorica.runs.run_record import (
    FORMER_RECORD_SUFFIX,
    LOG_NAME,
    METRICS_NAME,
    RECORD_NAME,
    RUN_SUFFIX,
    RunFile,
    RunMetric,
    RunRecord,
    Status,
    read_metrics,
    read_record,
    run_folder_of,
)

MAX_DEPTH = 6
_SKIPPED = ("node_modules", "__pycache__", "site-packages", "venv")  # and whatever is hidden


@dataclass(frozen=True)
class StoredRun:
    """A run folder that can be read. name: its path, as it was reached. status: that of the record, but a run whose
    process is gone without a word is `interrupted`. metrics: those of `metrics.json` by name."""

    name: str
    path: Path
    record: RunRecord
    status: Status
    metrics: dict[str, RunMetric] = field(default_factory=dict)

    @property
    def main_metric(self) -> RunMetric | None:
        """The metric that stands for the run, where it has one."""
        return self.metrics.get(self.record.main_metric)


@dataclass(frozen=True)
class UnusableRun:
    """A run folder that cannot be read, and why."""

    name: str
    reason: str


def load_run(path: Path | str) -> StoredRun:
    """A run folder, or the one of an output of `infer`, or of an adapter. Raises DataError saying what it is instead,
    or what is wrong with it."""
    folder = _folder_of(Path(path))
    record, metrics = read_record(folder), read_metrics(folder)
    status = record.status
    if status == "running" and lock_owner(folder) is None:
        status = "interrupted"
    return StoredRun(str(folder), folder, record, status, metrics)


def record_of_answers(answers_path: Path) -> RunRecord | None:
    """The record of the run that left these answers; None where there is none. Raises DataError for a damaged one and
    for answers that were changed since."""
    folder = run_folder_of(answers_path)
    record = finished_record(folder)
    if record is not None:
        check_answers(answers_path, record)
    return record


def check_answers(answers_path: Path, record: RunRecord) -> None:
    """Raise DataError for answers that were changed since the run that left them."""
    folder = run_folder_of(answers_path)
    check_unchanged(answers_path, file_of_role(record.outputs, "answers", folder), otherwise=f"move {folder} away")


def file_of_role(files: Sequence[RunFile], role: str, folder: Path) -> RunFile:
    """The file of a record that has this role. folder: of the run. Raises DataError where there is none."""
    for run_file in files:
        if run_file.role == role:
            return run_file
    raise DataError(f"its record names no {role}", path=folder / RECORD_NAME, fix="answer the rows again")


def check_unchanged(path: Path, recorded: RunFile, *, otherwise: str = "") -> None:
    """Raise DataError where a file is not what its run's record says of it. otherwise: what helps, too."""
    digest = file_digest(path)
    if digest != recorded.digest:
        raise DataError(
            f"was changed since its run: its digest is {digest[:19]}…, and the record has {recorded.digest[:19]}…",
            path=path,
            fix="put it back as it was, or answer the rows again" + (f"; or {otherwise}" if otherwise else ""),
        )


def find_runs(folders: Sequence[Path], *, max_depth: int = MAX_DEPTH) -> tuple[list[StoredRun], list[UnusableRun]]:
    """All run folders in `folders` and below, at most `max_depth` folders deep, and those that cannot be read. Hidden
    folders, links to folders, node_modules and virtual environments are not entered.

    Raises DataError for a folder that is not there.
    """
    usable: list[StoredRun] = []
    unusable: list[UnusableRun] = []
    visited: set[Path] = set()
    for start_folder in folders:
        if not start_folder.is_dir():
            fix = "name a folder that holds run folders, or leave it out for the current one"
            raise DataError("there is no such folder", path=start_folder, fix=fix)
        for path, problem in _candidates(start_folder, max_depth):
            if (real_path := path.resolve()) in visited:
                continue
            visited.add(real_path)
            if problem:
                unusable.append(UnusableRun(str(path), problem))
                continue
            try:
                usable.append(load_run(path))
            except DataError as error:
                unusable.append(UnusableRun(str(path), error.message.removeprefix(f"{path}{os.sep}")))
    return usable, unusable


def _candidates(folder: Path, depth_left: int) -> Iterator[tuple[Path, str]]:
    """(folder of a run, "") or (path, why it is none)."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        yield folder, f"cannot be read ({error.strerror})"
        return
    names = {entry.name for entry in entries}
    if RECORD_NAME in names or (folder.name.endswith(RUN_SUFFIX) and names & {LOG_NAME, METRICS_NAME}):
        yield folder, ""
    for entry in entries:
        if entry.name.endswith(FORMER_RECORD_SUFFIX) and entry.is_file() and entry.name != RECORD_NAME:
            if f"{entry.name.removesuffix(FORMER_RECORD_SUFFIX)}{RUN_SUFFIX}" not in names:
                yield folder / entry.name, "a record of an earlier version of Lorica, which kept no run folder"
        elif entry.is_dir(follow_symlinks=False) and _is_entered(folder / entry.name, depth_left):
            yield from _candidates(folder / entry.name, depth_left - 1)


def _is_entered(folder: Path, depth_left: int) -> bool:
    is_skipped = folder.name.startswith(".") or folder.name in _SKIPPED or (folder / "pyvenv.cfg").exists()
    return depth_left > 0 and not is_skipped


def _folder_of(path: Path) -> Path:
    """The run folder that a path means: itself, `OUTPUT.run` for an output, the folder of a `run.json`."""
    if path.name == RECORD_NAME and path.is_file():
        return path.parent
    beside = run_folder_of(path)
    if not path.is_dir() and beside.is_dir():
        return beside
    if not path.is_dir():
        raise DataError(
            "is no run: there is no run folder beside it" if path.is_file() else "there is no such run",
            path=path,
            fix="name a folder with a run.json, or an output of `lorica infer`; `lorica runs` lists them",
        )
    return path
