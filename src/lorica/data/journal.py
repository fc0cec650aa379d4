"""What a run has answered so far, kept so that a kill at any moment loses no committed row and doubles none.

A journal is a folder with an SQLite database, `journal.sqlite`: what the run is (`manifest`), the answers of each
finished window (`windows`) with the seconds they took (`timings`), what the engine has finished of the window under way
(`outputs`), and how many processes worked on it (`parts`). Every commit is one
transaction that is synced to the disk; SQLite rolls back what a kill cut short (https://sqlite.org/atomiccommit.html).
SQLite notices torn writes but no changed bytes, so each window and each batch carries its own sha256.
"""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from lorica.data.answers import encode_answer
from lorica.data.database import DISK_ERRORS, connect, transaction
from lorica.errors import DataError, ResumeError
from lorica.locks import FolderLock, lock_folder
from lorica.records import Answer, Output, Request, RowTiming

_DATABASE = "journal.sqlite"
_SCHEMA = """
BEGIN;
CREATE TABLE IF NOT EXISTS manifest (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS windows (start INTEGER PRIMARY KEY, rows INTEGER NOT NULL, answers BLOB, sha256 TEXT);
CREATE TABLE IF NOT EXISTS outputs (batch INTEGER PRIMARY KEY, outputs BLOB, sha256 TEXT);
CREATE TABLE IF NOT EXISTS timings (batch INTEGER PRIMARY KEY, timings BLOB);
CREATE TABLE IF NOT EXISTS parts (part INTEGER PRIMARY KEY);
COMMIT;
"""
_WINDOWS = "SELECT start, rows, CAST(answers AS BLOB), sha256 FROM windows ORDER BY start"
_OUTPUTS = "SELECT batch, CAST(outputs AS BLOB), sha256 FROM outputs ORDER BY batch"
# The journal of Lorica before it was a database.
_FORMER_FILES = ("manifest.json", "answers.jsonl")


class LoggedOutput(msgspec.Struct, frozen=True):
    """An output, the seconds that it took, the part of the run that computed it, and the digest of its request."""

    output: Output
    seconds: float
    part: int
    request: str = ""  # which an earlier version did not log: computed again


class OutputLog:
    """What the engine has finished of the window under way, so that a kill costs one batch and not the window.

    seconds_by_id, part_by_id: of finished outputs by row id, those of an interrupted run included. part: the number of
    this process among those that the run took, from 1.
    """

    def __init__(self, database: sqlite3.Connection, database_path: Path, part: int) -> None:
        """For `Journal` only."""
        self._database, self._path, self.part = database, database_path, part
        self._logged_by_id: dict[str, LoggedOutput] = {}
        self.seconds_by_id: dict[str, float] = {}
        self.part_by_id: dict[str, int] = {}
        for batch, content, digest in database.execute(_OUTPUTS).fetchall():
            if digest != _sha256(content):
                # A changed batch is computed again, with those after it.
                with transaction(database, database_path):
                    database.execute("DELETE FROM outputs WHERE batch >= ?", (batch,))
                break
            self._remember(msgspec.json.decode(content, type=list[LoggedOutput]))

    def _remember(self, logged_outputs: Sequence[LoggedOutput]) -> None:
        for logged in logged_outputs:
            row_id = logged.output.id
            self._logged_by_id[row_id] = logged
            self.seconds_by_id[row_id] = logged.seconds
            self.part_by_id[row_id] = logged.part

    def output_of(self, request: Request) -> Output | None:
        """What was finished of this very request; None where nothing was, or the row was asked otherwise: with other
        passages, where its look-up failed once and now does not."""
        logged = self._logged_by_id.get(request.id)
        return logged.output if logged is not None and logged.request == _request_digest(request) else None

    def add(self, requests: Sequence[Request], outputs: Sequence[Output], seconds: Sequence[float]) -> None:
        """Append a batch: outputs, the request of each, the seconds that each took; afterwards it outlasts a kill.
        Raises DataError when the disk refuses."""
        logged_outputs = [
            LoggedOutput(output, output_seconds, self.part, _request_digest(request))
            for request, output, output_seconds in zip(requests, outputs, seconds, strict=True)
        ]
        content = msgspec.json.encode(logged_outputs)
        with transaction(self._database, self._path):
            self._database.execute("INSERT INTO outputs (outputs, sha256) VALUES (?, ?)", (content, _sha256(content)))
        self._remember(logged_outputs)


class Journal:
    """An open journal; only one process has it open at a time. Use it as a context manager, or `close` it.

    folder: that holds the database. part: the number of this process among those that the run took, from 1.
    """

    def __init__(self, folder: Path, database: sqlite3.Connection, folder_lock: FolderLock) -> None:
        """For `open` only."""
        self.folder, self._database, self._lock = folder, database, folder_lock
        self._path = folder / _DATABASE
        self._done = _verified_rows(database, self._path)
        self.part = 1

    @staticmethod
    def is_in(folder: Path) -> bool:
        """Whether there is a journal to go on with."""
        return (folder / _DATABASE).exists()

    @classmethod
    def open(cls, folder: Path | str, manifest: Mapping[str, str], *, resume: bool) -> Journal:
        """Start a journal in `folder`, or go on with the one that is there.

        manifest: all that decides the answers (digests of input, model, adapters; settings), as text. Raises
        ResumeError when a journal is there and `resume` is off, when it belongs to a different run (each
        differing key is named), when another process has it open, and when committed rows are damaged; DataError when
        the disk refuses.
        """
        database_path = Path(folder) / _DATABASE
        _refuse_former_journal(database_path.parent)
        folder_lock = lock_folder(
            database_path.parent, doing="answering", fix="wait until it ends, or use another run_dir"
        )
        database = None
        try:
            database = connect(database_path, _SCHEMA)
            earlier = dict(database.execute("SELECT key, value FROM manifest"))
            journal = cls(database_path.parent, database, folder_lock)
            if not earlier and journal.done:
                raise _damaged(database_path, "it holds answers without a manifest")
            if not earlier:
                with transaction(database, database_path):
                    database.executemany("INSERT INTO manifest VALUES (?, ?)", sorted(manifest.items()))
            elif not resume:
                raise ResumeError(
                    f"{database_path.parent} holds the journal of an earlier run that did not finish",
                    fix=f"go on with it: inference.resume=true; or {_start_anew(database_path)}",
                )
            else:
                check_same_run(database_path.parent, earlier, manifest, otherwise=_start_anew(database_path))
            with transaction(database, database_path):
                journal.part = database.execute("INSERT INTO parts DEFAULT VALUES").lastrowid or 1
        except BaseException as error:
            if database is not None:
                database.close()
            folder_lock.release()
            if isinstance(error, sqlite3.Error):
                raise _unusable(database_path, error) from error
            raise
        return journal

    @property
    def done(self) -> int:
        """Rows committed; rows are committed in the order of the input, so the next one is row number `done`."""
        return self._done

    @property
    def empty(self) -> bool:
        """Whether nothing would be lost with it."""
        return self._done == 0 and not self._database.execute("SELECT EXISTS (SELECT 1 FROM outputs)").fetchone()[0]

    def outputs(self) -> OutputLog:
        """The log of what an engine has finished of the rows that are to be committed next."""
        return OutputLog(self._database, self._path, self.part)

    def log_timings(self, timings: Sequence[RowTiming]) -> None:
        """Add timings that belong to no window: those of a warm-up. Raises DataError when the disk refuses."""
        with transaction(self._database, self._path):
            self._database.execute("INSERT INTO timings (timings) VALUES (?)", (msgspec.json.encode(timings),))

    def timings(self) -> Iterator[RowTiming]:
        """All timings in the order in which they were added, streamed window by window."""
        decoder = msgspec.json.Decoder(list[RowTiming])
        for (content,) in self._database.execute("SELECT CAST(timings AS BLOB) FROM timings ORDER BY batch"):
            yield from decoder.decode(content)

    def commit(self, answers: Sequence[Answer], timings: Sequence[RowTiming] = ()) -> None:
        """Add the answers of a window with their timings, in place of its outputs: afterwards they outlast a kill. No
        answers: nothing is written.

        Raises DataError for an answer that cannot be written, and when the disk refuses; nothing of the window stays.
        """
        if not answers:
            return
        self._require_folder()
        try:
            answer_lines = b"".join(map(encode_answer, answers))
        except ValueError as error:
            raise DataError(f"an answer cannot be written: {error}", path=self._path) from error
        with transaction(self._database, self._path):
            self._database.execute(
                "INSERT INTO windows VALUES (?, ?, ?, ?)",
                (self._done, len(answers), answer_lines, _sha256(answer_lines)),
            )
            self._database.execute("INSERT INTO timings (timings) VALUES (?)", (msgspec.json.encode(timings),))
            self._database.execute("DELETE FROM outputs")
        self._done += len(answers)

    def answers(self) -> Iterator[Answer]:
        """The committed answers in their order, streamed window by window."""
        self._require_folder()
        decoder = msgspec.json.Decoder(Answer)
        for _, _, answer_lines, _ in self._database.execute(_WINDOWS):
            yield from decoder.decode_lines(answer_lines)

    def remove(self) -> None:
        """Delete the journal, and its folder if nothing else is in it, and close it."""
        self._database.close()
        for suffix in ("-wal", "-journal", ""):  # the database last: without it nothing claims to be a journal
            self._path.with_name(_DATABASE + suffix).unlink(missing_ok=True)
        self._lock.release()
        with contextlib.suppress(OSError):  # other files of the run may lie there
            self.folder.rmdir()

    def close(self) -> None:
        """Let another process have the journal. May be called twice."""
        self._database.close()
        self._lock.release()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _require_folder(self) -> None:
        if reason := self._lock.lost():
            raise DataError(f"the journal is gone: {reason}", path=self.folder, fix="answer the file again")


def check_same_run(folder: Path, stored: Mapping[str, str], manifest: Mapping[str, str], *, otherwise: str) -> None:
    """Raises ResumeError naming each key in which two manifests differ. folder: what the stored one belongs to.

    otherwise: what can be done but to put them back.
    """
    differing = [
        f"\n     {setting}: was {stored.get(setting, '(nothing)')!r}, is now {manifest.get(setting, '(nothing)')!r}"
        for setting in sorted({*stored, *manifest})
        if stored.get(setting) != manifest.get(setting)
    ]
    if differing:
        raise ResumeError(
            f"{folder} belongs to a different run:{''.join(differing)}",
            fix=f"put these back as they were; or {otherwise}",
        )


def _verified_rows(database: sqlite3.Connection, database_path: Path) -> int:
    """The number of rows committed. Raises ResumeError where a window was changed or is missing."""
    committed_rows = 0
    for first_row, row_count, answer_lines, digest in database.execute(_WINDOWS):
        if first_row != committed_rows or digest != _sha256(answer_lines) or row_count != answer_lines.count(b"\n"):
            raise _damaged(database_path, f"committed answers from row {committed_rows + 1} on were changed")
        committed_rows += row_count
    return committed_rows


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _request_digest(request: Request) -> str:
    return _sha256(msgspec.msgpack.encode(request))


def _refuse_former_journal(folder: Path) -> None:
    former_files = [folder / file_name for file_name in _FORMER_FILES]
    if all(path.exists() for path in former_files):
        raise ResumeError(
            f"{folder} holds the journal of a version of Lorica that kept it in text files",
            fix=f"finish the run with that version; or start anew: delete {' and '.join(map(str, former_files))}",
        )


def _unusable(database_path: Path, error: sqlite3.Error) -> DataError | ResumeError:
    """Why a database cannot be opened: another machine has it, the disk refuses, or it was changed."""
    if error.sqlite_errorname.startswith("SQLITE_BUSY"):
        return ResumeError(
            f"another process has {database_path} open", fix="wait until it ends, or use another run_dir"
        )
    if error.sqlite_errorname.startswith(DISK_ERRORS):
        return DataError(
            f"cannot be written ({error})", path=database_path, fix="free its disk, or use another run_dir"
        )
    return _damaged(database_path, str(error))


def _damaged(database_path: Path, reason: str) -> ResumeError:
    return ResumeError(f"{database_path} is damaged: {reason}", fix=_start_anew(database_path))


def _start_anew(database_path: Path) -> str:
    return f"start anew: delete {database_path}"
