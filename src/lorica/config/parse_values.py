"""Values: from the text of a command line, and from anything to the type its key takes.

Numbers and booleans follow Hydra's grammar. Texts are taken as they stand, so that a file name never needs
quoting; a text that is quoted as a whole loses its quotes."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Collection, Iterator
from dataclasses import fields
from typing import Any

from lorica.config.fields import KeySpec, key_specs, own_keys, within
from lorica.errors import ConfigError
from lorica.names import did_you_mean

_CLOSING = {"[": "]", "{": "}", "(": ")"}
_ESCAPABLE = ",:[]{}'\""


def parse(key_spec: KeySpec, entry_name: str, value_text: str, *, location: str = "") -> Any:
    """The text right of an override's "=" as a plain value, not yet checked against the type.

    entry_name: the entry's name where `key_spec` is a table and the override sets one entry.
    location: put before messages. Raises ConfigError for text outside the grammar.
    """
    if key_spec.value_type == "table" and not entry_name:
        if key_spec.item_type == "bool" and not value_text.startswith("{"):
            return _parse_number(key_spec.key, key_spec.takes(), value_text, location)
        return _parse_table(key_spec, value_text, location)
    value_type = key_spec.item_type if key_spec.value_type == "table" else key_spec.value_type
    if value_type == "text":
        return unquote(value_text)
    if value_type == "list":
        if (allowed_word := unquote(value_text)) in key_spec.allowed_words:
            return allowed_word
        if value_text.startswith("${") and value_text.endswith("}"):
            return value_text
        return _parse_list(key_spec, value_text, location)
    return _parse_number(key_spec.key, key_spec.takes(item=True), value_text, location)


def unquote(quoted_text: str) -> str:
    """The text without the quotes around it, if it is one quoted text; as it stands otherwise."""
    if len(quoted_text) < 2 or quoted_text[0] not in "'\"" or quoted_text[-1] != quoted_text[0]:
        return quoted_text
    quotation_mark, inner_text = quoted_text[0], quoted_text[1:-1]
    if inner_text.replace("\\" + quotation_mark, "").count(quotation_mark) or inner_text.endswith("\\"):
        return quoted_text
    return inner_text.replace("\\" + quotation_mark, quotation_mark)


def _parse_list(key_spec: KeySpec, list_text: str, location: str) -> list[str]:
    if not (list_text.startswith("[") and list_text.endswith("]")):
        raise ConfigError(
            f"{location}{key_spec.key} takes {key_spec.takes()}; got {list_text!r}",
            fix=f"write the list in brackets: {key_spec.key}=[{list_text}]",
        )
    return list_items(key_spec.key, list_text, location)


def list_items(config_key: str, list_text: str, location: str) -> list[str]:
    """The texts of a list in brackets, without their quotes. Raises ConfigError for an empty one."""
    return [_item_text(item_text) for item_text in _items(config_key, list_text, location)]


def _parse_table(key_spec: KeySpec, table_text: str, location: str) -> dict[str, Any]:
    if not (table_text.startswith("{") and table_text.endswith("}")):
        raise ConfigError(
            f"{location}{key_spec.key} takes {key_spec.takes()}; got {table_text!r}",
            fix=f"name the entry: {key_spec.key}.NAME={table_text}",
        )
    values_by_name: dict[str, Any] = {}
    for entry_text in _items(key_spec.key, table_text, location):
        name_text = next(_split(entry_text, ":", at_most=1))
        value_text = entry_text[len(name_text) + 1 :].strip()
        if len(name_text) == len(entry_text) or not name_text.strip():
            raise ConfigError(
                f"{location}{key_spec.key}: {entry_text!r} is not NAME:VALUE", fix=f"{key_spec.key}={{name:value}}"
            )
        entry_name = _item_text(name_text)
        values_by_name[entry_name] = (
            _item_text(value_text)
            if key_spec.item_type == "text"
            else _parse_number(f"{key_spec.key}.{entry_name}", key_spec.takes(item=True), value_text, location)
        )
    return values_by_name


def _items(config_key: str, value_text: str, location: str) -> list[str]:
    inner_text = value_text[1:-1]
    if not inner_text.strip():
        return []
    item_texts = [item_text.strip() for item_text in _split(inner_text, ",")]
    if "" in item_texts:
        raise ConfigError(
            f"{location}{config_key}: an item of {value_text!r} is empty", fix="remove the extra comma, or write ''"
        )
    return item_texts


def _split(value_text: str, separator: str, at_most: int = -1) -> Iterator[str]:
    """Pieces between the separators that stand outside quotes and brackets and are not escaped."""
    piece_start, open_quote, closing_brackets, escaped = 0, "", [""], False
    for index, letter in enumerate(value_text):
        if escaped:
            escaped = False
        elif letter == "\\":
            escaped = True
        elif open_quote:
            open_quote = "" if letter == open_quote else open_quote
        elif letter in "'\"" and not value_text[piece_start:index].strip():  # an apostrophe inside a word is a letter
            open_quote = letter
        elif letter in _CLOSING:
            closing_brackets.append(_CLOSING[letter])
        elif letter == closing_brackets[-1]:
            closing_brackets.pop()
        elif letter == separator and len(closing_brackets) == 1 and at_most:
            yield value_text[piece_start:index]
            piece_start, at_most = index + 1, at_most - 1
    yield value_text[piece_start:]


def _item_text(item_text: str) -> str:
    item_text = item_text.strip()
    if (unquoted_text := unquote(item_text)) != item_text:
        return unquoted_text
    for letter in _ESCAPABLE:
        item_text = item_text.replace("\\" + letter, letter)
    return item_text


def _parse_number(config_key: str, allowed_values: str, number_text: str, location: str) -> Any:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import Glob, Sweep
    from hydra.errors import HydraException

    complaint = f"{location}{config_key} takes {allowed_values}; got {number_text!r}"
    if "\n" in number_text or not number_text.strip():
        raise ConfigError(complaint)
    try:
        parsed_value = OverridesParser.create().parse_override(f"value={number_text}").value()
    except HydraException:
        raise ConfigError(complaint) from None
    if isinstance(parsed_value, Sweep | Glob):
        raise ConfigError(complaint, fix="a run takes one value per key")
    return parsed_value


def coerce(key_spec: KeySpec, entry_name: str, value: Any, *, location: str = "") -> Any:
    """A plain value as the type its key takes; nothing is rounded, cut or guessed.

    Raises ConfigError with the key, what was got and what is allowed.
    """
    full_key = f"{key_spec.key}.{entry_name}" if entry_name else key_spec.key
    _refuse_misspelt(key_spec, entry_name, value, location)
    suggestion = f"the default is {key_spec.key}={show(key_spec.default)}" if key_spec.value_type != "table" else ""
    table_key, _, last_segment = key_spec.key.rpartition(".")
    if table_key in key_specs():
        suggestion += f"; {key_spec.key} is a key, so an entry {last_segment!r} of {table_key} needs another name"
    if key_spec.value_type == "list" and isinstance(value, list):
        for list_item in value:
            if not isinstance(list_item, str) or not list_item:
                quoting = f"quote it: '{show(list_item)}'" if isinstance(list_item, bool | int | float) else suggestion
                raise ConfigError(
                    f"{location}{full_key} takes {key_spec.takes()}; one item is {_quoted(list_item)}", fix=quoting
                )
        return list(value)
    value_type = key_spec.item_type if key_spec.value_type == "table" else key_spec.value_type
    as_text = key_spec.holds_lists and isinstance(value, list | bool | int | float)
    checked = _scalar(key_spec, value_type, show(value) if as_text else value)
    if checked is None:
        if value_type == "text" and isinstance(value, bool | int | float):
            suggestion = f"quote it: '{show(value)}'"
        elif isinstance(value, str) and (spelling_hint := _hint(value, key_spec.allowed_words)):
            suggestion = f"{spelling_hint} {suggestion[:1].upper()}{suggestion[1:]}"
        elif value is None:
            suggestion = (
                "leave the key out, or write '' for an empty text" if value_type == "text" else "leave the key out"
            )
        raise ConfigError(
            f"{location}{full_key} takes {key_spec.takes(item=bool(entry_name))}; got {_quoted(value)}", fix=suggestion
        )
    if key_spec.value_type == "table" and value_type == "text" and checked == "":
        raise ConfigError(f"{location}{full_key} is empty", fix=f"write {full_key}=VALUE, or leave the key out")
    return checked


def check_section(section_name: str, section: Any) -> None:
    """Raises ConfigError for a value that its key does not take, in a section without tables that was made in code."""
    for schema_field in fields(section):
        key_spec = key_specs()[f"{section_name}.{schema_field.name}"]
        coerce(key_spec, "", getattr(section, schema_field.name))


def _refuse_misspelt(key_spec: KeySpec, entry_name: str, value: Any, location: str) -> None:
    """An entry of a table that is nearly one of the table's own keys and holds one of its words is meant to be it."""
    for own_key in own_keys(key_spec.key) if entry_name else ():
        allowed_words = key_specs()[f"{key_spec.key}.{own_key}"].allowed_words
        if (
            difflib.SequenceMatcher(None, entry_name.casefold(), own_key).ratio() > 0.7
            and str(value).casefold() in allowed_words
        ):
            raise ConfigError(
                f"{location}unknown configuration key '{key_spec.key}.{entry_name}'",
                fix=f"did you mean {key_spec.key}.{own_key}?",
            )


def _hint(value_text: str, allowed_words: Collection[str]) -> str:
    """Which word is meant by one in capitals, cut short or misspelt, as a question, or ""."""
    text = value_text.lower()
    matching_words = [word for word in allowed_words if text and word.startswith(text)]
    return did_you_mean(matching_words[0] if matching_words else text, allowed_words, form="{}", cutoff=0.5)


def _scalar(key_spec: KeySpec, value_type: str, value: Any) -> Any:
    """The value as `value_type`, or None where it is not one."""
    if value_type in ("text", "list"):  # for a list: a word that stands for one
        is_free = value_type == "text" and not key_spec.allowed_words
        return value if isinstance(value, str) and (is_free or value in key_spec.allowed_words) else None
    if value_type == "bool":
        return value if isinstance(value, bool) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if value_type == "int":
        return value if isinstance(value, int) and within(value, key_spec.limits) else None
    return float(value) if abs(value) <= sys.float_info.max and within(value, key_spec.limits) else None


def _quoted(plain_value: Any) -> str:
    return repr(plain_value) if isinstance(plain_value, str) else show(plain_value)


def show(value: Any) -> str:
    """A value as a user would write it on the command line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(show(item) for item in value)}]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{name}:{show(item)}" for name, item in value.items()) + "}"
    if value == "":
        return "''"
    return str(value)
