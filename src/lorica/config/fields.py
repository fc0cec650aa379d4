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

SHORT_KEYS = {
    "folds": "folds.count",
    "trials": "tune.trials",
    "attempts": "tune.attempts",
    "minutes_per_attempt": "tune.minutes_per_attempt",
}
"""Short words for keys, and sections that a value may be written for: the key that each sets."""


@dataclass(frozen=True)
class KeySpec:
    """One key. `value_type` is text, int, float, bool, list (of texts) or table (name -> `item_type`).

    `allowed_words` are the only texts allowed (for a list: allowed instead of it); `limits` bounds a number or, for a
    table, its items. `is_path`: the text, or for a table each item, is a path. `holds_lists`: each item of a table may
    be a list, which is kept as its text."""

    key: str
    value_type: Literal["text", "int", "float", "bool", "list", "table"]
    default: Any
    allowed_words: Collection[str] = ()
    limits: Meta | None = None
    item_type: Literal["text", "int", "bool"] = "text"
    is_path: bool = False
    holds_lists: bool = False

    def takes(self, *, item: bool = False) -> str:
        """What this key takes, as the object of a sentence: "a whole number, at least 1". item: one entry of
        a table."""
        if item and self.value_type == "table":
            return {"text": "text", "bool": "true or false"}.get(self.item_type) or _number(
                "a whole number", self.limits
            )
        allowed_words = ", ".join(allowed_word or "'' (empty)" for allowed_word in self.allowed_words)
        if self.value_type == "list":
            return "a list of texts" + (f", or {allowed_words}" if allowed_words else "")
        if self.value_type == "table":
            items = {"text": "texts", "bool": "true or false, or one of them for all"}
            return "a table of names and " + (items.get(self.item_type) or _number("whole numbers", self.limits))
        if allowed_words:
            return f"one of {allowed_words}"
        if self.value_type == "text":
            return "text"
        if self.value_type == "bool":
            return "true or false"
        return _number("a whole number" if self.value_type == "int" else "a number", self.limits)


def _number(number_text: str, limits: Meta | None) -> str:
    if limits is None:
        return number_text
    bounds = (("at least", limits.ge), ("above", limits.gt), ("at most", limits.le), ("below", limits.lt))
    return f"{number_text}, " + " and ".join(
        f"{comparison} {bound}" for comparison, bound in bounds if bound is not None
    )


def within(number: float, limits: Meta | None) -> bool:
    """Whether a number keeps to its limits; NaN keeps to none."""
    if limits is None:
        return True
    return (
        (limits.ge is None or number >= limits.ge)
        and (limits.gt is None or number > limits.gt)
        and (limits.le is None or number <= limits.le)
        and (limits.lt is None or number < limits.lt)
    )


@lru_cache(maxsize=1)
def key_specs() -> Mapping[str, KeySpec]:
    """All keys in the order of the schema."""
    return {key_spec.key: key_spec for key_spec in _walk(Config(), "")}


def sections() -> tuple[str, ...]:
    """The dotted names that hold keys: task, model, ..., inference.validation."""
    parents = (config_key.rpartition(".")[0] for config_key in key_specs())
    return tuple(dict.fromkeys(section for section in parents if section))


def _walk(section: Any, key_prefix: str) -> Iterable[KeySpec]:
    type_hints = typing.get_type_hints(type(section), include_extras=True)
    for schema_field in fields(section):
        default_value = getattr(section, schema_field.name)
        config_key = key_prefix + key_name(schema_field)
        if is_dataclass(default_value):
            yield from _walk(default_value, config_key + ".")
        else:
            yield _key_spec(config_key, type_hints[schema_field.name], default_value)


def key_name(schema_field: Field[Any]) -> str:
    """What a field is called in keys: its name, unless it shares another one's (`reading` holds `data.bad_rows`)."""
    return str(schema_field.metadata.get("key", schema_field.name))


def own_keys(table_key: str) -> list[str]:
    """The names inside the key of a table that are keys of their own, and so no entries: `bad_rows` in `data`."""
    table_prefix = table_key + "."
    return [config_key.removeprefix(table_prefix) for config_key in key_specs() if config_key.startswith(table_prefix)]


def _key_spec(config_key: str, type_hint: Any, default_value: Any) -> KeySpec:
    type_hint, limits = _bare_type(type_hint)
    generic_type, arguments = typing.get_origin(type_hint), typing.get_args(type_hint)
    if generic_type is Literal:
        return KeySpec(config_key, "text", default_value, allowed_words=arguments)
    if generic_type is dict:
        entry_hint, entry_limits = _bare_type(arguments[1])
        item_types: dict[type, Literal["text", "int", "bool"]] = {int: "int", bool: "bool"}
        item_type = item_types.get(entry_hint, "text")
        return KeySpec(
            config_key,
            "table",
            default_value,
            item_type=item_type,
            limits=entry_limits,
            is_path=_is_marked(entry_limits, "path"),
            holds_lists=_is_marked(entry_limits, "values"),
        )
    if generic_type is list:
        return KeySpec(config_key, "list", default_value)
    if generic_type is types.UnionType or generic_type is typing.Union:  # a list, or words that stand for one
        return KeySpec(config_key, "list", default_value, allowed_words=typing.get_args(arguments[1]))
    scalars: dict[type, Literal["text", "int", "float", "bool"]] = {
        str: "text", int: "int", float: "float", bool: "bool",
    }  # fmt: skip
    allowed_words = (limits.extra or {}).get("words", ()) if limits else ()
    return KeySpec(
        config_key,
        scalars[type_hint],
        default_value,
        allowed_words=allowed_words,
        limits=limits,
        is_path=_is_marked(limits, "path"),
    )


def _bare_type(type_hint: Any) -> tuple[Any, Meta | None]:
    """A type without its annotation, and that."""
    if typing.get_origin(type_hint) is not Annotated:
        return type_hint, None
    bare_type, limits = typing.get_args(type_hint)
    return bare_type, limits


def _is_marked(limits: Meta | None, mark: str) -> bool:
    return limits is not None and mark in (limits.extra or ())


def find(dotted_key: str, *, location: str = "") -> tuple[KeySpec, str]:
    """The spec of the key that a dotted key sets, and the entry's name where it is a table's.

    Everything behind a table's key is the entry's name, dots included: `lora.rank_pattern.layers.0.q_proj`.
    location: put before the message, to say where the key stands.
    Raises ConfigError for an unknown key, with the closest known ones.
    """
    specs_by_key = key_specs()
    dotted_key = SHORT_KEYS.get(dotted_key, dotted_key)
    if dotted_key in specs_by_key:
        return specs_by_key[dotted_key], ""
    for spec in specs_by_key.values():
        if spec.value_type == "table" and dotted_key.startswith(spec.key + ".") and len(dotted_key) > len(spec.key) + 1:
            return spec, dotted_key[len(spec.key) + 1 :]
    if dotted_key in sections():
        section_keys = ", ".join(config_key for config_key in specs_by_key if config_key.startswith(dotted_key + "."))
        raise ConfigError(f"{location}{dotted_key} is a section, not a key", fix=f"set one of its keys: {section_keys}")
    raise ConfigError(f"{location}unknown configuration key {dotted_key!r}", fix=_closest_keys(dotted_key))


def _closest_keys(unknown_key: str) -> str:
    keys = list(key_specs())
    last_segment = unknown_key.rpartition(".")[2]
    candidates = [
        *_closest_entries(unknown_key),
        *(key for key in keys if key.rpartition(".")[2] == last_segment),
    ]
    if not candidates:
        # config=FILE is no key, but a word
        candidates = list(filter(None, [closest(unknown_key, [*keys, "config"], least_ratio=0.75)]))
    if not candidates:
        closest_segment = closest(last_segment, {key.rpartition(".")[2] for key in keys}, least_ratio=0.75)
        candidates = [key for key in keys if key.rpartition(".")[2] == closest_segment]
    if candidates:
        return f"did you mean {' or '.join(list(dict.fromkeys(candidates))[:3])}?"
    section = unknown_key.partition(".")[0]
    suggestion = ""
    if section not in sections():
        section = closest(section, sections())
        suggestion = f"did you mean {section}? " if section else ""
    if section and "." not in unknown_key:
        return suggestion.strip()
    if section:
        return f"{suggestion}the keys of {section}: " + ", ".join(key for key in keys if key.startswith(section + "."))
    return "`lorica config` lists all keys"


def _closest_entries(unknown_key: str) -> list[str]:
    """An entry of a table whose name is misspelt: `dta.algebra` is close to `data.algebra`."""
    segments = unknown_key.split(".")
    table_keys = {key_spec.key for key_spec in key_specs().values() if key_spec.value_type == "table"}
    for segment_count in range(len(segments) - 1, 0, -1):
        closest_table = closest(".".join(segments[:segment_count]), table_keys, least_ratio=0.75)
        if closest_table and closest_table.count(".") == segment_count - 1:
            return [".".join([closest_table, *segments[segment_count:]])]
    return []
