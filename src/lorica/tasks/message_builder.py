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
        self._context = 0

    def add(self, segment_text: str) -> MessageBuilder:
        """Text that stays."""
        self._pieces.append(segment_text)
        self._length += len(segment_text)
        return self

    def mark_context(self) -> MessageBuilder:
        """Passages of a knowledge base go here; without a mark, to the beginning."""
        self._context = self._length
        return self

    def add_truncatable(self, segment_text: str) -> MessageBuilder:
        """A user's text, which truncation may cut."""
        if segment_text:
            self._trim.append((self._length, self._length + len(segment_text)))
        return self.add(segment_text)

    def add_protected(self, segment_text: str) -> MessageBuilder:
        """A question or a rule: it stays whole, unless it is longer than 200 words (or 1,200 characters). Of such
        a text truncation may cut the middle, never the first and last 40 words (or 240 characters)."""
        middle = _middle(segment_text)
        if middle:
            self._trim.append((self._length + middle[0], self._length + middle[1]))
        return self.add(segment_text)

    def build(self, message_role: Role) -> Message:
        """The finished message."""
        return Message(message_role, "".join(self._pieces), tuple(self._trim), self._context)


def _middle(segment_text: str) -> tuple[int, int] | None:
    """The characters that truncation may cut from a text that should stay whole; None for a normal one."""
    if len(segment_text) <= LONG_CHARS and len(segment_text.split()) <= LONG_WORDS:
        return None
    start, middle_end = _end_length(segment_text), len(segment_text) - _end_length(segment_text[::-1])
    inner_text = segment_text[start:middle_end]
    if not inner_text.strip():
        return None
    # White space stays, so that what is left of the ends never runs together.
    return start + len(inner_text) - len(inner_text.lstrip()), middle_end - (len(inner_text) - len(inner_text.rstrip()))


def _end_length(segment_text: str) -> int:
    """How many characters of the beginning stay: whole words where there are any of usual length."""
    word_matches = re.finditer(r"\S+", segment_text[: END_CHARS + 1])
    word_ends = [word_match.end() for word_match in islice(word_matches, END_WORDS) if word_match.end() <= END_CHARS]
    if len(word_ends) < END_WORDS and (not word_ends or word_ends[-1] < END_CHARS // 2):
        return END_CHARS
    return word_ends[-1]
