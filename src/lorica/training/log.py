"""`log.jsonl`: one JSON object per line, written as things happen."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from lorica.data.write import atomic_file

LOG = "log.jsonl"


class TrainingLog:
    """Appends lines; on resume, those after the checkpoint are cut off, for they will be written again."""

    def __init__(self, folder: Path, *, keep_until: int | None) -> None:
        """keep_until: the last update whose lines stay; None starts an empty log."""
        path = folder / LOG
        lines = [] if keep_until is None or not path.exists() else _lines(path, keep_until)
        with atomic_file(path) as file:
            file.writelines(lines)
        self._file: BinaryIO = path.open("ab")

    def write(self, values: Mapping[str, float | int | bool | None]) -> None:
        """One line, with the time (UTC) added."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        self._file.write(json.dumps({**values, "time": now}).encode("utf-8") + b"\n")
        self._file.flush()

    def __enter__(self) -> TrainingLog:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def _lines(path: Path, last: int) -> list[bytes]:
    lines = []
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            values = json.loads(line)
            step = values["step"]
        except (ValueError, KeyError, TypeError):
            continue  # the torn tail of a killed process
        if "trained_loss" in values:
            continue  # of the end of the run, which has the number of its last update
        if isinstance(step, int) and step <= last and line.endswith(b"\n"):
            lines.append(line)
    return lines
