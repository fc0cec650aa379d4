"""What the schema says about its keys, read from the docstrings beneath its fields."""

from __future__ import annotations

import ast
import inspect
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, NamedTuple

from lorica.config import schema
from lorica.config.fields import key_name, leaves
from lorica.config.render import yaml_value


class KeyDoc(NamedTuple):
    """One key for people: `doc` is the field's docstring on one line."""

    key: str
    type: str
    default: str
    doc: str


def describe_keys() -> list[KeyDoc]:
    """Every key with its type and range, its default and its meaning, in the order of the schema."""
    docs = _field_docs()
    return [KeyDoc(leaf.key, leaf.takes(), yaml_value(leaf.default), docs[leaf.key]) for leaf in leaves().values()]


def split_unit(doc: str) -> tuple[str, str]:
    """A docstring as its text and its unit; "" where it names none ("Unit: none" is a number without one)."""
    text, separator, unit = doc.partition(" Unit: ")
    return (text, unit.rstrip(".")) if separator else (doc, "")


@cache
def section_docs() -> dict[str, str]:
    """Section -> what it holds: the docstring of its dataclass."""
    classes = _classes()
    return {
        key_name(spec): ast.get_docstring(classes[type(value).__name__]) or ""
        for spec in fields(schema.Config)
        if is_dataclass(value := getattr(schema.Config(), spec.name))
    }


def _field_docs() -> dict[str, str]:
    docs: dict[str, str] = {}
    _collect(schema.Config(), "", _classes(), docs)
    return docs


def _classes() -> dict[str, ast.ClassDef]:
    tree = ast.parse(inspect.getsource(schema))
    return {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}


def _collect(node: Any, prefix: str, classes: dict[str, ast.ClassDef], docs: dict[str, str]) -> None:
    body = classes[type(node).__name__].body
    texts: dict[str, str] = {}
    for statement, following in zip(body, [*body[1:], None], strict=True):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            texts[statement.target.id] = _docstring(following)
    for spec in fields(node):
        value = getattr(node, spec.name)
        if is_dataclass(value):
            _collect(value, f"{prefix}{key_name(spec)}.", classes, docs)
        else:
            docs[prefix + spec.name] = texts[spec.name]


def _docstring(statement: ast.stmt | None) -> str:
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
        return " ".join(str(statement.value.value).split())
    return ""
