"""SQLite files that outlast a kill: every transaction is synced to the disk, and one process has the file alone."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from lorica.errors import DataError

DISK_ERRORS = ("SQLITE_FULL", "SQLITE_IOERR", "SQLITE_READONLY", "SQLITE_CANTOPEN")
"""How SQLite's names of errors begin where a disk refuses."""


def connect(database_path: Path, schema: str) -> sqlite3.Connection:
    """The database, made if missing. schema: statements that make its tables where they are not there.

    One process has it alone (EXCLUSIVE), so the write-ahead log needs no shared memory, which network file systems
    lack. With synchronous=FULL every commit is synced, once. It may be used by several threads, one at a time. Raises
    sqlite3.Error.
    """
    database = sqlite3.connect(database_path, timeout=1, isolation_level=None, check_same_thread=False)
    try:
        database.execute("PRAGMA locking_mode = EXCLUSIVE")
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        database.executescript(schema)
    except BaseException:
        database.close()
        raise
    return database


@contextlib.contextmanager
def transaction(database: sqlite3.Connection, database_path: Path) -> Iterator[None]:
    """All statements of the block or none of them. Raises DataError when the disk refuses."""
    try:
        database.execute("BEGIN IMMEDIATE")
        with database:
            yield
    except sqlite3.Error as error:
        raise DataError(f"cannot be written ({error})", path=database_path, fix="free some space") from error
