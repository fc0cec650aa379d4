"""Passages for rows: one index for each subject, and a look-up that never stops a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from lorica.errors import LoricaError
from lorica.names import subject_key
from lorica.prompts.with_passages import PromptWithPassages
from lorica.records import UsedPassage
from lorica.retrieval.passages import Passage

NO_RETRIEVAL = "no_retrieval"
RETRIEVAL_FAILED = "retrieval_failed"


class PassageIndex(Protocol):
    """What `retrieval.index.Index` offers: the passages of one subject. digest: of all that it holds. mode: how it is
    asked."""

    @property
    def digest(self) -> str: ...

    @property
    def mode(self) -> str: ...

    def query(self, text: str, top_k: int) -> Sequence[Passage]:
        """At most `top_k` passages, the best first. Raises RetrievalError where the index cannot be read."""
        ...


@dataclass(frozen=True)
class LookUp:
    """What a look-up gave. passages: the best first; None where there was none, and `flag` says why. problem: of a
    look-up that failed, in words."""

    passages: tuple[Passage, ...] | None = None
    flag: str = ""
    problem: str = ""

    @property
    def texts(self) -> list[str]:
        return [passage.text.strip() for passage in self.passages or ()]

    def used(self, prompt: PromptWithPassages) -> tuple[UsedPassage, ...] | None:
        """The passages that stand in a prompt, for its answer."""
        if self.passages is None:
            return None
        return tuple(
            UsedPassage(passage.id, passage.source, passage.score, passage.digest, prompt.cut_tokens)
            for passage in self.passages[: prompt.shown]
        )


NO_LOOK_UP = LookUp()
"""Of a row that is answered without retrieval."""


class Retriever:
    """Looks passages up, each row in the index of its own subject alone.

    indexes: `names.subject_key` of a subject -> its index. top_k: passages of one look-up. min_score: below it a
    passage is left out. max_tokens: room in a prompt for all of them.
    """

    def __init__(
        self, indexes: Mapping[str, PassageIndex], *, top_k: int, min_score: float = 0.0, max_tokens: int
    ) -> None:
        self.indexes = dict(indexes)
        self.top_k, self.min_score, self.max_tokens = top_k, min_score, max_tokens

    def look_up(self, subject: str, query: str, top_k: int | None = None) -> LookUp:
        """The passages for a question. top_k: in place of the retriever's own. Never raises: a look-up that fails is
        answered without passages, and flagged."""
        index = self.indexes.get(subject_key(subject)) if subject else None
        if index is None:
            return LookUp(flag=NO_RETRIEVAL)
        try:
            passages = index.query(query, top_k or self.top_k)
        except (LoricaError, OSError, ValueError, RuntimeError) as error:
            return LookUp(flag=RETRIEVAL_FAILED, problem=f"the look-up of passages failed: {error}")
        return LookUp(tuple(passage for passage in passages if passage.score >= self.min_score))

    def manifest(self) -> dict[str, str]:
        """All that decides which passages a row gets, as text. Folders are not in it: they may be renamed."""
        entries: dict[str, object] = {"top_k": self.top_k, "min_score": self.min_score, "max_tokens": self.max_tokens}
        for subject, index in sorted(self.indexes.items()):
            entries |= {f"index.{subject}": f"{index.digest} {index.mode}"}
        return {f"retrieval.{key}": str(value) for key, value in entries.items()}
