"""An index of given passages, for tests of what stands on one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from lorica.errors import RetrievalError
from lorica.retrieval.passages import Passage, text_digest


def passages(*texts: str, source: str = "book") -> list[Passage]:
    """Passages with falling scores."""
    return [
        Passage(f"p{number}", text, source, float(len(texts) - number), text_digest(text))
        for number, text in enumerate(texts)
    ]


@dataclass
class StubIndex:
    """Gives the same passages to every question, and fails at those that are named."""

    found: Sequence[Passage]
    digest: str = "sha256:1"
    mode: str = "bm25"
    fails_at: tuple[int, ...] = ()  # numbers of look-ups, from 0 on
    asked: list[str] = field(default_factory=list)

    def query(self, text: str, top_k: int) -> list[Passage]:
        self.asked.append(text)
        if len(self.asked) - 1 in self.fails_at:
            raise RetrievalError("kb/geography: page 3 is damaged", fix="build it again")
        return list(self.found[:top_k])
