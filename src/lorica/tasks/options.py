"""Parsing which option an answer names: the one parser of gold answers and of answers in result files.

An option bears the file's own key (of an object, a label, a column), or in a list a letter by its place. An answer
names it by key, letter, text or number; what could be read in two ways is refused, naming both.
"""

from __future__ import annotations

import functools
import re
import string
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from typing import Literal

from lorica.errors import CellError
from lorica.tasks.base import is_missing

LETTERS = string.ascii_uppercase
Numbering = Literal["from_0", "from_1", "text"]
NamedAnswer = tuple[object, Sequence[str], Sequence[str], bool]
"""(answer, options, keys, counted) as `parse_option` takes them."""
NUMBERINGS: tuple[Numbering, ...] = ("text", "from_0", "from_1")
_COUNTED = {"text": "as an option's text", "from_0": "counted from 0", "from_1": "counted from 1"}

_NO_OPTION: dict[type, str] = {bool: "is no letter, index or text", float: "is no index or text"}

_QUOTES = {'"': '"', "'": "'", "`": "`", "“": "”", "‘": "’", "*": "*", "_": "_"}
_AROUND_A_NAME = "()[]{}.:,;!$*_\"'`“”‘’。、！ "
_LEAD = re.compile(
    r"(?:(?:the )?(?:(?:correct|right|final|best) )?(?:answer|option|choice)(?: is)?[: ]+"
    r"|(?:正确)?(?:答案|选项)(?:是|为)?[: ]*|选择? *)(?=\S)"
)
_BOXED = re.compile(r"\$*\\boxed\{(?:\\(?:text|mathrm|mathbf)\{)?([^{}]+)\}{1,2}\$*\.?")
_SEPARATORS = r"[\s.,):：、．\]*–—-]+"
# "1.0" is how a column of whole numbers with gaps is written by pandas; "(1)" and "1." are labels.
_WHOLE = re.compile(r"[(\[]?([0-9]{1,9})(?:\.0*)?[)\].:]?")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:e[+-]?[0-9]{1,3})?")
_WIDTHS = ("<wide>", "<narrow>", "<noBreak>", "<compat>")


class UndecidedNumberError(CellError):
    """A number that means one option counted from 0 and another counted from 1, where nothing tells which."""


def option_names(keys: Sequence[str], count: int) -> tuple[str, ...]:
    """What names each option in answers: the file's own keys, or letters where it has none."""
    return tuple(keys) or tuple(LETTERS[:count])


def shown_letters(keys: Sequence[str], count: int) -> tuple[str, ...]:
    """The letters that a prompt shows: the file's own keys in capitals where they are letters, or A, B, C."""
    own = tuple(filter(None, map(key_letter, keys)))
    return own if len(set(own)) == count else tuple(LETTERS[:count])


def key_letter(key: str) -> str:
    """The capital letter that a key is, in whatever marks ("a", "(A)", "A."); "" for another key."""
    letter = key.strip(_AROUND_A_NAME).upper()
    return letter if len(letter) == 1 and letter in LETTERS else ""


def parse_option(
    value: object,
    options: Sequence[str],
    keys: Sequence[str] = (),
    *,
    numbering: Callable[[], Numbering | None] = lambda: None,
    counted: bool = True,
) -> int | None:
    """The index of the option that `value` names: by key, letter, text or number; None when empty.

    keys: the file's own names of the options, which come first. Letters may have any case, brackets and marks ("b",
    "(B)", "B."), stand before their option's text ("B) blue"), or follow "the answer is". Where no text is equal, case,
    white space, width, quotes around the whole and a full stop are overlooked; 4, 4.0 and "4" are one number.
    numbering: what numbers mean in the value's file, None when nothing tells (see `find_numbering`); called only for
    numbers. counted: False where the options have no order to count by.
    Raises CellError for a value that names no option, or two; UndecidedNumberError where counting decides.
    """
    readings = _readings(value, options, keys, counted)
    if readings is None:
        return None
    meant = None if readings.keys().isdisjoint(NUMBERINGS) else numbering()
    if meant is not None:
        # In this file a number has no other meaning.
        readings = {meant: readings.get(meant, set())}
    indices = sorted(set().union(*readings.values()))
    if len(indices) == 1:
        return indices[0]
    names = option_names(keys, len(options))
    if not indices:
        names_none = "names none" if _WHOLE.fullmatch(_text(value)) else _NO_OPTION.get(type(value), "names none")
        raise CellError(
            f"the answer {value!r} {names_none} of the {len(options)} options "
            f"({_allowed(len(options), keys, meant, counted)})",
            fix="write what names the right option, or leave it empty",
        )
    two = f"the answer {value!r} could mean the options {' and '.join(names[index] for index in indices)}"
    if readings.keys() & {"from_0", "from_1"}:
        ways = ", ".join(f"{names[min(indices)]} {_COUNTED[name]}" for name, indices in readings.items())
        raise UndecidedNumberError(
            f"{two} ({ways}), and no row decides it",
            fix="say what numbers mean, task.answer_numbers=from_0, from_1 or text; or write letters or keys",
        )
    example = f"{names[indices[0]]}) {options[indices[0]]}"
    raise CellError(two, fix=f"write the option's letter or key before its text, as in {example!r}")


def find_numbering(answers: Iterable[NamedAnswer]) -> Numbering | None:
    """What numbers mean in a table of these answers: the one reading that all its numbers allow.

    A 0 tells that they are counted from 0, a number as high as the options are many that they are counted from 1.
    None when several readings are left, or there are no numbers. Reads no further than it must.
    """
    possible = set(NUMBERINGS)
    for value, options, keys, counted in answers:
        try:
            possible = possible.intersection(_readings(value, options, keys, counted) or ()) or possible
        except CellError:
            continue
        if len(possible) == 1:
            return possible.pop()
    return None


def _readings(value: object, options: Sequence[str], keys: Sequence[str], counted: bool) -> dict[str, set[int]] | None:
    """The options that a value may mean, by how it is read; None when it is empty.

    A key leaves no other reading. A whole number is read as NUMBERINGS say, anything else not.
    """
    text = _text(value)
    if not text:
        return None
    if text not in options and (boxed := _BOXED.fullmatch(text)):
        text = boxed[1].strip()
    bare = _folded(text).strip(_AROUND_A_NAME)
    bare_keys = [_folded(key).strip(_AROUND_A_NAME) or key for key in keys]
    if own := (_alike(text, keys) or (_alike(bare, bare_keys) if bare else set())):
        return {"key": own}
    texts = _alike(text, options)
    if isinstance(value, bool):
        return {"words": texts}
    integer = _WHOLE.fullmatch(_folded(text))
    if integer and counted and not any(_number(key) is not None for key in keys):
        number = int(integer[1])
        counts = {"text": texts, "from_0": {number}, "from_1": {number - 1}}
        within = {name: indices & set(range(len(options))) for name, indices in counts.items()}
        return {name: indices for name, indices in within.items() if indices}
    letter = () if keys or len(bare) != 1 else {LETTERS.find(bare.upper())} & set(range(len(options)))
    return {"words": texts.union(letter) or _by_label(_loosened(text), options, option_names(keys, len(options)))}


def _text(value: object) -> str:
    """An answer as text, "" when it is empty. Raises CellError for what can name no option."""
    if is_missing(value):
        return ""
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else repr(value)
    if isinstance(value, (str, int)):
        return str(value).strip()
    raise CellError(
        f"the answer {value!r} is no letter, index or text of an option", fix="write one letter, number or text per row"
    )


def _alike(text: str, candidates: Sequence[str]) -> set[int]:
    """The candidates that are the text: exactly, or else but for width and spaces, or else but for what `_loosened`
    leaves out, or else as a number."""
    for form in (str, _folded, _loosened):
        wanted = form(text)
        if matches := {index for index, candidate in enumerate(candidates) if form(candidate) == wanted}:
            return matches
    number = _number(text)
    return {i for i, candidate in enumerate(candidates) if number is not None and _number(candidate) == number}


def _by_label(text: str, options: Sequence[str], names: Sequence[str]) -> set[int]:
    """By a label with the option's own text behind it, and by what follows "the answer is"."""
    lead = _LEAD.match(text)
    answer_text = _loosened(text[lead.end() :]) if lead else text
    meanings = set()
    for index, (name, option) in enumerate(zip(names, options, strict=True)):
        label, wanted = _loosened(name).strip(_AROUND_A_NAME) or _loosened(name), _loosened(option)
        # As one pattern: in "(A)-1" the minus separates only where the option is 1.
        behind = re.fullmatch(rf"[(\[]?{re.escape(label)}{_SEPARATORS}{re.escape(wanted)}", answer_text)
        if behind or (lead and (answer_text == wanted or answer_text.strip(_AROUND_A_NAME) == label)):
            meanings.add(index)
    return meanings


@functools.lru_cache(maxsize=4096)
def _folded(text: str) -> str:
    """One space between words, characters in their usual width, nothing invisible; x² stays x²."""
    if text.isascii():
        return " ".join(text.split())
    visible = (char for char in unicodedata.normalize("NFC", text) if unicodedata.category(char) != "Cf")
    usual = (
        unicodedata.normalize("NFKC", char) if unicodedata.decomposition(char).startswith(_WIDTHS) else char
        for char in visible
    )
    return " ".join("".join(usual).split())


def _loosened(text: str) -> str:
    """Without case, quotes or markup around the whole, and a full stop at the end."""
    loose = _folded(text).casefold()
    while len(loose) > 2 and (loose[-1] in ".。" or _QUOTES.get(loose[0]) == loose[-1]):
        loose = (loose[:-1] if loose[-1] in ".。" else loose[1:-1]).strip()
    return loose


def _number(text: str) -> Decimal | None:
    number = _folded(text).casefold().replace("−", "-")
    return Decimal(number) if _NUMBER.fullmatch(number) else None


def _allowed(count: int, keys: Sequence[str], meant: Numbering | None, counted: bool) -> str:
    ranges = {"from_0": f"0 to {count - 1}", "from_1": f"1 to {count}", "text": ""}
    numbers = ranges[meant] if meant else f"0 to {count - 1}, 1 to {count}"
    if keys:
        return f"{', '.join(keys)}, or the option's text"
    return ", ".join(filter(None, (f"A to {LETTERS[count - 1]}", numbers if counted else "", "or the option's text")))
