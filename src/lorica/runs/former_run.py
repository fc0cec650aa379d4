"""The finished run that another one is to replace: kept in `.former/` until the new one has finished, since until then
the output is still its own."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

from lorica.data.write import atomic_file
from lorica.errors import DataError
from lorica.runs.run_record import (
    METRICS_NAME,
    RECORD_NAME,
    REPORT_NAME,
    REPORT_ROWS_NAME,
    TIMINGS_NAME,
    RunRecord,
    read_record,
)

OF_ONE_RUN = (METRICS_NAME, TIMINGS_NAME, REPORT_NAME, REPORT_ROWS_NAME)
"""Files that belong to one run alone; the log goes on from run to run."""

_FORMER = ".former"


def keep_former(folder: Path) -> None:
    """Put a finished run's files aside; its record is copied, so that the folder has one at every moment."""
    try:
        if finished_record(folder) is None:
            return
    except DataError:  # a damaged one says nothing of the output
        return
    former_folder = folder / _FORMER
    former_folder.mkdir(exist_ok=True)
    with atomic_file(former_folder / RECORD_NAME) as record_file:
        record_file.write((folder / RECORD_NAME).read_bytes())
    for file_name in OF_ONE_RUN:
        with contextlib.suppress(FileNotFoundError):
            os.replace(folder / file_name, former_folder / file_name)


def former_record(folder: Path) -> RunRecord | None:
    """The record of the finished run whose output is still there. Raises DataError for a damaged one."""
    return read_record(folder / _FORMER) if (folder / _FORMER / RECORD_NAME).exists() else None


def restore_former(folder: Path) -> None:
    """Put the files of a run back that was not replaced after all; its record last."""
    former_folder = folder / _FORMER
    if not (former_folder / RECORD_NAME).exists():
        return
    for file_name in (*OF_ONE_RUN, RECORD_NAME):
        with contextlib.suppress(FileNotFoundError):
            os.replace(former_folder / file_name, folder / file_name)
    drop_former(folder)


def drop_former(folder: Path) -> None:
    """Remove the files of a run that was replaced."""
    shutil.rmtree(folder / _FORMER, ignore_errors=True)


def finished_record(folder: Path) -> RunRecord | None:
    """The record of a run that has finished; None where there is none. Raises DataError for a damaged one."""
    if not (folder / RECORD_NAME).exists():
        return None
    record = read_record(folder)
    return record if record.status == "finished" else None
