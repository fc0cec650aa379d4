"""The schema as a table: dotted key -> what it takes. Read once from the dataclasses."""

from __future__ import annotations

import types
import typing
from collections.abc import Collection, Iterable, Mapping
from dataclasses import Field, dataclass, fields, is_dataclass
from functools import lru_cache
from typing import Annotated, Any, Literal

from msgspec import Meta

from lorica.config.schema import Config
from lorica.errors import ConfigError
from lorica.names import closest


@dataclass(frozen=True)
class Leaf:
    """One key. `value_type` is text, int, float, bool, list (of texts) or table (name -> `item`).

    `words` are the only texts allowed (for a list: allowed instead of it); `limits` bounds a number or, for a
    table, its items. `path`: the text, or for a table each item, is a path."""

    key: str
    value_type: Literal["text", "int", "float", "bool", "list", "table"]
    default: Any
    words: Collection[str] = ()
    limits: Meta | None = None
    item: Literal["text", "int"] = "text"
    path: bool = False

    def takes(self, *, item: bool = False) -> str:
        """What this key takes, as the object of a sentence: "a whole number, at least 1". item: one entry of
        a table."""
        if item and self.value_type == "table":
            return "text" if self.item == "text" else _number("a whole number", self.limits)
        words = ", ".join(word or "'' (empty)" for word in self.words)
        if self.value_type == "list":
            return "a list of texts" + (f", or {words}" if words else "")
        if self.value_type == "table":
            return "a table of names and " + ("texts" if self.item == "text" else _number("whole numbers", self.limits))
        if words:
            return f"one of {words}"
        if self.value_type == "text":
            return "text"
        if self.value_type == "bool":
            return "true or false"
        return _number("a whole number" if self.value_type == "int" else "a number", self.limits)


def _number(number: str, limits: Meta | None) -> str:
    if limits is None:
        return number
    bounds = (("at least", limits.ge), ("above", limits.gt), ("at most", limits.le), ("below", limits.lt))
    return f"{number}, " + " and ".join(f"{word} {bound}" for word, bound in bounds if bound is not None)


def within(value: float, limits: Meta | None) -> bool:
    """Whether a number keeps to its limits; NaN keeps to none."""
    if limits is None:
        return True
    return (
        (limits.ge is None or value >= limits.ge)
        and (limits.gt is None or value > limits.gt)
        and (limits.le is None or value <= limits.le)
        and (limits.lt is None or value < limits.lt)
    )


@lru_cache(maxsize=1)
def leaves() -> Mapping[str, Leaf]:
    """All keys in the order of the schema."""
    return {leaf.key: leaf for leaf in _walk(Config(), "")}


def sections() -> tuple[str, ...]:
    """The dotted names that hold keys: task, model, ..., inference.validation."""
    parents = (key.rpartition(".")[0] for key in leaves())
    return tuple(dict.fromkeys(parent for parent in parents if parent))


def _walk(node: Any, prefix: str) -> Iterable[Leaf]:
    hints = typing.get_type_hints(type(node), include_extras=True)
    for spec in fields(node):
        value = getattr(node, spec.name)
        key = prefix + key_name(spec)
        if is_dataclass(value):
            yield from _walk(value, key + ".")
        else:
            yield _leaf(key, hints[spec.name], value)


def key_name(spec: Field[Any]) -> str:
    """What a field is called in keys: its name, unless it shares another one's (`reading` holds `data.bad_rows`)."""
    return str(spec.metadata.get("key", spec.name))


def own_keys(table: str) -> list[str]:
    """The names inside the key of a table that are keys of their own, and so no entries: `bad_rows` in `data`."""
    inside = table + "."
    return [key.removeprefix(inside) for key in leaves() if key.startswith(inside)]


def _leaf(key: str, hint: Any, default: Any) -> Leaf:
    limits: Meta | None = None
    if typing.get_origin(hint) is Annotated:
        hint, limits = typing.get_args(hint)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return Leaf(key, "text", default, words=arguments)
    if origin is dict:
        item, bounds = arguments[1], None
        if typing.get_origin(item) is Annotated:
            item, bounds = typing.get_args(item)
        item_type: Literal["text", "int"] = "int" if item is int else "text"
        return Leaf(key, "table", default, item=item_type, limits=bounds, path=_is_path(bounds))
    if origin is list:
        return Leaf(key, "list", default)
    if origin is types.UnionType or origin is typing.Union:  # a list, or words that stand for one
        return Leaf(key, "list", default, words=typing.get_args(arguments[1]))
    scalars: dict[type, Literal["text", "int", "float", "bool"]] = {
        str: "text", int: "int", float: "float", bool: "bool",
    }  # fmt: skip
    words = (limits.extra or {}).get("words", ()) if limits else ()
    return Leaf(key, scalars[hint], default, words=words, limits=limits, path=_is_path(limits))


def _is_path(limits: Meta | None) -> bool:
    return limits is not None and "path" in (limits.extra or ())


def find(key: str, *, location: str = "") -> tuple[Leaf, str]:
    """The leaf that a dotted key sets, and the entry's name where the leaf is a table.

    Everything behind a table's key is the entry's name, dots included: `lora.rank_pattern.layers.0.q_proj`.
    location: put before the message, to say where the key stands.
    Raises ConfigError for an unknown key, with the closest known ones.
    """
    table = leaves()
    if key in table:
        return table[key], ""
    for leaf in table.values():
        if leaf.value_type == "table" and key.startswith(leaf.key + ".") and len(key) > len(leaf.key) + 1:
            return leaf, key[len(leaf.key) + 1 :]
    if key in sections():
        inside = ", ".join(name for name in table if name.startswith(key + "."))
        raise ConfigError(f"{location}{key} is a section, not a key", fix=f"set one of its keys: {inside}")
    raise ConfigError(f"{location}unknown configuration key {key!r}", fix=_closest_keys(key))


def _closest_keys(key: str) -> str:
    keys = list(leaves())
    last = key.rpartition(".")[2]
    candidates = [*_closest_entries(key), *(name for name in keys if name.rpartition(".")[2] == last)]
    if not candidates:
        # config=FILE is no key, but a word
        candidates = list(filter(None, [closest(key, [*keys, "config"], least_ratio=0.75)]))
    if not candidates:
        end = closest(last, {name.rpartition(".")[2] for name in keys}, least_ratio=0.75)
        candidates = [name for name in keys if name.rpartition(".")[2] == end]
    if candidates:
        return f"did you mean {' or '.join(list(dict.fromkeys(candidates))[:3])}?"
    section = key.partition(".")[0]
    hint = ""
    if section not in sections():
        section = closest(section, sections())
        hint = f"did you mean {section}? " if section else ""
    if section and "." not in key:
        return hint.strip()
    if section:
        return f"{hint}the keys of {section}: " + ", ".join(name for name in keys if name.startswith(section + "."))
    return "`lorica config` lists all keys"


def _closest_entries(key: str) -> list[str]:
    """An entry of a table whose name is misspelt: `dta.algebra` is close to `data.algebra`."""
    segments = key.split(".")
    tables = {leaf.key for leaf in leaves().values() if leaf.value_type == "table"}
    for count in range(len(segments) - 1, 0, -1):
        close = closest(".".join(segments[:count]), tables, least_ratio=0.75)
        if close and close.count(".") == count - 1:
            return [".".join([close, *segments[count:]])]
    return []
