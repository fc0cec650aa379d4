"""Values: from the text of a command line, and from anything to the type its key takes.

Numbers and booleans follow Hydra's grammar. Texts are taken as they stand, so that a file name never needs
quoting; a text that is quoted as a whole loses its quotes."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Collection, Iterator
from dataclasses import fields
from typing import Any

from lorica.config.fields import Leaf, leaves, own_keys, within
from lorica.errors import ConfigError
from lorica.names import did_you_mean

_CLOSING = {"[": "]", "{": "}", "(": ")"}
_ESCAPABLE = ",:[]{}'\""


def parse(leaf: Leaf, entry: str, text: str, *, location: str = "") -> Any:
    """The text right of an override's "=" as a plain value, not yet checked against the type.

    entry: the entry's name where `leaf` is a table and the override sets one entry.
    location: put before messages. Raises ConfigError for text outside the grammar.
    """
    if leaf.value_type == "table" and not entry:
        return _parse_table(leaf, text, location)
    value_type = leaf.item if leaf.value_type == "table" else leaf.value_type
    if value_type == "text":
        return unquote(text)
    if value_type == "list":
        if (word := unquote(text)) in leaf.words:
            return word
        if text.startswith("${") and text.endswith("}"):
            return text
        return _parse_list(leaf, text, location)
    return _parse_number(leaf.key, leaf.takes(item=True), text, location)


def unquote(text: str) -> str:
    """The text without the quotes around it, if it is one quoted text; as it stands otherwise."""
    if len(text) < 2 or text[0] not in "'\"" or text[-1] != text[0]:
        return text
    quote, inner = text[0], text[1:-1]
    if inner.replace("\\" + quote, "").count(quote) or inner.endswith("\\"):
        return text
    return inner.replace("\\" + quote, quote)


def _parse_list(leaf: Leaf, text: str, location: str) -> list[str]:
    if not (text.startswith("[") and text.endswith("]")):
        raise ConfigError(
            f"{location}{leaf.key} takes {leaf.takes()}; got {text!r}",
            fix=f"write the list in brackets: {leaf.key}=[{text}]",
        )
    return [_item_text(item) for item in _items(leaf.key, text, location)]


def _parse_table(leaf: Leaf, text: str, location: str) -> dict[str, Any]:
    if not (text.startswith("{") and text.endswith("}")):
        raise ConfigError(
            f"{location}{leaf.key} takes {leaf.takes()}; got {text!r}",
            fix=f"name the entry: {leaf.key}.NAME={text}",
        )
    table: dict[str, Any] = {}
    for item in _items(leaf.key, text, location):
        name = next(_split(item, ":", at_most=1))
        value = item[len(name) + 1 :].strip()
        if len(name) == len(item) or not name.strip():
            raise ConfigError(f"{location}{leaf.key}: {item!r} is not NAME:VALUE", fix=f"{leaf.key}={{name:value}}")
        clean = _item_text(name)
        table[clean] = (
            _item_text(value)
            if leaf.item == "text"
            else _parse_number(f"{leaf.key}.{clean}", leaf.takes(item=True), value, location)
        )
    return table


def _items(key: str, text: str, location: str) -> list[str]:
    inner = text[1:-1]
    if not inner.strip():
        return []
    items = [item.strip() for item in _split(inner, ",")]
    if "" in items:
        raise ConfigError(f"{location}{key}: an item of {text!r} is empty", fix="remove the extra comma, or write ''")
    return items


def _split(text: str, separator: str, at_most: int = -1) -> Iterator[str]:
    """Pieces between the separators that stand outside quotes and brackets and are not escaped."""
    start, quote, depth, escaped = 0, "", [""], False
    for index, letter in enumerate(text):
        if escaped:
            escaped = False
        elif letter == "\\":
            escaped = True
        elif quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"" and not text[start:index].strip():  # an apostrophe inside a word is a letter
            quote = letter
        elif letter in _CLOSING:
            depth.append(_CLOSING[letter])
        elif letter == depth[-1]:
            depth.pop()
        elif letter == separator and len(depth) == 1 and at_most:
            yield text[start:index]
            start, at_most = index + 1, at_most - 1
    yield text[start:]


def _item_text(text: str) -> str:
    text = text.strip()
    if (bare := unquote(text)) != text:
        return bare
    for letter in _ESCAPABLE:
        text = text.replace("\\" + letter, letter)
    return text


def _parse_number(key: str, takes: str, text: str, location: str) -> Any:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import Glob, Sweep
    from hydra.errors import HydraException

    wrong = f"{location}{key} takes {takes}; got {text!r}"
    if "\n" in text or not text.strip():
        raise ConfigError(wrong)
    try:
        value = OverridesParser.create().parse_override(f"value={text}").value()
    except HydraException:
        raise ConfigError(wrong) from None
    if isinstance(value, Sweep | Glob):
        raise ConfigError(wrong, fix="a run takes one value per key")
    return value


def coerce(leaf: Leaf, entry: str, value: Any, *, location: str = "") -> Any:
    """A plain value as the type its key takes; nothing is rounded, cut or guessed.

    Raises ConfigError with the key, what was got and what is allowed.
    """
    key = f"{leaf.key}.{entry}" if entry else leaf.key
    _refuse_misspelt(leaf, entry, value, location)
    fix = f"the default is {leaf.key}={show(leaf.default)}" if leaf.value_type != "table" else ""
    table, _, name = leaf.key.rpartition(".")
    if table in leaves():
        fix += f"; {leaf.key} is a key, so an entry {name!r} of {table} needs another name"
    if leaf.value_type == "list" and isinstance(value, list):
        for item in value:
            if not isinstance(item, str) or not item:
                quoting = f"quote it: '{show(item)}'" if isinstance(item, bool | int | float) else fix
                raise ConfigError(f"{location}{key} takes {leaf.takes()}; one item is {_quoted(item)}", fix=quoting)
        return list(value)
    value_type = leaf.item if leaf.value_type == "table" else leaf.value_type
    checked = _scalar(leaf, value_type, value)
    if checked is None:
        if value_type == "text" and isinstance(value, bool | int | float):
            fix = f"quote it: '{show(value)}'"
        elif isinstance(value, str) and (hint := _hint(value, leaf.words)):
            fix = f"{hint} {fix[:1].upper()}{fix[1:]}"
        elif value is None:
            fix = "leave the key out, or write '' for an empty text" if value_type == "text" else "leave the key out"
        raise ConfigError(f"{location}{key} takes {leaf.takes(item=bool(entry))}; got {_quoted(value)}", fix=fix)
    if leaf.value_type == "table" and value_type == "text" and checked == "":
        raise ConfigError(f"{location}{key} is empty", fix=f"write {key}=VALUE, or leave the key out")
    return checked


def check_section(name: str, section: Any) -> None:
    """Raises ConfigError for a value that its key does not take, in a section without tables that was made in code."""
    for field in fields(section):
        leaf = leaves()[f"{name}.{field.name}"]
        coerce(leaf, "", getattr(section, field.name))


def _refuse_misspelt(leaf: Leaf, entry: str, value: Any, location: str) -> None:
    """An entry of a table that is nearly one of the table's own keys and holds one of its words is meant to be it."""
    for name in own_keys(leaf.key) if entry else ():
        words = leaves()[f"{leaf.key}.{name}"].words
        if difflib.SequenceMatcher(None, entry.casefold(), name).ratio() > 0.7 and str(value).casefold() in words:
            raise ConfigError(
                f"{location}unknown configuration key '{leaf.key}.{entry}'", fix=f"did you mean {leaf.key}.{name}?"
            )


def _hint(text: str, words: Collection[str]) -> str:
    """Which word is meant by one in capitals, cut short or misspelt, as a question, or ""."""
    low = text.lower()
    begun = [word for word in words if low and word.startswith(low)]
    return did_you_mean(begun[0] if begun else low, words, form="{}", cutoff=0.5)


def _scalar(leaf: Leaf, value_type: str, value: Any) -> Any:
    """The value as `value_type`, or None where it is not one."""
    if value_type == "text":
        return value if isinstance(value, str) and (not leaf.words or value in leaf.words) else None
    if value_type == "list":  # a word that stands for one
        return value if isinstance(value, str) and value in leaf.words else None
    if value_type == "bool":
        return value if isinstance(value, bool) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if value_type == "int":
        return value if isinstance(value, int) and within(value, leaf.limits) else None
    return float(value) if abs(value) <= sys.float_info.max and within(value, leaf.limits) else None


def _quoted(value: Any) -> str:
    return repr(value) if isinstance(value, str) else show(value)


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
