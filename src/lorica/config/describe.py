"""What the schema says about its keys, read from the docstrings beneath its fields."""

from __future__ import annotations

import ast
import inspect
import sys
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, NamedTuple

from lorica.config import schema
from lorica.config.fields import key_name, key_specs
from lorica.config.render import yaml_value


class KeyDoc(NamedTuple):
    """One key for people: `docstring` is the field's docstring on one line."""

    key: str
    type: str
    default: str
    docstring: str


def describe_keys() -> list[KeyDoc]:
    """Every key with its type and range, its default and its meaning, in the order of the schema."""
    docs_by_key: dict[str, str] = {}
    _collect(schema.Config(), "", _classes(), docs_by_key)
    return [
        KeyDoc(spec.key, spec.takes(), yaml_value(spec.default), docs_by_key[spec.key]) for spec in key_specs().values()
    ]


def split_unit(docstring: str) -> tuple[str, str]:
    """A docstring as its text and its unit; "" where it names none ("Unit: none" is a number without one)."""
    meaning, separator, unit_name = docstring.partition(" Unit: ")
    return (meaning, unit_name.rstrip(".")) if separator else (docstring, "")


@cache
def section_docs() -> dict[str, str]:
    """Section -> what it holds: the docstring of its dataclass."""
    classes = _classes()
    return {
        key_name(schema_field): ast.get_docstring(classes[type(section).__name__]) or ""
        for schema_field in fields(schema.Config)
        if is_dataclass(section := getattr(schema.Config(), schema_field.name))
    }


def _classes() -> dict[str, ast.ClassDef]:
    """The dataclasses of the schema by name, from the files of its sections."""
    sections = filter(is_dataclass, vars(schema.Config()).values())
    modules = {schema.__name__, *(type(section).__module__ for section in sections)}
    nodes = [node for module in modules for node in ast.parse(inspect.getsource(sys.modules[module])).body]
    return {class_node.name: class_node for class_node in nodes if isinstance(class_node, ast.ClassDef)}


def _collect(section: Any, key_prefix: str, classes: dict[str, ast.ClassDef], docs_by_key: dict[str, str]) -> None:
    class_body = classes[type(section).__name__].body
    docstrings: dict[str, str] = {}
    for statement, following in zip(class_body, [*class_body[1:], None], strict=True):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            docstrings[statement.target.id] = _docstring(following)
    for schema_field in fields(section):
        field_value = getattr(section, schema_field.name)
        if is_dataclass(field_value):
            _collect(field_value, f"{key_prefix}{key_name(schema_field)}.", classes, docs_by_key)
        else:
            docs_by_key[key_prefix + schema_field.name] = docstrings[schema_field.name]


def _docstring(statement: ast.stmt | None) -> str:
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
        return " ".join(str(statement.value.value).split())
    return ""
