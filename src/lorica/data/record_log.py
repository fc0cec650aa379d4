"""Records of long work as JSON lines, each synced as it is appended: a kill loses at most the line under way."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from lorica.errors import DataError

_Record = TypeVar("_Record", bound=msgspec.Struct)


class RecordLog(Generic[_Record]):
    """The records of one file, in their order."""

    def __init__(self, path: Path, record_type: type[_Record], *, noun: str, start_anew: str = "") -> None:
        """Reads those that are there, and takes away a last line that a kill cut short. noun: what a record is, for
        messages. start_anew: what helps where the records cannot be used, if that is more than to delete them. Raises
        DataError for a line that is none."""
        self.path = path
        self.start_anew = start_anew or f"start anew: delete {path}"
        self.records: list[_Record] = []
        content = path.read_bytes() if path.exists() else b""
        whole_lines = content[: content.rfind(b"\n") + 1]
        if len(whole_lines) < len(content):
            os.truncate(path, len(whole_lines))
        for number, line in enumerate(whole_lines.splitlines(), 1):
            try:
                self.records.append(msgspec.json.decode(line, type=record_type))
            except msgspec.MsgspecError as error:
                raise DataError(f"is no {noun}: {error}", path=path, line=number, fix=self.start_anew) from error

    def append(self, record: _Record) -> None:
        """Append, synced. Raises DataError when the disk refuses."""
        try:
            with self.path.open("ab") as log_file:
                log_file.write(msgspec.json.encode(record) + b"\n")
                log_file.flush()
                os.fsync(log_file.fileno())
        except OSError as error:
            raise DataError(f"cannot be written ({error.strerror})", path=self.path, fix="free some space") from error
        self.records.append(record)
