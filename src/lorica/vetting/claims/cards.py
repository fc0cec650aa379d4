"""Which base models a model card names in its front matter.

Only the keys that are needed are read, line by line; nothing of a card is parsed as YAML.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_MAX_LINES = 20_000
_MAX_LINE_LENGTH = 400
_MAX_BASES = 8
_PLACEHOLDERS = ("more information needed", "[more", "none", "null", "n/a", "...", "~")
_KEY = re.compile(r"([A-Za-z_][\w-]{0,40})\s{0,4}:(?:\s(.*))?")
_TAG = re.compile(r"base_model:(?:[a-z]+:)?\S")


def card_bases(card_text: str) -> tuple[str, ...]:
    """Ids of base models in a README.md's front matter: `base_model`, and tags that begin with it. Never raises."""
    lines = [line[:_MAX_LINE_LENGTH].rstrip("\r") for line in card_text.lstrip("\ufeff").split("\n")[:_MAX_LINES]]
    values: dict[str, list[str]] = {"base_model": [], "tags": []}
    for matter_key, value in _front_matter(lines):
        values.setdefault(matter_key, []).append(value)
    tagged = [tag.split(":")[-1] for tag in values["tags"] if _TAG.match(tag)]
    names_model = (base_name for base_name in (*values["base_model"], *tagged) if _is_filled_in(base_name))
    return tuple(dict.fromkeys(names_model))[:_MAX_BASES]


def _front_matter(lines: list[str]) -> Iterator[tuple[str, str]]:
    """(key, value) of scalars and plain lists between the two lines of dashes."""
    stripped = [line.strip() for line in lines]
    if not stripped or stripped[0] != "---" or "---" not in stripped[1:]:
        return
    matter_key = ""
    for line in lines[1 : stripped.index("---", 1)]:
        if key_match := _KEY.fullmatch(line):
            matter_key = key_match[1]
            yield from ((matter_key, value) for value in _scalars(key_match[2] or ""))
        elif list_entry := re.fullmatch(r"\s*-\s(.*)", line):
            yield from ((matter_key, value) for value in _scalars(list_entry[1]))


def _scalars(yaml_text: str) -> Iterator[str]:
    yaml_text = yaml_text.strip()
    entries = yaml_text[1:-1].split(",") if yaml_text.startswith("[") and yaml_text.endswith("]") else [yaml_text]
    for entry in entries:
        scalar = re.sub(r"\s#.*$", "", entry).strip().strip("'\"").strip()
        if scalar and not scalar.startswith(("&", "*", "!", "|", ">")):
            yield scalar[:200]


def _is_filled_in(base_name: str) -> bool:
    return not base_name.lower().startswith(_PLACEHOLDERS) and any(map(str.isalpha, base_name))
