"""Paths that users write: the one place where `~` becomes a home folder, and what can be no path is refused."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from lorica.errors import ConfigError

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


def local_path(text: str, description: str) -> str:
    """The text of a path as the file system takes it: a `~` or `~user` at its beginning is the home folder.

    A shell expands `~` only where a word begins with it, and nothing does in a file or a variable. `./~` is a folder of
    that name, and so is `~name` where there is no such user but a file. what: names the path in messages. Raises
    ConfigError where no home folder is known, for an address (`file://...`), and for what no file can be called.
    """
    if _ADDRESS.match(text):
        own = text.removeprefix("file://") if text.startswith("file:///") else "FILE"
        raise ConfigError(
            f"{description}: {text!r} is an address, and a path is wanted", fix=f"write the path alone: {own}"
        )
    if text.startswith("~"):
        text = _at_home(text, description)
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        raise ConfigError(
            f"{description}: {text!r} cannot be the name of a file in this locale ({sys.getfilesystemencoding()})",
            fix="write another name, or set LC_ALL=C.UTF-8",
        ) from None
    return text


def _at_home(text: str, description: str) -> str:
    user, _, below_home = text.partition("/")
    home = os.path.expanduser(user)
    if user != "~" and home == user and Path(text).exists():
        return text
    if not os.path.isabs(home) or (user == "~" and os.environ.get("HOME") == ""):
        why = "HOME is not set to a folder" if user == "~" else f"there is no user {user[1:]!r}"
        raise ConfigError(
            f"{description}: no home folder is known for {user!r} in {text!r}: {why}",
            fix=f"write the path in full, or ./{text} for a file or folder of that name here",
        )
    return os.path.join(home, below_home) if below_home else home
