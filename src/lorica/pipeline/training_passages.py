"""Passages before training rows, rendered as for inference: a row's own among others that resemble it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from lorica.errors import RetrievalError
from lorica.pipeline.retrieve import RETRIEVAL_FAILED, Retriever
from lorica.prompts.encoder import Encoder
from lorica.prompts.with_passages import PromptWithPassages, encode_with_passages
from lorica.records import Encoded, Row
from lorica.tasks.base import Task

# Passages of a look-up among which a row's own is sought.
_CANDIDATES = 50


@dataclass(frozen=True)
class TrainingPassages:
    """Looks up what stands before training rows.

    distractors: passages of other documents beside the row's own. seed: with the row's id it decides their order, so
    that the right passage is not told by its place.
    """

    retriever: Retriever
    distractors: int
    seed: int

    def manifest(self) -> dict[str, str]:
        """What a resumed training must share, as text."""
        return self.retriever.manifest() | {"retrieval.distractors": str(self.distractors)}

    def encode(
        self, task: Task, encoder: Encoder, row: Row, *, answer: str, max_tokens: int, truncate: str, limit_key: str
    ) -> Encoded:
        """The row with passages and its answer. `dropped` counts tokens of the row's own text alone.

        A row that names its document gets that document's best passage and distractors; where the look-up does not find
        it, distractors alone. Any other row gets what inference would give it. Raises RetrievalError for a look-up that
        fails, PromptError as `Encoder.encode` does.
        """
        passages = self._passages(task, row)

        def fit(passage_texts: Sequence[str]) -> PromptWithPassages:
            return encode_with_passages(
                encoder,
                task.render(row),
                passage_texts,
                answer=answer,
                max_tokens=max_tokens,
                passage_tokens=self.retriever.max_tokens,
                truncate=truncate,
                limit_key=limit_key,
                generated=task.choices(row) is None,
            )

        fitted = fit(passages)
        if not row.document or fitted.shown < 2:
            return fitted.encoded
        shuffled = random.Random(f"{self.seed}\0{row.id}").sample(passages[: fitted.shown], fitted.shown)
        reordered = fit(shuffled)
        return reordered.encoded if reordered.shown == fitted.shown else fitted.encoded

    def _passages(self, task: Task, row: Row) -> list[str]:
        """The row's own first, so that the others are dropped before it."""
        look_up = self.retriever.look_up(row.subject, task.retrieval_query(row), _CANDIDATES if row.document else None)
        if look_up.flag == RETRIEVAL_FAILED:
            raise RetrievalError(f"row {row.id!r}: {look_up.problem}", fix="training needs the whole knowledge base")
        passages = look_up.passages or ()
        if row.document:
            own = [passage for passage in passages if passage.source == row.document]
            others = [passage for passage in passages if passage.source != row.document]
            passages = (*own[:1], *others[: self.distractors])
        return [passage.text.strip() for passage in passages]
