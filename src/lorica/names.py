"""Names from outside: how a byte that is no text is spelt wherever text is written, and in a command line."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

# Python's spelling of the bytes of a file name that the locale's encoding cannot read (PEP 383).
_UNDECODED = re.compile("[\udc80-\udcff]+")


def visible(text: str) -> str:
    """Text that any UTF-8 file holds: a byte of a file name that is no UTF-8 becomes `\\xe8`, any other lone surrogate
    `\\ud800`; everything else stays as it is."""
    if text.isascii():
        return text
    text = _UNDECODED.sub(lambda run: _bytes_of(run[0]).decode("utf-8", "backslashreplace"), text)
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def visible_values(value: Any) -> Any:
    """Plain values (dictionaries, lists, texts, paths, numbers) with every text `visible`, ready for JSON."""
    if isinstance(value, str | PurePath):
        return visible(str(value))
    if isinstance(value, Mapping):
        return {visible_values(name): visible_values(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [visible_values(item) for item in value]
    return value


def shell_word(text: str) -> str:
    """A word as a user types it in a shell: quoted where it must be; bytes that are no text in bash's `$'...'`."""
    if not _UNDECODED.search(text):
        return shlex.quote(text)
    return "$'" + "".join(map(_shell_byte, os.fsencode(text))) + "'"


def _bytes_of(run: str) -> bytes:
    return bytes(ord(letter) - 0xDC00 for letter in run)


def _shell_byte(byte: int) -> str:
    letter = chr(byte)
    return letter if 0x20 <= byte < 0x7F and letter not in "\\'" else f"\\x{byte:02x}"
