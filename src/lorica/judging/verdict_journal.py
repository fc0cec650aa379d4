"""What judges have replied, by the digest of the call: a run that is started again asks nothing twice."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable
from pathlib import Path

import msgspec

from lorica.data.database import DISK_ERRORS, connect, transaction
from lorica.errors import DataError, ResumeError
from lorica.judging.calls import CallRecord, Scoring
from lorica.locks import lock_folder

_DATABASE = "verdicts.sqlite"
_SCHEMA = """
BEGIN;
CREATE TABLE IF NOT EXISTS calls (digest TEXT PRIMARY KEY, record BLOB, sha256 TEXT);
CREATE TABLE IF NOT EXISTS judges (judge TEXT PRIMARY KEY, scoring TEXT NOT NULL);
COMMIT;
"""
_FIND = "SELECT CAST(record AS BLOB), sha256 FROM calls WHERE digest = ?"


class VerdictJournal:
    """An open journal; one process has it at a time. Use it as a context manager."""

    def __init__(self, folder: Path) -> None:
        """Open the journal in `folder`, made if missing. Raises ResumeError where another process has it or it is
        damaged, DataError where nothing can be written."""
        self._path = folder / _DATABASE
        self._lock = lock_folder(folder, doing="judging", fix="wait until it ends, or use another --journal")
        try:
            self._database = connect(self._path, _SCHEMA)
        except sqlite3.Error as error:
            self._lock.release()
            if error.sqlite_errorname.startswith(DISK_ERRORS):
                raise DataError(f"cannot be written ({error})", path=self._path, fix="free its disk") from error
            fix = f"start anew: delete {self._path}"
            raise ResumeError(f"{self._path} is damaged or open elsewhere: {error}", fix=fix) from error

    def find(self, digests: Iterable[str]) -> dict[str, CallRecord]:
        """The records of these calls, by digest; a damaged one counts as missing, and is asked for again."""
        records = {}
        for digest in digests:
            row = self._database.execute(_FIND, (digest,)).fetchone()
            if row is not None and row[1] == _checksum(digest, row[0]):
                records[digest] = msgspec.json.decode(row[0], type=CallRecord)
        return records

    def add(self, digest: str, record: CallRecord) -> None:
        """Write what came of a call: afterwards it outlasts a kill. Raises DataError when the disk refuses."""
        content = msgspec.json.encode(record)
        with transaction(self._database, self._path):
            values = (digest, content, _checksum(digest, content))
            self._database.execute("INSERT OR REPLACE INTO calls VALUES (?, ?, ?)", values)

    def scoring(self, judge: str) -> Scoring | None:
        """How the replies of a judge are read, where that was settled before. judge: digest of its identity."""
        row = self._database.execute("SELECT scoring FROM judges WHERE judge = ?", (judge,)).fetchone()
        return None if row is None else msgspec.convert(row[0], Scoring)

    def settle_scoring(self, judge: str, scoring: Scoring) -> None:
        """Write down how the replies of a judge are read from now on."""
        with transaction(self._database, self._path):
            self._database.execute("INSERT OR REPLACE INTO judges VALUES (?, ?)", (judge, scoring))

    def __enter__(self) -> VerdictJournal:
        return self

    def __exit__(self, *error: object) -> None:
        self._database.close()
        self._lock.release()


def _checksum(digest: str, content: bytes) -> str:
    return hashlib.sha256(digest.encode() + content).hexdigest()
