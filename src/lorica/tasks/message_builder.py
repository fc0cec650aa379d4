"""Building a prompt message piece by piece, with the spans that truncation may cut."""

from __future__ import annotations

import re
from itertools import islice

from lorica.records import Message, Role

# From here on a question or a rule counts as pathologically long. Characters count for scripts without spaces.
LONG_WORDS, LONG_CHARS = 200, 1200
# What always stays of each end of such a text.
END_WORDS, END_CHARS = 40, 240


class MessageBuilder:
    """A message being written."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._length = 0
        self._trim: list[tuple[int, int]] = []

    def add(self, text: str) -> MessageBuilder:
        """Text that stays."""
        self._pieces.append(text)
        self._length += len(text)
        return self

    def add_truncatable(self, text: str) -> MessageBuilder:
        """A user's text, which truncation may cut."""
        if text:
            self._trim.append((self._length, self._length + len(text)))
        return self.add(text)

    def add_protected(self, text: str) -> MessageBuilder:
        """A question or a rule: it stays whole, unless it is longer than 200 words (or 1,200 characters). Of such
        a text truncation may cut the middle, never the first and last 40 words (or 240 characters)."""
        middle = _middle(text)
        if middle:
            self._trim.append((self._length + middle[0], self._length + middle[1]))
        return self.add(text)

    def build(self, role: Role) -> Message:
        """The finished message."""
        return Message(role, "".join(self._pieces), tuple(self._trim))


def _middle(text: str) -> tuple[int, int] | None:
    """The characters that truncation may cut from a text that should stay whole; None for a normal one."""
    if len(text) <= LONG_CHARS and len(text.split()) <= LONG_WORDS:
        return None
    start, stop = _end_length(text), len(text) - _end_length(text[::-1])
    inner = text[start:stop]
    if not inner.strip():
        return None
    # White space stays, so that what is left of the ends never runs together.
    return start + len(inner) - len(inner.lstrip()), stop - (len(inner) - len(inner.rstrip()))


def _end_length(text: str) -> int:
    """How many characters of the beginning stay: whole words where there are any of usual length."""
    words = re.finditer(r"\S+", text[: END_CHARS + 1])
    ends = [word.end() for word in islice(words, END_WORDS) if word.end() <= END_CHARS]
    if len(ends) < END_WORDS and (not ends or ends[-1] < END_CHARS // 2):
        return END_CHARS
    return ends[-1]
