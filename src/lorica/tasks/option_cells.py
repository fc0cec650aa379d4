"""Options as files hold them: a list, an object of keys and texts, texts with labels, columns of their own."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

import msgspec

from lorica.errors import CellError
from lorica.names import first_repeated
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


def parse_options(cell_value: object, column_name: str) -> OptionSet:
    """The options of a cell: a list, {key: text}, {"text": [...], "label": [...]} or a list of {"label", "text"}, as
    such or written as JSON or a Python literal. Raises ValueError for anything else, and for fewer than 2.
    """
    parsed_cell = literal_cell(cell_value, column_name)
    if isinstance(parsed_cell, dict):
        if (keys_and_texts := _named_lists(parsed_cell, column_name)) is not None:
            return option_set(*keys_and_texts, column_name)
        return option_set(*_without_gaps(list(parsed_cell), list(parsed_cell.values())), column_name)
    if parsed_cell and all(isinstance(option_entry, Mapping) for option_entry in parsed_cell):
        option_entries = [_entry(option_entry, column_name) for option_entry in parsed_cell]
        return option_set(
            [option_key for option_key, _ in option_entries],
            [option_text for _, option_text in option_entries],
            column_name,
        )
    return option_set([], parsed_cell, column_name)


def column_options(cell_values: Mapping[str, Any], columns: Sequence[str], option_keys: Sequence[str]) -> OptionSet:
    """The options of a row that has a column for each; the last ones may be empty."""
    option_cells = [cell_values.get(column) for column in columns]
    own_keys, option_texts = _without_gaps(option_keys, option_cells)
    return option_set(own_keys, option_texts, f"{columns[0]} to {columns[len(option_texts) - 1]}")


def option_set(option_keys: Sequence[object], option_texts: Sequence[object], column_name: str) -> OptionSet:
    """Checked options. Options under letters, as keys or labels, are put in the order of the letters."""
    own_keys = [_key(option_key, column_name) for option_key in option_keys]
    if duplicate_key := first_repeated(own_keys):
        raise CellError(f"{column_name!r} has the key {duplicate_key!r} twice", fix="give every option its own key")
    options = [text_value({column_name: option_text}, column_name) for option_text in option_texts]
    if not 2 <= len(options) <= len(LETTERS):
        raise CellError(
            f"{column_name!r} has {len(options)} options; 2 to {len(LETTERS)} are allowed",
            fix=f"give the row 2 to {len(LETTERS)} options, or leave it out",
        )
    labels, options = _without_letters(options, ordered=bool(own_keys))
    own_keys = own_keys or labels
    option_order = list(range(len(options)))
    if own_keys and all(map(key_letter, own_keys)):
        option_order.sort(key=lambda option_index: key_letter(own_keys[option_index]))
    options = [options[option_index] for option_index in option_order]
    own_keys = [own_keys[option_index] for option_index in option_order] if own_keys else []
    if not all(options):
        raise CellError(
            f"option {(own_keys or LETTERS)[options.index('')]} of {column_name!r} is empty",
            fix="give it a text, or remove it",
        )
    return OptionSet(
        texts=tuple(options),
        keys=tuple(own_keys),
        order=tuple(option_order),
        counted=option_order == sorted(option_order),
        numbering=None if own_keys else label_numbering(options),
    )


def _without_letters(options: list[str], *, ordered: bool) -> tuple[list[str], list[str]]:
    """The letters that label all options ("(A) red", "B. blue") and the texts without them, since the prompt writes
    letters; [] and the texts as they are where not all have one. ordered: only from A on."""
    letter_matches = [_LETTER_LABEL.match(option) for option in options]
    letters = [match[1] or match[2] if match else "" for match in letter_matches]
    if (letters if ordered else sorted(letters)) != list(LETTERS[: len(options)]):
        return [], options
    return letters, [option[match.end() :] for match, option in zip(letter_matches, options, strict=True) if match]


def label_numbering(options: Sequence[str]) -> Numbering | None:
    """Where the count begins of the numbers that label all options."""
    number_matches = [_NUMBER_LABEL.match(option) for option in options]
    numbers = [number_match[1] or number_match[2] if number_match else "" for number_match in number_matches]
    for numbering, first_number in (("from_0", 0), ("from_1", 1)):
        if numbers == [str(first_number + option_index) for option_index in range(len(options))]:
            return cast(Numbering, numbering)
    return None


def _named_lists(parsed_cell: Mapping[Any, Any], column_name: str) -> tuple[list[Any], list[Any]] | None:
    """Keys and texts of {"label": [...], "text": [...]}, as ARC has them; None for another object."""
    option_keys = next((parsed_cell[key] for key in _KEY_NAMES if isinstance(parsed_cell.get(key), list)), None)
    option_texts = next((parsed_cell[key] for key in _TEXT_NAMES if isinstance(parsed_cell.get(key), list)), None)
    if option_keys is None or option_texts is None or len(parsed_cell) != 2:
        return None
    if len(option_keys) != len(option_texts):
        raise CellError(
            f"{column_name!r} has {len(option_texts)} texts and {len(option_keys)} labels",
            fix="give every option one text and one label",
        )
    return option_keys, option_texts


def _entry(option_entry: Mapping[str, Any], column_name: str) -> tuple[Any, Any]:
    option_key, option_text = (
        next((candidate_name for candidate_name in candidate_names if candidate_name in option_entry), "")
        for candidate_names in (_KEY_NAMES, _TEXT_NAMES)
    )
    if not option_key or not option_text or len(option_entry) != 2:
        raise CellError(
            f"an option of {column_name!r} is an object of {', '.join(map(repr, option_entry))}",
            fix='write it as {"label": "A", "text": "..."}',
        )
    return option_entry[option_key], option_entry[option_text]


def _without_gaps(option_keys: Sequence[Any], option_texts: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """Without the last ones that have no text: rows of a table differ in how many they have."""
    option_count = len(option_texts)
    while option_count and is_missing(option_texts[option_count - 1]):
        option_count -= 1
    return list(option_keys[:option_count]), list(option_texts[:option_count])


def _key(raw_key: object, name: str) -> str:
    """A key as text; 1.0 is 1."""
    if (
        is_missing(raw_key)
        or isinstance(raw_key, bool)
        or not isinstance(raw_key, (str, int, float))
        or not str(raw_key).strip()
    ):
        raise CellError(f"{name!r} has an option whose key is {raw_key!r}", fix="name options by text or a number")
    return str(int(raw_key)) if isinstance(raw_key, float) and raw_key.is_integer() else str(raw_key).strip()
