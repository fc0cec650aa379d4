"""Options as files hold them: a list, an object of keys and texts, texts with labels, columns of their own."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

import msgspec

from lorica.errors import CellError
from lorica.tasks.base import is_missing, text_value
from lorica.tasks.literals import literal_cell
from lorica.tasks.options import LETTERS, Numbering, key_letter

_KEY_NAMES, _TEXT_NAMES = ("label", "labels", "key", "letter"), ("text", "texts", "value", "content")
_NUMBER_LABEL = re.compile(r"\s*(?:\(([0-9]{1,2})\)|([0-9]{1,2})(?:[):：、．]|\.(?![0-9])))\s*")
_LETTER_LABEL = re.compile(r"\s*(?:\(([A-Z])\)|([A-Z])[.):：、．])\s*")


class OptionSet(msgspec.Struct, frozen=True):
    """The options of one row, in the order in which a prompt shows them.

    keys: the file's own names for them, () for a list. order: their positions in the file. counted: whether a
    number may count them. numbering: how, where labels in the texts ("1) red") tell.
    """

    texts: tuple[str, ...]
    keys: tuple[str, ...] = ()
    order: tuple[int, ...] = ()
    counted: bool = True
    numbering: Numbering | None = None


def parse_options(value: object, name: str) -> OptionSet:
    """The options of a cell: a list, {key: text}, {"text": [...], "label": [...]} or a list of {"label", "text"}, as
    such or written as JSON or a Python literal. Raises ValueError for anything else, and for fewer than 2.
    """
    cell = literal_cell(value, name)
    if isinstance(cell, dict):
        if (pair := _named_lists(cell, name)) is not None:
            return option_set(*pair, name)
        return option_set(*_without_gaps(list(cell), list(cell.values())), name)
    if cell and all(isinstance(entry, Mapping) for entry in cell):
        entries = [_entry(entry, name) for entry in cell]
        return option_set([key for key, _ in entries], [text for _, text in entries], name)
    return option_set([], cell, name)


def column_options(values: Mapping[str, Any], columns: Sequence[str], keys: Sequence[str]) -> OptionSet:
    """The options of a row that has a column for each; the last ones may be empty."""
    cells = [values.get(column) for column in columns]
    own, texts = _without_gaps(keys, cells)
    return option_set(own, texts, f"{columns[0]} to {columns[len(texts) - 1]}")


def option_set(keys: Sequence[object], texts: Sequence[object], name: str) -> OptionSet:
    """Checked options. Options under letters, as keys or labels, are put in the order of the letters."""
    own = [_key(key, name) for key in keys]
    if twice := next((key for key in own if own.count(key) > 1), ""):
        raise CellError(f"{name!r} has the key {twice!r} twice", fix="give every option its own key")
    options = [text_value({name: text}, name) for text in texts]
    if not 2 <= len(options) <= len(LETTERS):
        raise CellError(
            f"{name!r} has {len(options)} options; 2 to {len(LETTERS)} are allowed",
            fix=f"give the row 2 to {len(LETTERS)} options, or leave it out",
        )
    labels, options = _without_letters(options, ordered=bool(own))
    own = own or labels
    order = list(range(len(options)))
    if own and all(map(key_letter, own)):
        order.sort(key=lambda index: key_letter(own[index]))
    options = [options[index] for index in order]
    own = [own[index] for index in order] if own else []
    if not all(options):
        raise CellError(
            f"option {(own or LETTERS)[options.index('')]} of {name!r} is empty", fix="give it a text, or remove it"
        )
    return OptionSet(
        texts=tuple(options),
        keys=tuple(own),
        order=tuple(order),
        counted=order == sorted(order),
        numbering=None if own else label_numbering(options),
    )


def _without_letters(options: list[str], *, ordered: bool) -> tuple[list[str], list[str]]:
    """The letters that label all options ("(A) red", "B. blue") and the texts without them, since the prompt writes
    letters; [] and the texts as they are where not all have one. ordered: only from A on."""
    matches = [_LETTER_LABEL.match(option) for option in options]
    letters = [match[1] or match[2] if match else "" for match in matches]
    if (letters if ordered else sorted(letters)) != list(LETTERS[: len(options)]):
        return [], options
    return letters, [option[match.end() :] for match, option in zip(matches, options, strict=True) if match]


def label_numbering(options: Sequence[str]) -> Numbering | None:
    """Where the count begins of the numbers that label all options."""
    matches = [_NUMBER_LABEL.match(option) for option in options]
    numbers = [match[1] or match[2] if match else "" for match in matches]
    for numbering, first in (("from_0", 0), ("from_1", 1)):
        if numbers == [str(first + index) for index in range(len(options))]:
            return cast(Numbering, numbering)
    return None


def _named_lists(cell: Mapping[Any, Any], name: str) -> tuple[list[Any], list[Any]] | None:
    """Keys and texts of {"label": [...], "text": [...]}, as ARC has them; None for another object."""
    keys = next((cell[key] for key in _KEY_NAMES if isinstance(cell.get(key), list)), None)
    texts = next((cell[key] for key in _TEXT_NAMES if isinstance(cell.get(key), list)), None)
    if keys is None or texts is None or len(cell) != 2:
        return None
    if len(keys) != len(texts):
        raise CellError(
            f"{name!r} has {len(texts)} texts and {len(keys)} labels", fix="give every option one text and one label"
        )
    return keys, texts


def _entry(entry: Mapping[str, Any], name: str) -> tuple[Any, Any]:
    key, text = (next((n for n in names if n in entry), "") for names in (_KEY_NAMES, _TEXT_NAMES))
    if not key or not text or len(entry) != 2:
        raise CellError(
            f"an option of {name!r} is an object of {', '.join(map(repr, entry))}",
            fix='write it as {"label": "A", "text": "..."}',
        )
    return entry[key], entry[text]


def _without_gaps(keys: Sequence[Any], texts: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """Without the last ones that have no text: rows of a table differ in how many they have."""
    count = len(texts)
    while count and is_missing(texts[count - 1]):
        count -= 1
    return list(keys[:count]), list(texts[:count])


def _key(key: object, name: str) -> str:
    """A key as text; 1.0 is 1."""
    if is_missing(key) or isinstance(key, bool) or not isinstance(key, (str, int, float)) or not str(key).strip():
        raise CellError(f"{name!r} has an option whose key is {key!r}", fix="name options by text or a number")
    return str(int(key)) if isinstance(key, float) and key.is_integer() else str(key).strip()
