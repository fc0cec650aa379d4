"""Paths that users write: the one place where `~` becomes a home folder, and what can be no path is refused."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from lorica.errors import ConfigError

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


def local_path(path_text: str, description: str) -> str:
    """The text of a path as the file system takes it: a `~` or `~user` at its beginning is the home folder.

    A shell expands `~` only where a word begins with it, and nothing does in a file or a variable. `./~` is a folder of
    that name, and so is `~name` where there is no such user but a file. description: names the path in messages. Raises
    ConfigError where no home folder is known, for an address (`file://...`), and for what no file can be called.
    """
    if _ADDRESS.match(path_text):
        path_alone = path_text.removeprefix("file://") if path_text.startswith("file:///") else "FILE"
        raise ConfigError(
            f"{description}: {path_text!r} is an address, and a path is wanted",
            fix=f"write the path alone: {path_alone}",
        )
    if path_text.startswith("~"):
        path_text = _at_home(path_text, description)
    try:
        os.fsencode(path_text)
    except UnicodeEncodeError:
        raise ConfigError(
            f"{description}: {path_text!r} cannot be the name of a file in this locale ({sys.getfilesystemencoding()})",
            fix="write another name, or set LC_ALL=C.UTF-8",
        ) from None
    return path_text


def _at_home(path_text: str, description: str) -> str:
    user_prefix, _, below_home = path_text.partition("/")
    home_folder = os.path.expanduser(user_prefix)
    if user_prefix != "~" and home_folder == user_prefix and Path(path_text).exists():
        return path_text
    if not os.path.isabs(home_folder) or (user_prefix == "~" and os.environ.get("HOME") == ""):
        explanation = "HOME is not set to a folder" if user_prefix == "~" else f"there is no user {user_prefix[1:]!r}"
        raise ConfigError(
            f"{description}: no home folder is known for {user_prefix!r} in {path_text!r}: {explanation}",
            fix=f"write the path in full, or ./{path_text} for a file or folder of that name here",
        )
    return os.path.join(home_folder, below_home) if below_home else home_folder
