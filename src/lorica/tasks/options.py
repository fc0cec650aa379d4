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


def option_names(option_keys: Sequence[str], option_count: int) -> tuple[str, ...]:
    """What names each option in answers: the file's own keys, or letters where it has none."""
    return tuple(option_keys) or tuple(LETTERS[:option_count])


def shown_letters(option_keys: Sequence[str], option_count: int) -> tuple[str, ...]:
    """The letters that a prompt shows: the file's own keys in capitals where they are letters, or A, B, C."""
    own_letters = tuple(filter(None, map(key_letter, option_keys)))
    return own_letters if len(set(own_letters)) == option_count else tuple(LETTERS[:option_count])


def key_letter(option_key: str) -> str:
    """The capital letter that a key is, in whatever marks ("a", "(A)", "A."); "" for another key."""
    letter = option_key.strip(_AROUND_A_NAME).upper()
    return letter if len(letter) == 1 and letter in LETTERS else ""


def parse_option(
    value: object,
    options: Sequence[str],
    option_keys: Sequence[str] = (),
    *,
    numbering: Callable[[], Numbering | None] = lambda: None,
    counted: bool = True,
) -> int | None:
    """The index of the option that `value` names: by key, letter, text or number; None when empty.

    option_keys: the file's own names of the options, which come first. Letters may have any case, brackets and marks
    ("b", "(B)", "B."), stand before their option's text ("B) blue"), or follow "the answer is". Where no text is equal,
    case, white space, width, quotes around the whole and a full stop are overlooked; 4, 4.0 and "4" are one number.
    numbering: what numbers mean in the value's file, None when nothing tells (see `find_numbering`); called only for
    numbers. counted: False where the options have no order to count by.
    Raises CellError for a value that names no option, or two; UndecidedNumberError where counting decides.
    """
    readings = _readings(value, options, option_keys, counted)
    if readings is None:
        return None
    meant_numbering = None if readings.keys().isdisjoint(NUMBERINGS) else numbering()
    if meant_numbering is not None:
        # In this file a number has no other meaning.
        readings = {meant_numbering: readings.get(meant_numbering, set())}
    indices = sorted(set().union(*readings.values()))
    if len(indices) == 1:
        return indices[0]
    answer_names = option_names(option_keys, len(options))
    if not indices:
        names_none = "names none" if _WHOLE.fullmatch(_text(value)) else _NO_OPTION.get(type(value), "names none")
        raise CellError(
            f"the answer {value!r} {names_none} of the {len(options)} options "
            f"({_allowed(len(options), option_keys, meant_numbering, counted)})",
            fix="write what names the right option, or leave it empty",
        )
    candidate_names = " and ".join(answer_names[option_index] for option_index in indices)
    ambiguity = f"the answer {value!r} could mean the options {candidate_names}"
    if readings.keys() & {"from_0", "from_1"}:
        reading_list = ", ".join(f"{answer_names[min(indices)]} {_COUNTED[name]}" for name, indices in readings.items())
        raise UndecidedNumberError(
            f"{ambiguity} ({reading_list}), and no row decides it",
            fix="say what numbers mean, task.answer_numbers=from_0, from_1 or text; or write letters or keys",
        )
    example = f"{answer_names[indices[0]]}) {options[indices[0]]}"
    raise CellError(ambiguity, fix=f"write the option's letter or key before its text, as in {example!r}")


def find_numbering(answers: Iterable[NamedAnswer]) -> Numbering | None:
    """What numbers mean in a table of these answers: the one reading that all its numbers allow.

    A 0 tells that they are counted from 0, a number as high as the options are many that they are counted from 1.
    None when several readings are left, or there are no numbers. Reads no further than it must.
    """
    possible = set(NUMBERINGS)
    for value, options, option_keys, counted in answers:
        try:
            possible = possible.intersection(_readings(value, options, option_keys, counted) or ()) or possible
        except CellError:
            continue
        if len(possible) == 1:
            return possible.pop()
    return None


def _readings(value: object, options: Sequence[str], keys: Sequence[str], counted: bool) -> dict[str, set[int]] | None:
    """The options that a value may mean, by how it is read; None when it is empty.

    A key leaves no other reading. A whole number is read as NUMBERINGS say, anything else not.
    """
    answer_text = _text(value)
    if not answer_text:
        return None
    if answer_text not in options and (boxed_match := _BOXED.fullmatch(answer_text)):
        answer_text = boxed_match[1].strip()
    bare_text = _folded(answer_text).strip(_AROUND_A_NAME)
    bare_keys = [_folded(option_key).strip(_AROUND_A_NAME) or option_key for option_key in keys]
    if key_matches := (_alike(answer_text, keys) or (_alike(bare_text, bare_keys) if bare_text else set())):
        return {"key": key_matches}
    text_matches = _alike(answer_text, options)
    if isinstance(value, bool):
        return {"words": text_matches}
    integer_match = _WHOLE.fullmatch(_folded(answer_text))
    if integer_match and counted and not any(_number(option_key) is not None for option_key in keys):
        parsed_number = int(integer_match[1])
        counts = {"text": text_matches, "from_0": {parsed_number}, "from_1": {parsed_number - 1}}
        possible_readings = {name: indices & set(range(len(options))) for name, indices in counts.items()}
        return {reading_name: indices for reading_name, indices in possible_readings.items() if indices}
    letter = () if keys or len(bare_text) != 1 else {LETTERS.find(bare_text.upper())} & set(range(len(options)))
    return {
        "words": text_matches.union(letter)
        or _by_label(_loosened(answer_text), options, option_names(keys, len(options)))
    }


def _text(value: object) -> str:
    """An answer as text, "" when it is empty. Raises CellError for what can name no option."""
    if is_missing(value):
        return ""
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else repr(value)
    if isinstance(value, (str, int)):
        return str(value).strip()
    raise CellError(
        f"the answer {value!r} is no letter, index or text of an option",
        fix="write one letter, number or text per row",
    )


def _alike(text: str, candidates: Sequence[str]) -> set[int]:
    """The candidates that are the text: exactly, or else but for width and spaces, or else but for what `_loosened`
    leaves out, or else as a number."""
    for normalize in (str, _folded, _loosened):
        wanted_text = normalize(text)
        if matches := {index for index, candidate in enumerate(candidates) if normalize(candidate) == wanted_text}:
            return matches
    parsed_number = _number(text)
    return {
        i for i, candidate in enumerate(candidates) if parsed_number is not None and _number(candidate) == parsed_number
    }


def _by_label(loosened_answer: str, options: Sequence[str], answer_names: Sequence[str]) -> set[int]:
    """By a label with the option's own text behind it, and by what follows "the answer is"."""
    lead_match = _LEAD.match(loosened_answer)
    answer_text = _loosened(loosened_answer[lead_match.end() :]) if lead_match else loosened_answer
    meanings = set()
    for option_index, (answer_name, option_text) in enumerate(zip(answer_names, options, strict=True)):
        label, wanted_text = (
            _loosened(answer_name).strip(_AROUND_A_NAME) or _loosened(answer_name),
            _loosened(option_text),
        )
        # As one pattern: in "(A)-1" the minus separates only where the option is 1.
        label_match = re.fullmatch(rf"[(\[]?{re.escape(label)}{_SEPARATORS}{re.escape(wanted_text)}", answer_text)
        if label_match or (lead_match and (answer_text == wanted_text or answer_text.strip(_AROUND_A_NAME) == label)):
            meanings.add(option_index)
    return meanings


@functools.lru_cache(maxsize=4096)
def _folded(text: str) -> str:
    """One space between words, characters in their usual width, nothing invisible; x² stays x²."""
    if text.isascii():
        return " ".join(text.split())
    visible = (character for character in unicodedata.normalize("NFC", text) if unicodedata.category(character) != "Cf")
    usual_width = (
        unicodedata.normalize("NFKC", character)
        if unicodedata.decomposition(character).startswith(_WIDTHS)
        else character
        for character in visible
    )
    return " ".join("".join(usual_width).split())


def _loosened(text: str) -> str:
    """Without case, quotes or markup around the whole, and a full stop at the end."""
    loosened_text = _folded(text).casefold()
    while len(loosened_text) > 2 and (loosened_text[-1] in ".。" or _QUOTES.get(loosened_text[0]) == loosened_text[-1]):
        loosened_text = (loosened_text[:-1] if loosened_text[-1] in ".。" else loosened_text[1:-1]).strip()
    return loosened_text


def _number(text: str) -> Decimal | None:
    parsed_number = _folded(text).casefold().replace("−", "-")
    return Decimal(parsed_number) if _NUMBER.fullmatch(parsed_number) else None


def _allowed(option_count: int, option_keys: Sequence[str], meant_numbering: Numbering | None, counted: bool) -> str:
    ranges = {"from_0": f"0 to {option_count - 1}", "from_1": f"1 to {option_count}", "text": ""}
    allowed_numbers = ranges[meant_numbering] if meant_numbering else f"0 to {option_count - 1}, 1 to {option_count}"
    if option_keys:
        return f"{', '.join(option_keys)}, or the option's text"
    return ", ".join(
        filter(None, (f"A to {LETTERS[option_count - 1]}", allowed_numbers if counted else "", "or the option's text"))
    )
