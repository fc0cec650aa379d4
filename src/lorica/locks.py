"""One process at a time writes into a folder: a lock that ends with its process, and a record of who holds it.

The kernel's lock (`flock`) on `.lorica.lock` decides; what stands in the file only tells people whom to wait for. So
the record of a process that was killed blocks nobody, no clock is compared, and file systems that share locks between
machines protect them from one another. Where they do not, `FolderLock.lost` notices the other machine's record.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import stat
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from lorica.errors import DataError, ResumeError

LOCK_NAME = ".lorica.lock"
_RECORD_BYTES = 4096
# A reader that only looks who writes holds a shared lock for some microseconds.
_TRIES, _PAUSE_SECONDS = 50, 0.02


class Owner(NamedTuple):
    """Who holds a lock, or held it last. token: this very lock. doing: "training", ... since: UTC."""

    token: str
    pid: int
    host: str
    since: str
    doing: str

    def __str__(self) -> str:
        purpose = f"{self.doing}, " if self.doing else ""
        return f"{purpose}process {self.pid} on {self.host}, since {self.since}"


_UNKNOWN = Owner("", 0, "", "", "")


class FolderLock:
    """The lock on a folder, held until `release`. previous: who held it and did not release it (it was killed), if any.

    Use it as a context manager.
    """

    def __init__(self, folder: Path, handle: int, new_folders: list[Path], owner: Owner) -> None:
        """For `lock_folder` only."""
        self.folder = folder
        self.previous = _read(handle)
        self._handle = handle
        self._made = new_folders
        self._owner = owner
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps(owner._asdict()).encode(), 0)

    def lost(self) -> str:
        """What happened to the folder: it was removed, or taken by another process; empty while it is still ours."""
        try:
            with _opened(self.folder / LOCK_NAME, os.O_RDONLY) as handle:
                owner = _read(handle)
        except FileNotFoundError:
            return "it was removed or moved"
        except OSError as error:
            return f"it cannot be read any more ({error.strerror})"
        if owner is not None and owner.token == self._owner.token:
            return ""
        return f"another process writes there now ({describe(owner)})"

    def release(self) -> None:
        """Let others have the folder; what was made for the lock goes, when it is empty. May be called twice."""
        if self._handle < 0:
            return
        with contextlib.suppress(OSError):
            if not self.lost():
                _remove_lock(self.folder, self._made)
        os.close(self._handle)
        self._handle = -1

    def __enter__(self) -> FolderLock:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()


def lock_folder(folder: Path, *, doing: str, fix: str) -> FolderLock:
    """Lock a folder, which is made if missing. doing: "training", what this process does there. fix: what to do where
    another one is there.

    Raises ResumeError naming who holds it, and DataError where nothing can be written or locked.
    """
    owner = Owner(secrets.token_hex(8), os.getpid(), socket.gethostname(), _now(), doing)
    while True:
        handle, new_folders = _open_lock_file(folder)
        try:
            _acquire(handle)
        except BlockingIOError:
            holder = _read(handle)
            os.close(handle)
            raise ResumeError(f"another process is working on {folder}: {describe(holder)}", fix=fix) from None
        except OSError as error:
            os.close(handle)
            raise DataError(
                f"this folder cannot be locked ({error.strerror})", path=folder, fix="use a folder on a local disk"
            ) from error
        # Removed by its last owner between our open and our lock?
        if not _is_at(handle, folder / LOCK_NAME):
            os.close(handle)
            continue
        try:
            return FolderLock(folder, handle, new_folders, owner)
        except OSError as error:
            with contextlib.suppress(OSError):
                _remove_lock(folder, new_folders)
            os.close(handle)
            raise _unwritable(folder, error) from error


def lock_owner(folder: Path) -> Owner | None:
    """Who is writing into a folder now; None when nobody is. Nothing is written, and nothing raised."""
    import fcntl

    try:
        with _opened(folder / LOCK_NAME, os.O_RDONLY) as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return _read(handle) or _UNKNOWN
    except OSError:
        pass
    return None


def describe(owner: Owner | None) -> str:
    """An owner for people."""
    return str(owner) if owner is not None and owner.pid else "it has not said yet which"


def this_host() -> str:
    """The name under which locks of this machine are recorded."""
    return socket.gethostname()


def _open_lock_file(folder: Path) -> tuple[int, list[Path]]:
    """The open lock file, and the folders that had to be made for it, the innermost first."""
    new_folders: list[Path] = []
    try:
        while True:
            new_folders = [
                new_folder for new_folder in (folder, *folder.parents) if not new_folder.exists()
            ] or new_folders
            folder.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):  # its last owner took the folder away at this moment
                # A link could make us write over somebody's file.
                handle = os.open(folder / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
                break
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            os.close(handle)
            raise OSError(0, f"{LOCK_NAME} is no regular file")
    except OSError as error:
        raise _unwritable(folder, error) from error
    return handle, new_folders


def _acquire(handle: int) -> None:
    """Raises BlockingIOError where another process holds it, and OSError where nothing can be locked."""
    import fcntl  # not on Windows: imported where it is needed

    for tries_left in reversed(range(_TRIES)):
        try:
            return fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not tries_left:
                raise
            time.sleep(_PAUSE_SECONDS)


def _remove_lock(folder: Path, new_folders: Sequence[Path]) -> None:
    (folder / LOCK_NAME).unlink()
    for new_folder in new_folders:
        new_folder.rmdir()


def _unwritable(folder: Path, error: OSError) -> DataError:
    fix = "name another folder, or free its disk"
    return DataError(f"nothing can be written here ({error.strerror})", path=folder, fix=fix)


@contextlib.contextmanager
def _opened(lock_path: Path, open_flags: int) -> Iterator[int]:
    handle = os.open(lock_path, open_flags | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        yield handle
    finally:
        os.close(handle)


def _is_at(handle: int, lock_path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), lock_path.stat())
    except FileNotFoundError:
        return False


def _read(handle: int) -> Owner | None:
    """What the file says, None when that is nothing usable: it decides nothing."""
    try:
        values = json.loads(os.pread(handle, _RECORD_BYTES, 0))
        field_texts = {field_name: _plain(values[field_name]) for field_name in ("token", "host", "since", "doing")}
        return Owner(pid=int(values["pid"]), **field_texts)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _plain(field_value: object) -> str:
    return ascii(str(field_value)[:100])[1:-1]


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
