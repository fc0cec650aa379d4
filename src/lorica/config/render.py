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
    presets = " ".join(f"{group_name}={preset_name}" for group_name, preset_name in resolved.presets.items())
    config_lines: list[tuple[str, str]] = []
    _lines(resolved.as_dict(), resolved.origins, "", 0, config_lines)
    text_width = max(len(text) for text, origin in config_lines if origin and len(text) <= _WIDEST)
    body_lines = [f"{text:<{text_width}}  # {_comment(origin)}" if origin else text for text, origin in config_lines]
    return "\n".join([f"# presets: {presets}", *body_lines]) + "\n"


def _lines(
    tree: dict[str, Any], origins: dict[str, str], key_prefix: str, depth: int, config_lines: list[tuple[str, str]]
) -> None:
    labels_by_name = {name: scalar(name) + ":" for name in tree}
    label_width = max(
        (len(labels_by_name[name]) for name, value in tree.items() if not value or not isinstance(value, dict)),
        default=0,
    )
    for name, value in tree.items():
        config_key = f"{key_prefix}{name}"
        if isinstance(value, dict) and (value or config_key not in origins):
            config_lines.append((f"{'  ' * depth}{labels_by_name[name]}", ""))
            _lines(value, origins, config_key + ".", depth + 1, config_lines)
        else:
            config_lines.append(
                (f"{'  ' * depth}{labels_by_name[name]:<{label_width}} {yaml_value(value)}", origins[config_key])
            )


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


def scalar(plain_text: str) -> str:
    """A text as a YAML scalar, quoted where it could be read as anything else."""
    if _PLAIN.fullmatch(plain_text) and plain_text.casefold() not in _NOT_TEXT:
        return plain_text
    return '"' + "".join(_escaped(letter) for letter in plain_text) + '"'


def _escaped(letter: str) -> str:
    if letter in '"\\':
        return "\\" + letter
    if letter.isprintable():
        return letter
    return f"\\U{ord(letter):08x}"
