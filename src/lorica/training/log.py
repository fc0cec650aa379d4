"""`log.jsonl`: one JSON object per line, written as things happen. A line with an `event` is the run folder's own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from lorica.data.write import atomic_file

LOG = "log.jsonl"


class TrainingLog:
    """Appends lines; on resume, those after the checkpoint are cut off, for they will be written again."""

    def __init__(self, folder: Path, *, keep_until: int | None) -> None:
        """keep_until: the last update whose lines stay; None starts an empty log."""
        log_path = folder / LOG
        log_lines = [] if keep_until is None or not log_path.exists() else _lines(log_path, keep_until)
        with atomic_file(log_path) as log_file:
            log_file.writelines(log_lines)
        self._file: BinaryIO = log_path.open("ab")

    def write(self, values: Mapping[str, float | int | bool | None]) -> None:
        """One line, with the time (UTC) added."""
        timestamp = datetime.now(UTC).isoformat(timespec="milliseconds")
        self._file.write(json.dumps({**values, "time": timestamp}).encode("utf-8") + b"\n")
        self._file.flush()

    def __enter__(self) -> TrainingLog:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()


def _lines(log_path: Path, last_step: int) -> list[bytes]:
    log_lines = []
    for log_line in log_path.read_bytes().splitlines(keepends=True):
        try:
            values = json.loads(log_line)
            step = last_step if "event" in values else values["step"]
        except (ValueError, KeyError, TypeError):
            continue  # the torn tail of a killed process
        if "trained_loss" in values:
            continue  # of the end of the run, which has the number of its last update
        if isinstance(step, int) and step <= last_step and log_line.endswith(b"\n"):
            log_lines.append(log_line)
    return log_lines
