"""Which option does an answer name? The one reader of gold answers and of answers in result files."""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Sequence

from lorica.tasks.base import is_missing

LETTERS = string.ascii_uppercase

_QUOTES = {'"': '"', "'": "'", "`": "`", "“": "”", "‘": "’", "*": "*", "_": "_"}
_AROUND_A_LETTER = "()[]{}.:,;*_\"'`“”‘’。、 "
_LEAD = re.compile(r"(?:the )?(?:(?:correct|right|final|best) )?(?:answer|option|choice)(?: is)?[: ]+(?=\S)")
_SEPARATORS = r"[\s.,):：、．\]*–—-]+"
# "1.0" is how a column of whole numbers with gaps is written by pandas.
_INDEX = re.compile(r"([0-9]+)(?:\.0+)?")


def read_option(value: object, options: Sequence[str], keys: Sequence[str] = ()) -> int | None:
    """The index of the option that `value` names: by key, letter, index (from 0) or text; None when empty.

    keys: the file's own names of the options, which come first. Letters may have any case, brackets and marks ("b",
    "(B)", "B."), stand before their option's text ("B) blue"), or follow "the answer is". Where no text is equal, case,
    white space, quotes around the whole and a full stop are overlooked. Raises ValueError for a value that names no
    option, or two.
    """
    if is_missing(value) or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise ValueError(f"the answer {value!r} is no letter, index or text of an option")
    if isinstance(value, float) and not value.is_integer():
        raise ValueError(f"the answer {value!r} is no index of an option")
    by_index = isinstance(value, (int, float))
    text = str(int(value)) if by_index else str(value).strip()
    if not text:
        return None
    if text in keys:
        return keys.index(text)
    meanings = _by_name(text, options) | (set() if by_index else _by_text(text, options))
    if not meanings:
        meanings = _by_label(_folded(text), options, keys)
    if len(meanings) == 1:
        return meanings.pop()
    allowed = f"A to {LETTERS[len(options) - 1]}, 0 to {len(options) - 1}, or the option's text"
    if meanings:
        named = " and ".join(LETTERS[index] for index in sorted(meanings))
        raise ValueError(f"the answer {value!r} could mean the options {named}; write the letter ({allowed})")
    raise ValueError(f"the answer {value!r} names none of the {len(options)} options ({allowed})")


def _by_name(text: str, options: Sequence[str]) -> set[int]:
    """By letter and by index."""
    bare = unicodedata.normalize("NFKC", text).strip(_AROUND_A_LETTER).upper()
    meanings = {LETTERS.index(bare)} if len(bare) == 1 and bare in LETTERS[: len(options)] else set()
    index = _INDEX.fullmatch(text)
    if index and len(index[1]) < 3 and int(index[1]) < len(options):
        meanings.add(int(index[1]))
    return meanings


def _by_text(text: str, options: Sequence[str]) -> set[int]:
    exact = {index for index, option in enumerate(options) if option == text}
    return exact or {index for index, option in enumerate(options) if _folded(option) == _folded(text)}


def _by_label(text: str, options: Sequence[str], keys: Sequence[str]) -> set[int]:
    """By a label with the option's own text behind it, and by what follows "the answer is"."""
    lead = _LEAD.match(text)
    said = _folded(text[lead.end() :]) if lead else text
    meanings = set()
    for index, (key, option) in enumerate(zip(keys or LETTERS, options, strict=False)):
        label, wanted = key.casefold(), _folded(option)
        behind = re.match(rf"\(?{re.escape(label)}{_SEPARATORS}", said)
        if (lead and (said == wanted or said.strip(_AROUND_A_LETTER) == label)) or (
            behind and said[behind.end() :] == wanted
        ):
            meanings.add(index)
    return meanings


def _folded(text: str) -> str:
    """Without case, repeated white space, quotes or markup around the whole, and a full stop at the end."""
    folded = " ".join(unicodedata.normalize("NFC", text).casefold().split())
    while len(folded) > 2 and (folded[-1] in ".。" or _QUOTES.get(folded[0]) == folded[-1]):
        folded = (folded[:-1] if folded[-1] in ".。" else folded[1:-1]).strip()
    return folded
