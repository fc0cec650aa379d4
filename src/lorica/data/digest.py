"""SHA-256 digests of files, of bytes and of row ids."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from lorica.errors import DataError


def file_digest(path: Path | str) -> str:
    """ "sha256:<64 hex digits>" of the file's bytes, read in pieces. Raises DataError when it cannot be
    read."""
    file_path = Path(path)
    try:
        with file_path.open("rb") as stream:
            return "sha256:" + hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"the file cannot be read ({error.strerror})", path=file_path, fix="check the path") from error


def bytes_digest(content: bytes) -> str:
    """ "sha256:<64 hex digits>" of bytes."""
    return "sha256:" + hashlib.sha256(content).hexdigest()


def ids_digest(ids: Iterable[str]) -> str:
    """sha256 over row ids in their order."""
    digest_state = hashlib.sha256()
    for row_id in ids:
        digest_state.update(json.dumps(row_id).encode() + b"\n")
    return "sha256:" + digest_state.hexdigest()
