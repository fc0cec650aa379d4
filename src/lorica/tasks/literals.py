"""Cells that hold a list or an object written as text: JSON or a Python literal; capped, never evaluated."""

from __future__ import annotations

import ast
import io
import re
import tokenize
import warnings
from itertools import pairwise
from typing import Any

import msgspec

from lorica.errors import CellError

MAX_CHARS = 262_144
MAX_DEPTH = 32
_AS_JSON = """write it as JSON, ["first", "second"] or {"A": "first", "B": "second"}"""
_SIDE_BY_SIDE = re.compile(r"['\"]\s*[bru]{0,2}['\"]", re.IGNORECASE)
_LAYOUT = (tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
# How JSON writers and pandas spell values that no Python literal knows; NaN is how pandas holds what is missing.
_WORDS = {"nan": None, "NaN": None, "null": None, "true": True, "false": False}


def literal_cell(value: object, name: str) -> list[Any] | dict[str, Any]:
    """A list or object as it is, or read from JSON text or a Python literal; a NaN inside is None.

    Raises CellError for anything else.
    """
    if isinstance(value, (list, dict)):
        return value
    _check(value, name)
    text = str(value).strip()
    try:
        # First, since Python reads the escapes of a JSON text otherwise.
        cell = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        try:
            cell = _python(text, name)
        except CellError:
            raise
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError, tokenize.TokenError):
            raise CellError(
                f"{name!r} is not JSON ({error}) and no Python literal: {_shown(value)}", fix=_AS_JSON
            ) from error
    if not isinstance(cell, (list, dict)):
        raise CellError(f"{name!r} must hold a list or an object, not {_shown(value)}", fix=_AS_JSON)
    return cell


def _python(text: str, name: str) -> object:
    """Literals only: numbers, strings, containers. Nothing in the text is run."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a strange escape in the user's text
        tree = ast.parse(text, mode="eval")
    _refuse_missing_commas(text, name)
    for node in ast.walk(tree):
        for items in (getattr(node, field, None) for field in ("elts", "keys", "values")):
            if isinstance(items, list):
                items[:] = map(_word, items)
    return ast.literal_eval(tree)


def _refuse_missing_commas(text: str, name: str) -> None:
    """Python takes 'red' 'two' for one text. Raises CellError."""
    if not _SIDE_BY_SIDE.search(text):
        return
    kinds = [token.type for token in tokenize.generate_tokens(io.StringIO(text).readline) if token.type not in _LAYOUT]
    if (tokenize.STRING, tokenize.STRING) in pairwise(kinds):
        raise CellError(
            f"{name!r} has texts side by side without a comma: {_shown(text)}",
            fix=f"{_AS_JSON}; pandas writes a column of arrays so: df[{name!r}].map(list) makes lists of them",
        )


def _word(node: ast.expr) -> ast.expr:
    return ast.Constant(_WORDS[node.id]) if isinstance(node, ast.Name) and node.id in _WORDS else node


def _check(value: object, name: str) -> None:
    if not isinstance(value, str):
        raise CellError(
            f"{name!r} is {type(value).__name__}, and must be a list, an object or text that holds one", fix=_AS_JSON
        )
    if len(value) > MAX_CHARS:
        raise CellError(f"{name!r} has {len(value)} characters; at most {MAX_CHARS} are read", fix="shorten it")
    depth = 0
    for char in value:
        depth += (char in "[{(") - (char in "]})")
        if depth > MAX_DEPTH:
            raise CellError(f"{name!r} is nested more than {MAX_DEPTH} deep", fix="flatten it")


def _shown(value: object) -> str:
    text = str(value)
    return repr(text if len(text) <= 60 else text[:57] + "...")
