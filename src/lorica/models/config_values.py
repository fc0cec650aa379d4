"""Values of a `config.json`, each of exactly the type that transformers takes there."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

OTHER_ENGINE = "use engine=transformers for this model"

Raw = Mapping[str, Any]


class UnsupportedError(Exception):
    """A config that asks for what the native decoder does not compute, or, with a fix of its own, whose keys contradict
    each other. fix: the way out."""

    def __init__(self, text: str, fix: str = OTHER_ENGINE) -> None:
        super().__init__(text)
        self.fix = fix


def positive(raw_config: Raw, key: str, default: int | None = None) -> int:
    """A positive whole number. Raises KeyError for an absent key without a default, ValueError."""
    value = raw_config[key] if default is None else raw_config.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise ValueError(f"{key} is {value!r}, not a positive whole number")
    return value


def number(raw_config: Raw, key: str, default: float | None = None) -> float:
    """A positive number. Raises KeyError for an absent key without a default, ValueError."""
    value = raw_config[key] if default is None else raw_config.get(key, default)
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise ValueError(f"{key} is {value!r}, not a number")
    if value <= 0:
        raise UnsupportedError(f"{key} {value!r} (only above 0)")
    return value


def fraction(raw_config: Raw, key: str, default: float) -> float:
    """A float, which no whole number is. Raises ValueError."""
    value = raw_config.get(key, default)
    if not isinstance(value, float) or not math.isfinite(value):
        raise ValueError(f"{key} is {value!r}, not a fraction such as {default}")
    return value


def flag(raw_config: Raw, key: str, default: bool = False) -> bool:
    """true or false. Raises ValueError: a text "false" would count as true."""
    value = raw_config.get(key, default)
    if not isinstance(value, bool):
        raise ValueError(f"{key} is {value!r}, not true or false")
    return value


def mapping(raw_config: Raw, key: str) -> Mapping[str, Any]:
    """An object, {} where there is none. Raises ValueError."""
    value = raw_config.get(key)
    if value is not None and not isinstance(value, dict):
        raise ValueError(f"{key} is {value!r}, not an object such as {{}}")
    return value or {}
