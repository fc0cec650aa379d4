"""Names from outside: which spellings are one subject, which name is nearly another, how names are written."""

from __future__ import annotations

import difflib
import math
import os
import re
import shlex
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path, PurePath
from typing import Any, TypeVar

T = TypeVar("T")

# One or two suffixes of a file name; the end of "qwen2.5-1.5b-rules" is none.
_SUFFIXES = re.compile(r"(?:\.[A-Za-z][A-Za-z0-9]{0,11}){1,2}\Z")
# Python's spelling of the bytes of a file name that the locale's encoding cannot read (PEP 383).
_UNDECODED = re.compile("[\udc80-\udcff]+")

# Marks that carry meaning though Unicode has them among punctuation: "C#" is not "C".
_MEANINGFUL = "#%*@"


@lru_cache(maxsize=65_536)
def subject_key(subject_name: str) -> str:
    """What the spellings of a subject have in common: small letters, one "_" for white space, punctuation and hyphens
    between words and none around them, no characters that nobody sees.

    "World History", "world-history" and "WORLD_HISTORY." are "world_history"; marks of accents, of scripts and symbols
    stay: "C++" is neither "C" nor "C#". Equal for names that a file system without capitals takes for one.
    """
    folded = fold_case(subject_name).replace("i\u0307", "i").replace("ı", "i")  # Turkish İ and ı, as others write them
    key_words = "".join(map(_in_key, folded)).split()
    return "_".join(key_words) or folded.strip()


def fold_case(plain_text: str) -> str:
    """A text without what case and width make different: Unicode's NFKC_Casefold, but for characters nobody sees."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", plain_text).casefold())


def spellings(candidate_names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """`subject_key` -> the different names that have it, both in the order of `candidate_names`."""
    by_key: dict[str, dict[str, None]] = {}
    for subject_name in candidate_names:
        by_key.setdefault(subject_key(subject_name), {})[subject_name] = None
    return {subject: tuple(same_subject) for subject, same_subject in by_key.items()}


def closest(
    wanted_name: str,
    candidate_names: Iterable[str],
    *,
    least_ratio: float = 0.6,
    key: Callable[[str], str] = str,
) -> str:
    """Another spelling of `wanted_name` among `candidate_names` (one of equal `key`), else the one that is
    most like it, "" where none is. least_ratio: difflib's, 0 to 1."""
    candidate_names = list(candidate_names)
    spelling = next(
        (candidate for candidate in candidate_names if key(candidate) == key(wanted_name) != ""),
        "",
    )
    return spelling or next(iter(difflib.get_close_matches(wanted_name, candidate_names, n=1, cutoff=least_ratio)), "")


def closest_file(missing_path: Path) -> str:
    """The file or folder beside `missing_path` whose name without its suffixes is most like its own, "" where none is
    like it: equal suffixes alone do not make two files alike."""
    try:
        siblings = sorted(entry.name for entry in missing_path.parent.iterdir())
    except OSError:
        siblings = []
    closest_stem = closest(_SUFFIXES.sub("", missing_path.name), {_SUFFIXES.sub("", sibling) for sibling in siblings})
    similar_files = [sibling for sibling in siblings if closest_stem and _SUFFIXES.sub("", sibling) == closest_stem]
    return closest(missing_path.name, similar_files, least_ratio=0.0)


def did_you_mean(
    wanted_name: str,
    candidate_names: Iterable[str],
    *,
    form: str = "{!r}",
    then: str = "",
    otherwise: str = "",
    cutoff: float = 0.6,
    key: Callable[[str], str] = str,
) -> str:
    """The closest of `candidate_names` as a question, or `otherwise`; then, if any, what else is to be said. See
    `closest`.

    form: how the name is written."""
    closest_name = closest(wanted_name, candidate_names, least_ratio=cutoff, key=key)
    question = f"did you mean {form.format(closest_name)}?" if closest_name else otherwise
    return f"{question} {then}".strip()


def listed(item_texts: Iterable[str], max_items: int) -> str:
    """ "a, b, c and 4 more": the first `max_items` of some texts, and how many more there are."""
    item_texts = list(item_texts)
    return ", ".join(item_texts[:max_items]) + (
        f" and {len(item_texts) - max_items} more" if len(item_texts) > max_items else ""
    )


def first_repeated(names: Iterable[T]) -> T | None:
    """The first of these names that is there more than once."""
    return next((name for name, count in Counter(names).items() if count > 1), None)


def count_of(count: int, noun: str, plural_noun: str = "") -> str:
    """ "1 row", "2,000 rows": a number with what it counts. plural_noun: where that is not the noun with an s."""
    return f"{count:,} {noun if count == 1 else plural_noun or noun + 's'}"


def _in_key(letter: str) -> str:
    category = unicodedata.category(letter)
    if category == "Cf" or "\ufe00" <= letter <= "\ufe0f":  # zero-width, direction and variation marks
        return ""
    return " " if (category[0] in "ZP" and letter not in _MEANINGFUL) or category == "Cc" else letter


def visible(plain_text: str) -> str:
    """Text that any UTF-8 file holds: a byte of a file name that is no UTF-8 becomes `\\xe8`, any other lone surrogate
    `\\ud800`; everything else stays as it is."""
    if plain_text.isascii():
        return plain_text
    plain_text = _UNDECODED.sub(
        lambda escape_run: _bytes_of(escape_run[0]).decode("utf-8", "backslashreplace"), plain_text
    )
    return plain_text.encode("utf-8", "backslashreplace").decode("utf-8")


def visible_values(value: Any) -> Any:
    """Plain values (dictionaries, lists, texts, paths, numbers) with every text `visible`, ready for JSON."""
    if isinstance(value, str | PurePath):
        return visible(str(value))
    if isinstance(value, Mapping):
        return {visible_values(nested_key): visible_values(nested_value) for nested_key, nested_value in value.items()}
    if isinstance(value, list | tuple):
        return [visible_values(nested_value) for nested_value in value]
    return value


def json_values(value: Any) -> Any:
    """Any value as JSON holds it: structs and dataclasses as objects, paths and texts `visible`, null for what is not
    finite."""
    import msgspec  # the command line starts without it

    return _without_nan(visible_values(msgspec.to_builtins(value, enc_hook=_plain)))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    return value.item() if hasattr(value, "item") else str(value)  # numbers of numpy


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(nested_value) for key, nested_value in value.items()}
    if isinstance(value, list):
        return [_without_nan(nested_value) for nested_value in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def is_same_file(first_path: Path, second_path: Path) -> bool:
    """Whether two paths are one file, or would be once the folders of `absent/../FILE` were made."""
    if os.path.realpath(first_path) == os.path.realpath(second_path):
        return True
    return first_path.exists() and second_path.exists() and first_path.samefile(second_path)


@contextmanager
def utf8_path(file_path: Path) -> Iterator[str]:
    """Another path of the same file or folder, for libraries that take no name but UTF-8. Raises OSError."""
    if visible(str(file_path)) == str(file_path):
        yield str(file_path)
        return
    descriptor = os.open(file_path, os.O_RDONLY)
    try:
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def shell_word(plain_text: str) -> str:
    """A word as a user types it in a shell: quoted where it must be; bytes that are no text in bash's `$'...'`."""
    if not _UNDECODED.search(plain_text):
        return shlex.quote(plain_text)
    return "$'" + "".join(map(_shell_byte, os.fsencode(plain_text))) + "'"


def _bytes_of(escape_run: str) -> bytes:
    return bytes(ord(letter) - 0xDC00 for letter in escape_run)


def shell_line(*words: str) -> str:
    """A command as a user types it in a shell."""
    return " ".join(map(shell_word, words))


def _shell_byte(byte_value: int) -> str:
    letter = chr(byte_value)
    return letter if 0x20 <= byte_value < 0x7F and letter not in "\\'" else f"\\x{byte_value:02x}"
