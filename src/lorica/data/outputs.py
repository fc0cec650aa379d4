"""What an engine has finished of the window under way, kept so that a kill costs one batch and not the window.

One line per batch, appended and fsynced: {"window": rows before it, "outputs": [...], "sha256": ...} and a line feed. A
line counts once it is whole; what follows the last whole one is the tail of a write that was killed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from lorica.data.write import append_synced
from lorica.errors import DataError
from lorica.records import Output


class _Line(msgspec.Struct, frozen=True):
    window: int
    outputs: tuple[Output, ...]
    sha256: str


class OutputLog:
    """The outputs of one window, by row id.

    window: rows before it; lines of other windows are of no use any more, and are dropped. The file belongs to a run
    whose manifest says that the same requests are asked of the same engine.
    """

    def __init__(self, path: Path, window: int) -> None:
        self._path, self._window = path, window
        self.known, end = _read(path, window)
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.ftruncate(self._file, end)

    def add(self, outputs: Sequence[Output]) -> None:
        """Append; afterwards they outlast a kill. Raises DataError when the disk refuses."""
        body = msgspec.json.encode(outputs)
        line = msgspec.json.encode(_Line(self._window, tuple(outputs), hashlib.sha256(body).hexdigest())) + b"\n"
        try:
            append_synced(self._file, line)
        except OSError as error:
            raise DataError(f"cannot be written ({error.strerror or error})", path=self._path) from error
        self.known.update((output.id, output) for output in outputs)

    def close(self) -> None:
        """Let go of the file; it stays."""
        os.close(self._file)


def _read(path: Path, window: int) -> tuple[dict[str, Output], int]:
    """The outputs of a window, and the byte after the last of its whole lines."""
    outputs: dict[str, Output] = {}
    end = 0
    if not path.exists():
        return outputs, end
    with path.open("rb") as file:
        for text in file:
            try:
                line = msgspec.json.decode(text, type=_Line)
            except (msgspec.MsgspecError, ValueError):
                break
            is_complete = (
                text.endswith(b"\n") and line.sha256 == hashlib.sha256(msgspec.json.encode(line.outputs)).hexdigest()
            )
            if line.window != window or not is_complete:
                break
            outputs.update((output.id, output) for output in line.outputs)
            end += len(text)
    return outputs, end
