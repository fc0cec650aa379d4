"""A run's folder while it runs: the record, a log, metrics.

run.json       what it was given, where it ran, how it ended; whole at every moment
log.jsonl      events with their times, appended as things happen
metrics.json   name -> value, low, high, n
timings.jsonl  seconds of each batch, of a run that measured them
report.html    the page of a command that has one, with all rows in report.csv
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any

import msgspec

from lorica.data.write import atomic_file
from lorica.errors import DataError, LoricaError, ResumeError
from lorica.locks import FolderLock, lock_folder
from lorica.metrics.bootstrap import Estimate
from lorica.names import json_values, shell_line
from lorica.runs.former_run import OF_ONE_RUN, drop_former, former_record, keep_former, restore_former
from lorica.runs.machine import machine_facts, run_versions
from lorica.runs.redaction import Redactor
from lorica.runs.run_record import (
    LOG_NAME,
    METRICS_NAME,
    RECORD_NAME,
    RunFile,
    RunMetric,
    RunRecord,
    Status,
    read_record,
    record_json,
    to_metric,
)
from lorica.signals import last_line

_NOTHING: Mapping[str, Any] = MappingProxyType({})
_PROGRESS_SECONDS = 10.0  # between lines of the log that say how far a run is


class RunFolder:
    """A run under way; nobody else writes in its folder. As a context manager it records how the block ended."""

    def __init__(self, path: Path, record: RunRecord, redactor: Redactor, folder_lock: FolderLock | None) -> None:
        """For `create` only. folder_lock: None where the caller holds it."""
        self.path = path
        self.record = record
        self._redactor = redactor
        self._lock = folder_lock
        self._started = self._last_progress = time.perf_counter()
        self._done_rows = 0

    @classmethod
    def create(
        cls,
        path: Path | str,
        record: RunRecord,
        *,
        words: Sequence[str] = (),
        resume: bool = False,
        owned: bool = False,
        folder_lock: FolderLock | None = None,
    ) -> RunFolder:
        """Begin a run in a folder, made if missing: its record says `running` from now on.

        record: what the run is given; machine, versions and times are added here. words: of the command line, which is
        recorded without secrets; () from Python. resume: goes on with the run that is there. owned: the
        folder is the command's own, so that a damaged record gives way, and a finished run only once this one has
        finished (`former_run`). folder_lock: on the folder, where the caller holds it.

        Without `resume` a former run of the same command gives way. Raises ResumeError where another command's run or
        another process is there, DataError where the folder holds another program's files or cannot be written.
        """
        folder = Path(path)
        new_lock = None if folder_lock is not None else _lock(folder)
        try:
            former = _former(folder, record.command, owned=owned)
            if not resume:
                if owned:
                    keep_former(folder)
                for file_name in OF_ONE_RUN:
                    (folder / file_name).unlink(missing_ok=True)
            redactor = Redactor(words, os.environ)
            command_line = f"lorica.{record.command}(...)"
            if words:
                command_line = f"lorica {record.command} {shell_line(*redactor.words(words))}"
            record = msgspec.structs.replace(record, command_line=command_line)
            run_folder = cls(folder, _begun(record, former if resume else None, redactor), redactor, new_lock)
            run_folder._write()
        except BaseException as error:
            if new_lock is not None:
                new_lock.release()
            if isinstance(error, OSError):
                raise DataError(f"cannot be written ({error.strerror})", path=folder, fix="choose another") from error
            raise
        return run_folder

    def log(self, event: str, values: Mapping[str, Any] = _NOTHING) -> None:
        """Append an event to the log, with its time (UTC) and the seconds since this call began. A line that the disk
        refuses is lost: `finish` will say that it is full."""
        log_line = {
            "time": _now(),
            "seconds": round(time.perf_counter() - self._started, 3),
            "event": event,
            **self._redactor.values(values),
        }
        with contextlib.suppress(OSError), (self.path / LOG_NAME).open("ab") as log_file:
            log_file.write(json.dumps(json_values(log_line), ensure_ascii=False).encode() + b"\n")

    def progress(self, row_count: int) -> None:
        """Count rows that were done; now and then the log says how many."""
        self._done_rows += row_count
        if time.perf_counter() - self._last_progress >= _PROGRESS_SECONDS:
            self._last_progress = time.perf_counter()
            self.log("progress", {"rows": self._done_rows})

    def write_metrics(self, metrics: Mapping[str, Estimate | RunMetric | float], *, main: str = "") -> None:
        """Write `metrics.json`. main: the name that stands for the run in a list. Raises DataError."""
        with atomic_file(self.path / METRICS_NAME) as metrics_file:
            metrics_file.write(record_json({name: to_metric(measured) for name, measured in metrics.items()}))
        self.update(main_metric=main)

    def update(
        self,
        *,
        main_metric: str | None = None,
        rows: int | None = None,
        outputs: Sequence[RunFile] | None = None,
        summary: Mapping[str, Any] | None = None,
    ) -> None:
        """Add to the record what the run found out; `finish` writes it."""
        changes = {"main_metric": main_metric, "rows": rows, "outputs": outputs, "summary": summary}
        self.record = msgspec.structs.replace(
            self.record, **{name: value for name, value in changes.items() if value is not None}
        )

    def finish(self, status: Status = "finished", error: str = "") -> None:
        """Record how the run ended, and let others have the folder. Raises DataError when the disk refuses."""
        self.record = msgspec.structs.replace(
            self.record,
            status=status,
            error=self._redactor.text(error),
            seconds=round(time.perf_counter() - self._started, 3),
        )
        try:
            self._write()
            if status == "finished":
                drop_former(self.path)
        finally:
            self._release()

    def withdraw(self) -> None:
        """Nothing came of this run: the former one, whose output is still there, has its record again."""
        if former_record(self.path) is None:
            return
        restore_former(self.path)
        self.record = msgspec.structs.replace(self.record, status="failed")
        self._release()

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Record the end of the block, unless `finish` did. Where the disk refuses that, the block's error is the one
        to tell. Others may have the folder in any case."""
        try:
            if self.record.status == "running":
                self._record_end(error)
        finally:
            self._release()

    def _record_end(self, error: BaseException | None) -> None:
        if error is None:
            self.finish()
            return
        status: Status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        with contextlib.suppress(OSError, LoricaError):
            self.finish(status, last_line(error) if isinstance(error, KeyboardInterrupt) else _error_text(error))

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.release()

    def _write(self) -> None:
        with atomic_file(self.path / RECORD_NAME) as record_file:
            record_file.write(record_json(self.record))


def _lock(folder: Path) -> FolderLock:
    return lock_folder(folder, doing="a run", fix="wait until it ends; or name another folder")


def _former(folder: Path, command: str, *, owned: bool) -> RunRecord | None:
    """The run that is there already. owned: whether the folder is the command's own. Raises ResumeError
    for another command's run, DataError for another program's files."""
    if not (folder / RECORD_NAME).exists():
        file_name = min((entry.name for entry in folder.iterdir() if not entry.name.startswith(".")), default="")
        if file_name and not owned:
            raise DataError(
                f"holds {file_name} and no {RECORD_NAME}: it is no run of Lorica",
                path=folder,
                fix="name a new or empty folder",
            )
        return None
    try:
        former = read_record(folder)
    except DataError as error:
        if owned:
            return None
        error.fix = f"name another folder, or delete {folder / RECORD_NAME}"
        raise
    if former.command != command:
        raise ResumeError(f"{folder} holds a run of `lorica {former.command}`", fix="name another folder")
    return former


def _begun(record: RunRecord, former: RunRecord | None, redactor: Redactor) -> RunRecord:
    """The record of a run that begins now, or goes on."""
    return msgspec.structs.replace(
        record,
        command_line=redactor.text(record.command_line),
        config=redactor.values(record.config),
        manifest=redactor.values(record.manifest),
        status="running",
        started=former.started if former is not None else _now(),
        calls=former.calls + 1 if former is not None else 1,
        versions=run_versions(),
        machine=machine_facts(),
    )


def _error_text(error: BaseException) -> str:
    return str(error) if isinstance(error, LoricaError) else f"{type(error).__name__}: {error}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
