"""Cleaning a document's text: Unicode in one form, no invisible characters, no white space that says nothing."""

from __future__ import annotations

import re
import unicodedata

# Soft hyphens, zero-width marks, byte order marks: nobody sees them, and no question holds them.
_INVISIBLE = re.compile("[\u00ad\u200b\u2060\ufeff]")
_CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f]")
_LINE_END = re.compile("\r\n?|[\x0b\x0c\u0085\u2028\u2029]")
_BLANKS = re.compile(r"[^\S\n]+")
_BLANK_LINES = re.compile(r"\n{3,}")
_HYPHENATED = re.compile(r"(?<=[a-zà-ÿ])[-\u2010]\n(?=[a-zà-ÿ])")


class UnreadableError(Exception):
    """A document that is none of its format, is damaged, or holds no text. line: where, from 1."""

    def __init__(self, message: str, fix: str, line: int | None = None) -> None:
        super().__init__(message)
        self.message, self.fix, self.line = message, fix, line


def clean_text(text: str) -> str:
    """The text in NFC without soft hyphens, zero-width and control characters; lines without white space around them
    or runs of it within, and at most one blank line between two."""
    text = unicodedata.normalize("NFC", _LINE_END.sub("\n", text))
    text = _BLANKS.sub(" ", _CONTROL.sub("", _INVISIBLE.sub("", text)))
    return _BLANK_LINES.sub("\n\n", "\n".join(line.strip() for line in text.split("\n"))).strip()


def join_hyphenated(text: str) -> str:
    """The text of printed lines with the words joined that a line's end takes apart."""
    return _HYPHENATED.sub("", text)
