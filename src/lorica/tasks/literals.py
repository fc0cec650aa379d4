"""Cells that hold a list or an object written as text: JSON or a Python literal; capped, never evaluated."""

from __future__ import annotations

import ast
from typing import Any

import msgspec

MAX_CHARS = 262_144
MAX_DEPTH = 32


def json_cell(value: object, name: str) -> Any:
    """A list or object as it is, or read from JSON text. Raises ValueError for anything else."""
    if isinstance(value, (list, dict)):
        return value
    _check(value, name)
    try:
        found = msgspec.json.decode(str(value))
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(f"{name!r} is not JSON ({error}): {_shown(value)}") from error
    if not isinstance(found, (list, dict)):
        raise ValueError(f"{name!r} must hold a JSON list or object, not {_shown(value)}")
    return found


def literal_cell(value: object, name: str) -> Any:
    """As `json_cell`, and it reads Python literals too. Raises ValueError for anything else."""
    if isinstance(value, (list, dict)):
        return value
    _check(value, name)
    text = str(value).strip()
    try:
        # Literals only: numbers, strings, containers. Nothing in the text is run.
        found = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return json_cell(text, name)
    if not isinstance(found, (list, dict)):
        raise ValueError(f"{name!r} must hold a list or an object, not {_shown(value)}")
    return found


def _check(value: object, name: str) -> None:
    if not isinstance(value, str):
        raise ValueError(f"{name!r} is {type(value).__name__}, and must be a list, an object or text that holds one")
    if len(value) > MAX_CHARS:
        raise ValueError(f"{name!r} has {len(value)} characters; at most {MAX_CHARS} are read")
    depth = 0
    for char in value:
        depth += (char in "[{(") - (char in "]})")
        if depth > MAX_DEPTH:
            raise ValueError(f"{name!r} is nested more than {MAX_DEPTH} deep")


def _shown(value: object) -> str:
    text = str(value)
    return repr(text if len(text) <= 60 else text[:57] + "...")
