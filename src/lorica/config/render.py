"""The resolved configuration as text: YAML that `config=FILE` reads back, each value with who set it."""

from __future__ import annotations

import re
from typing import Any

from lorica.config.compose import Resolved, escape
from lorica.names import visible

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*")
_NOT_TEXT = {"true", "false", "yes", "no", "on", "off", "null", "y", "n", "nan", "inf"}
_WIDEST = 72  # a longer value pushes its own comment to the right, not everybody's


def render_config(resolved: Resolved) -> str:
    """YAML with aligned values and comments; `lorica config ... > my.yaml` is a file for `config=my.yaml`."""
    presets = " ".join(f"{group}={name}" for group, name in resolved.presets.items())
    lines: list[tuple[str, str]] = []
    _lines(resolved.as_dict(), resolved.origins, "", 0, lines)
    width = max(len(text) for text, origin in lines if origin and len(text) <= _WIDEST)
    body = [f"{text:<{width}}  # {_comment(origin)}" if origin else text for text, origin in lines]
    return "\n".join([f"# presets: {presets}", *body]) + "\n"


def _lines(
    tree: dict[str, Any], origins: dict[str, str], prefix: str, depth: int, lines: list[tuple[str, str]]
) -> None:
    names = {name: scalar(name) + ":" for name in tree}
    width = max(
        (len(names[name]) for name, value in tree.items() if not value or not isinstance(value, dict)),
        default=0,
    )
    for name, value in tree.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict) and (value or key not in origins):
            lines.append((f"{'  ' * depth}{names[name]}", ""))
            _lines(value, origins, key + ".", depth + 1, lines)
        else:
            lines.append((f"{'  ' * depth}{names[name]:<{width}} {yaml_value(value)}", origins[key]))


def _comment(origin: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in visible(origin))


def yaml_value(value: Any) -> str:
    """A plain value on one line of YAML 1.1 or 1.2."""
    if isinstance(value, list):
        return f"[{', '.join(yaml_value(item) for item in value)}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{scalar(name)}: {yaml_value(item)}" for name, item in value.items()) + "}"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        text = repr(value)
        return text.replace("e", ".0e") if "e" in text and "." not in text else text  # YAML 1.1 wants the point
    if isinstance(value, str):
        return scalar(escape(value))
    return str(value)


def scalar(text: str) -> str:
    """A text as a YAML scalar, quoted where it could be read as anything else."""
    if _PLAIN.fullmatch(text) and text.casefold() not in _NOT_TEXT:
        return text
    return '"' + "".join(_escaped(letter) for letter in text) + '"'


def _escaped(letter: str) -> str:
    if letter in '"\\':
        return "\\" + letter
    if letter.isprintable():
        return letter
    return f"\\U{ord(letter):08x}"
