"""Writing a message piece by piece, remembering which pieces truncation may cut."""

from __future__ import annotations

from lorica.records import Message, Role


class Draft:
    """A message being written."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._length = 0
        self._trim: list[tuple[int, int]] = []

    def add(self, text: str) -> Draft:
        """Text that stays."""
        self._pieces.append(text)
        self._length += len(text)
        return self

    def add_long(self, text: str) -> Draft:
        """A user's text, which truncation may cut."""
        if text:
            self._trim.append((self._length, self._length + len(text)))
        return self.add(text)

    def message(self, role: Role) -> Message:
        """The finished message."""
        return Message(role, "".join(self._pieces), tuple(self._trim))
