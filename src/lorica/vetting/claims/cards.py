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


def card_bases(text: str) -> tuple[str, ...]:
    """Ids of base models in a README.md's front matter: `base_model`, and tags that begin with it. Never raises."""
    lines = [line[:_MAX_LINE_LENGTH].rstrip("\r") for line in text.lstrip("\ufeff").split("\n")[:_MAX_LINES]]
    values: dict[str, list[str]] = {"base_model": [], "tags": []}
    for key, value in _front_matter(lines):
        values.setdefault(key, []).append(value)
    tagged = [tag.split(":")[-1] for tag in values["tags"] if _TAG.match(tag)]
    names_model = (base for base in (*values["base_model"], *tagged) if _is_filled_in(base))
    return tuple(dict.fromkeys(names_model))[:_MAX_BASES]


def _front_matter(lines: list[str]) -> Iterator[tuple[str, str]]:
    """(key, value) of scalars and plain lists between the two lines of dashes."""
    stripped = [line.strip() for line in lines]
    if not stripped or stripped[0] != "---" or "---" not in stripped[1:]:
        return
    key = ""
    for line in lines[1 : stripped.index("---", 1)]:
        if match := _KEY.fullmatch(line):
            key = match[1]
            yield from ((key, value) for value in _scalars(match[2] or ""))
        elif list_entry := re.fullmatch(r"\s*-\s(.*)", line):
            yield from ((key, value) for value in _scalars(list_entry[1]))


def _scalars(text: str) -> Iterator[str]:
    text = text.strip()
    entries = text[1:-1].split(",") if text.startswith("[") and text.endswith("]") else [text]
    for entry in entries:
        value = re.sub(r"\s#.*$", "", entry).strip().strip("'\"").strip()
        if value and not value.startswith(("&", "*", "!", "|", ">")):
            yield value[:200]


def _is_filled_in(base: str) -> bool:
    return not base.lower().startswith(_PLACEHOLDERS) and any(map(str.isalpha, base))
