"""HTML and PDF of strangers: parsed in a process of its own, with limits of time and memory, and one for all files.

The process reads a request a line on standard input and answers a line; what hangs or swells is killed, and the next
file gets a new process.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from pathlib import Path

from lorica.errors import DataError, MissingExtraError
from lorica.retrieval.table_documents import RawDocument

TIME_LIMIT = 60.0
"""Seconds for one file."""

MEMORY_LIMIT = 4 * 1024**3
"""Bytes of address space of the process that parses."""


class ParserProcess:
    """Starts with the first file and ends with `close`. Use it as a context manager."""

    def __init__(self, time_limit: float = TIME_LIMIT) -> None:
        """time_limit: seconds for one file."""
        self._time_limit = time_limit
        self._process: subprocess.Popen[bytes] | None = None

    def parse(self, path: Path, document_format: str) -> RawDocument:
        """The text of an HTML page or a PDF. Raises DataError, and MissingExtraError for a PDF without pypdf."""
        reply = self._ask({"path": str(path.absolute()), "format": document_format, "memory": MEMORY_LIMIT})
        if reply is None:
            self.close()
            message = (
                f"its {document_format.upper()} was not parsed within {self._time_limit:g} s and the memory allowed"
            )
            raise DataError(message, path=path, fix="save its text in a .txt file")
        if "missing" in reply:
            raise MissingExtraError(reply["missing"], extra="kb", needed_for=f"{path}: reading a PDF")
        if "error" in reply:
            line = reply.get("line")
            raise DataError(reply["error"], path=path, line=int(line) if line else None, fix=reply["fix"])
        return RawDocument(reply["text"], title=reply["title"])

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def __enter__(self) -> ParserProcess:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _ask(self, request: dict[str, object]) -> dict[str, str] | None:
        """The reply, None where the process died or took too long."""
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "lorica.retrieval.parser_worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=_environment(),
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
            ready, _, _ = select.select([self._process.stdout], [], [], self._time_limit)
            reply = json.loads(self._process.stdout.readline()) if ready else None
        except (OSError, ValueError):
            return None
        return reply if isinstance(reply, dict) else None


def _environment() -> dict[str, str]:
    source = str(Path(__file__).parents[2])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH", "")]))}
