"""Folders of data that are read file by file: not removed while somebody reads them, gone in one moment for the others.

A reader holds a shared lock of the kernel on the folder, which ends with its process; whoever removes it needs the lock
for itself, and renames the folder before its files go.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
from pathlib import Path


def hold_folder(folder: Path) -> int:
    """Keep a folder from being removed until the descriptor is closed. Raises FileNotFoundError where it is gone, or
    goes just now."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        if not os.path.samestat(os.fstat(descriptor), os.stat(folder)):
            raise FileNotFoundError(folder)
    except BlockingIOError:
        os.close(descriptor)
        raise FileNotFoundError(folder) from None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def remove_unread(folder: Path) -> None:
    """Remove a folder, unless somebody holds it."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            going = folder.with_name(f".building-{secrets.token_hex(4)}")
            folder.replace(going)
            shutil.rmtree(going, ignore_errors=True)
    finally:
        os.close(descriptor)
