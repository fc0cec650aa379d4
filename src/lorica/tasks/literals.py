"""Cells that hold a list or an object written as text: JSON or a Python literal; capped, never evaluated."""

from __future__ import annotations

import ast
import io
import json
import re
import tokenize
import warnings
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import msgspec

from lorica.errors import CellError
from lorica.names import first_repeated

MAX_CHARS = 262_144
MAX_DEPTH = 32
_AS_JSON = """write it as JSON, ["first", "second"] or {"A": "first", "B": "second"}"""
_SIDE_BY_SIDE = re.compile(r"['\"]\s*[bru]{0,2}['\"]", re.IGNORECASE)
_LAYOUT = (tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
# How JSON writers and pandas spell values that no Python literal knows; NaN is how pandas holds what is missing.
_WORDS = {"nan": None, "NaN": None, "null": None, "true": True, "false": False}


def literal_cell(cell_value: object, column_name: str) -> list[Any] | dict[str, Any]:
    """A list or object as it is, or read from JSON text or a Python literal; a NaN inside is None, a tuple a list.

    Raises CellError for anything else, and for a key that an object has twice.
    """
    if isinstance(cell_value, (list, dict)):
        return cell_value
    _check(cell_value, column_name)
    cell_text = str(cell_value).strip()
    try:
        # First, since Python reads the escapes of a JSON text otherwise.
        parsed_cell = msgspec.json.decode(cell_text)
        if "{" in cell_text:  # of a key that is there twice msgspec keeps the last value
            json.loads(cell_text, object_pairs_hook=lambda members: _refuse_repeated_keys(members, column_name))
    except (msgspec.DecodeError, RecursionError) as error:
        try:
            parsed_cell = _python(cell_text, column_name)
        except CellError:
            raise
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError, tokenize.TokenError):
            raise CellError(
                f"{column_name!r} is not JSON ({error}) and no Python literal: {_shown(cell_value)}", fix=_AS_JSON
            ) from error
    if not isinstance(parsed_cell, (list, dict)):
        raise CellError(f"{column_name!r} must hold a list or an object, not {_shown(cell_value)}", fix=_AS_JSON)
    return parsed_cell


def _python(cell_text: str, column_name: str) -> object:
    """Literals only: numbers, strings, containers. Nothing in the text is run."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a strange escape in the user's text
        syntax_tree = ast.parse(cell_text, mode="eval")
    _refuse_missing_commas(cell_text, column_name)
    if cell_text.startswith("("):
        syntax_tree.body = _as_json_has_it(syntax_tree.body)
    for syntax_node in ast.walk(syntax_tree):
        if isinstance(syntax_node, ast.Dict):
            _refuse_repeated_keys(
                [(key_node.value, None) for key_node in syntax_node.keys if isinstance(key_node, ast.Constant)],
                column_name,
            )
        for child_nodes in (getattr(syntax_node, field_name, None) for field_name in ("elts", "keys", "values")):
            if isinstance(child_nodes, list):
                child_nodes[:] = map(_as_json_has_it, child_nodes)
    return ast.literal_eval(syntax_tree)


def _refuse_missing_commas(cell_text: str, column_name: str) -> None:
    """Python takes 'red' 'two' for one text. Raises CellError."""
    if not _SIDE_BY_SIDE.search(cell_text):
        return
    token_types = [
        token.type for token in tokenize.generate_tokens(io.StringIO(cell_text).readline) if token.type not in _LAYOUT
    ]
    if (tokenize.STRING, tokenize.STRING) in pairwise(token_types):
        raise CellError(
            f"{column_name!r} has texts side by side without a comma: {_shown(cell_text)}",
            fix=f"{_AS_JSON}; pandas writes a column of arrays so: df[{column_name!r}].map(list) makes lists of them",
        )


def _refuse_repeated_keys(members: Sequence[tuple[object, object]], column_name: str) -> None:
    """Raises CellError for a key that an object has twice, of which a reader would keep one value and drop the other.

    members: keys and values of the object.
    """
    member_keys = [member_key for member_key, _ in members]
    if len(set(member_keys)) < len(member_keys):  # None may be a key, too
        raise CellError(
            f"{column_name!r} has the key {_shown(first_repeated(member_keys))} twice in one object",
            fix="give every value a key of its own, or write a list",
        )


def _as_json_has_it(node: ast.expr) -> ast.expr:
    """A word of JSON or pandas as the value that it spells, a tuple as a list, any other expression as it is."""
    if isinstance(node, ast.Tuple):
        return ast.List(node.elts)
    return ast.Constant(_WORDS[node.id]) if isinstance(node, ast.Name) and node.id in _WORDS else node


def _check(value: object, column_name: str) -> None:
    if not isinstance(value, str):
        raise CellError(
            f"{column_name!r} is {type(value).__name__}, and must be a list, an object or text that holds one",
            fix=_AS_JSON,
        )
    if len(value) > MAX_CHARS:
        raise CellError(f"{column_name!r} has {len(value)} characters; at most {MAX_CHARS} are read", fix="shorten it")
    bracket_depth = 0
    for character in value:
        bracket_depth += (character in "[{(") - (character in "]})")
        if bracket_depth > MAX_DEPTH:
            raise CellError(f"{column_name!r} is nested more than {MAX_DEPTH} deep", fix="flatten it")


def _shown(cell_value: object) -> str:
    cell_text = str(cell_value)
    return repr(cell_text if len(cell_text) <= 60 else cell_text[:57] + "...")
