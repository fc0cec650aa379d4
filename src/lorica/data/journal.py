"""What a run has answered so far, kept so that a kill at any moment loses no committed row and doubles none.

A journal is a folder with `manifest.json` (what the run is) and `answers.jsonl`, which is only ever appended
to, one frame per commit: the answers' lines, then one line {"commit": {"rows", "done", "sha256"}} over them;
then fsync. The frame counts once its commit line is whole. What follows the last whole frame is the tail of a
write that was killed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType

import msgspec

from lorica.data.answers import encode_answer
from lorica.data.outputs import OutputLog
from lorica.data.write import append_synced, atomic_file, sync_folder
from lorica.errors import DataError, ResumeError
from lorica.locks import FolderLock, lock_folder
from lorica.records import Answer

_MANIFEST = "manifest.json"
_ANSWERS = "answers.jsonl"
_OUTPUTS = "outputs.jsonl"
_COMMIT = b'{"commit":'


class _Commit(msgspec.Struct, frozen=True):
    rows: int
    done: int
    sha256: str


class _CommitLine(msgspec.Struct, frozen=True):
    commit: _Commit


class Journal:
    """An open journal; only one process has it open at a time. Use it as a context manager, or `close` it."""

    def __init__(self, folder: Path, lock: FolderLock) -> None:
        """For `open` only."""
        self._folder = folder
        self._path = folder / _ANSWERS
        self._lock = lock
        self._done, self._end = _recover(self._path)
        self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        if os.fstat(self._file).st_size > self._end:
            self._cut()
        sync_folder(folder)

    @staticmethod
    def is_in(folder: Path) -> bool:
        """Whether there is a journal to go on with."""
        return (folder / _MANIFEST).exists()

    @classmethod
    def open(cls, folder: Path | str, manifest: Mapping[str, str], *, resume: bool) -> Journal:
        """Start a journal in `folder`, or go on with the one that is there.

        manifest: all that decides the answers (digests of input, model, adapters; settings), as text. Raises
        ResumeError when a journal is there and `resume` is off, when it belongs to a different run (each
        differing key is named), when another process has it open, and when committed rows are damaged.
        """
        directory = Path(folder)
        lock = lock_folder(directory, doing="answering", fix="wait until it ends, or use another run_dir")
        try:
            stored = _read_manifest(directory)
            if stored is None:
                (directory / _OUTPUTS).unlink(missing_ok=True)  # of a run that nothing is known of any more
                with atomic_file(directory / _MANIFEST) as file:
                    file.write(json.dumps(dict(manifest), indent=1, sort_keys=True).encode() + b"\n")
            elif not resume:
                raise ResumeError(
                    f"{directory} holds the journal of an earlier run that did not finish",
                    fix=f"go on with it: inference.resume=true; or {_anew(directory)}",
                )
            else:
                check_same_run(directory, stored, manifest, otherwise=_anew(directory))
            return cls(directory, lock)
        except BaseException:
            lock.release()
            raise

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return self._folder

    @property
    def done(self) -> int:
        """Rows committed; rows are committed in the order of the input, so the next one is row number
        `done`."""
        return self._done

    @property
    def empty(self) -> bool:
        """Whether nothing would be lost with it."""
        outputs = self._folder / _OUTPUTS
        return self._done == 0 and not (outputs.exists() and outputs.stat().st_size)

    @contextlib.contextmanager
    def outputs(self) -> Iterator[OutputLog]:
        """The log of what an engine has finished of the rows that are to be committed next."""
        log = OutputLog(self._folder / _OUTPUTS, self._done)
        try:
            yield log
        finally:
            log.close()

    def commit(self, answers: Sequence[Answer]) -> None:
        """Append the answers as one frame and fsync: afterwards they outlast a kill. No answers: nothing is
        written.

        Raises DataError for an answer that cannot be written, and when the disk refuses; nothing of the frame
        stays.
        """
        if not answers:
            return
        self._require_folder()
        try:
            lines = b"".join(map(encode_answer, answers))
        except ValueError as error:
            raise DataError(f"an answer cannot be written: {error}", path=self._path) from error
        done = self._done + len(answers)
        commit = _CommitLine(_Commit(len(answers), done, hashlib.sha256(lines).hexdigest()))
        frame = lines + msgspec.json.encode(commit) + b"\n"
        try:
            append_synced(self._file, frame)
        except OSError as error:
            self._cut()
            reason = error.strerror or str(error)
            raise DataError(f"cannot be written ({reason})", path=self._path, fix="free some space") from error
        self._done, self._end = done, self._end + len(frame)

    def answers(self) -> Iterator[Answer]:
        """The committed answers in their order, streamed."""
        self._require_folder()
        decoder = msgspec.json.Decoder(Answer)
        end = self._end
        with self._path.open("rb") as file:
            at = 0
            while at < end:
                line = file.readline()
                at += len(line)
                if not line.startswith(_COMMIT):
                    yield decoder.decode(line)

    def remove(self) -> None:
        """Delete the journal, and its folder if nothing else is in it, and close it."""
        self._path.unlink(missing_ok=True)
        (self._folder / _OUTPUTS).unlink(missing_ok=True)
        (self._folder / _MANIFEST).unlink(missing_ok=True)
        sync_folder(self._folder)
        self.close()
        with contextlib.suppress(OSError):  # other files of the run may lie there
            self._folder.rmdir()

    def close(self) -> None:
        """Let another process have the journal. May be called twice."""
        if self._file >= 0:
            os.close(self._file)
        self._file = -1
        self._lock.release()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _require_folder(self) -> None:
        if reason := self._lock.lost():
            raise DataError(f"the journal is gone: {reason}", path=self._folder, fix="answer the file again")

    def _cut(self) -> None:
        os.ftruncate(self._file, self._end)
        os.fsync(self._file)


def _anew(folder: Path) -> str:
    return f"start anew: delete {folder / _ANSWERS} and {folder / _MANIFEST}"


def _read_manifest(folder: Path) -> dict[str, str] | None:
    path = folder / _MANIFEST
    if not path.exists():
        if (folder / _ANSWERS).exists():
            raise ResumeError(f"{folder} holds answers without a manifest", fix=_anew(folder))
        return None
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, str])
    except msgspec.MsgspecError as error:
        raise ResumeError(f"{path} is damaged ({error})", fix=_anew(folder)) from error


def check_same_run(folder: Path, stored: Mapping[str, str], manifest: Mapping[str, str], *, otherwise: str) -> None:
    """Raises ResumeError naming each key in which two manifests differ. folder: what is known of one of them.

    otherwise: what can be done but to put them back.
    """
    differing = [
        f"\n     {key}: was {stored.get(key, '(nothing)')!r}, is now {manifest.get(key, '(nothing)')!r}"
        for key in sorted({*stored, *manifest})
        if stored.get(key) != manifest.get(key)
    ]
    if differing:
        raise ResumeError(
            f"{folder} belongs to a different run:{''.join(differing)}",
            fix=f"put these back as they were; or {otherwise}",
        )


def _recover(path: Path) -> tuple[int, int]:
    """(rows committed, byte where the last whole frame ends). Raises ResumeError for damage before that
    end."""
    done = end = at = rows = 0
    digest = hashlib.sha256()
    broken = 0  # byte after a commit line that does not fit its frame
    if not path.exists():
        return 0, 0
    with path.open("rb") as file:
        for line in file:
            at += len(line)
            if broken:  # a later frame was begun, so this one had been fsynced whole
                raise ResumeError(
                    f"{path} is damaged before byte {broken}: committed answers were changed",
                    fix=_anew(path.parent),
                )
            if not line.startswith(_COMMIT):
                digest.update(line)
                rows += 1
                continue
            expected = _CommitLine(_Commit(rows, done + rows, digest.hexdigest()))
            if line == msgspec.json.encode(expected) + b"\n":
                done, end = done + rows, at
            else:
                broken = at
            digest, rows = hashlib.sha256(), 0
    return done, end
