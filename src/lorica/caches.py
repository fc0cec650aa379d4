"""Where Lorica keeps what it computed once and may lose: a folder of the user's cache."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder(purpose: str) -> Path:
    """The folder for one purpose, in `LORICA_CACHE_DIR` or in `lorica` in the user's cache folder; it may not exist.

    Raises OSError for a user without a home folder, as in some containers.
    """
    stated = os.environ.get("LORICA_CACHE_DIR")
    try:
        if stated:
            return Path(stated).expanduser() / purpose
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lorica" / purpose
    except RuntimeError as error:
        raise FileNotFoundError("this user has no home folder") from error
