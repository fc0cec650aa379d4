"""Names from outside: which spellings are one subject, which name is nearly another, how names are written."""

from __future__ import annotations

import difflib
import os
import re
import shlex
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path, PurePath
from typing import Any

# One or two suffixes of a file name; the end of "qwen2.5-1.5b-rules" is none.
_SUFFIXES = re.compile(r"(?:\.[A-Za-z][A-Za-z0-9]{0,11}){1,2}\Z")
# Python's spelling of the bytes of a file name that the locale's encoding cannot read (PEP 383).
_UNDECODED = re.compile("[\udc80-\udcff]+")

# Marks that carry meaning though Unicode has them among punctuation: "C#" is not "C".
_MEANINGFUL = "#%*@"


@lru_cache(maxsize=65_536)
def subject_key(name: str) -> str:
    """What the spellings of a subject have in common: small letters, one "_" for white space, punctuation and hyphens
    between words and none around them, no characters that nobody sees.

    "World History", "world-history" and "WORLD_HISTORY." are "world_history"; marks of accents, of scripts and symbols
    stay: "C++" is neither "C" nor "C#". Equal for names that a file system without capitals takes for one.
    """
    folded = fold_case(name).replace("i\u0307", "i").replace("ı", "i")  # Turkish İ and ı, as others write them
    words = "".join(map(_in_key, folded)).split()
    return "_".join(words) or folded.strip()


def fold_case(text: str) -> str:
    """A text without what case and width make different: Unicode's NFKC_Casefold, but for characters nobody sees."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


def spellings(names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """`subject_key` -> the different names that have it, both in the order of `names`."""
    by_key: dict[str, dict[str, None]] = {}
    for name in names:
        by_key.setdefault(subject_key(name), {})[name] = None
    return {key: tuple(same) for key, same in by_key.items()}


def closest(name: str, names: Iterable[str], *, least_ratio: float = 0.6, key: Callable[[str], str] = str) -> str:
    """Another spelling of `name` among `names` (one of equal `key`), else the one that is most like it, "" where none
    is. cutoff: difflib's ratio, 0 to 1."""
    names = list(names)
    spelling = next((candidate for candidate in names if key(candidate) == key(name) != ""), "")
    return spelling or next(iter(difflib.get_close_matches(name, names, n=1, cutoff=least_ratio)), "")


def closest_file(name: str, siblings: Iterable[str]) -> str:
    """The file or folder among `siblings` whose name without its suffixes is most like that of `name`, "" where none is
    like it: equal suffixes alone do not make two files alike."""
    siblings = list(siblings)
    stem = closest(_SUFFIXES.sub("", name), {_SUFFIXES.sub("", sibling) for sibling in siblings})
    alike = [sibling for sibling in siblings if stem and _SUFFIXES.sub("", sibling) == stem]
    return closest(name, alike, least_ratio=0.0)


def did_you_mean(
    name: str,
    names: Iterable[str],
    *,
    form: str = "{!r}",
    then: str = "",
    otherwise: str = "",
    cutoff: float = 0.6,
    key: Callable[[str], str] = str,
) -> str:
    """The closest of `names` as a question, or `otherwise`; then, if any, what else is to be said. See `closest`.

    form: how the name is written."""
    close = closest(name, names, least_ratio=cutoff, key=key)
    question = f"did you mean {form.format(close)}?" if close else otherwise
    return f"{question} {then}".strip()


def listed(texts: Iterable[str], most: int) -> str:
    """ "a, b, c and 4 more": the first `most` of some texts, and how many more there are."""
    texts = list(texts)
    return ", ".join(texts[:most]) + (f" and {len(texts) - most} more" if len(texts) > most else "")


def _in_key(letter: str) -> str:
    category = unicodedata.category(letter)
    if category == "Cf" or "\ufe00" <= letter <= "\ufe0f":  # zero-width, direction and variation marks
        return ""
    return " " if (category[0] in "ZP" and letter not in _MEANINGFUL) or category == "Cc" else letter


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


@contextmanager
def utf8_path(path: Path) -> Iterator[str]:
    """Another path of the same file or folder, for libraries that take no name but UTF-8. Raises OSError."""
    if visible(str(path)) == str(path):
        yield str(path)
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


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
