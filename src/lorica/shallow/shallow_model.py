"""What every shallow model does, whatever it is made of, and how it is kept in its folder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from lorica.adapters.shallow_folder import Doubles, ShallowKind
from lorica.shallow.row_texts import RowTexts

RowAnswer = tuple[float, ...] | str
"""The probabilities of a row's choices, label 1 first where there are labels; or why the row cannot be answered."""


class ShallowModel(Protocol):
    """A fitted shallow model."""

    @property
    def kind(self) -> ShallowKind: ...

    def answer(self, rows: Sequence[RowTexts]) -> list[RowAnswer]:
        """Answers in the order of the rows; a row's is the same to the last bit whatever the other rows are."""
        ...

    def arrays(self) -> dict[str, Doubles]:
        """What it keeps in `member.safetensors`."""
        ...

    def vocabularies(self) -> dict[str, list[str]] | None:
        """What it keeps in `vocabulary.json`; None for a model without n-grams."""
        ...

    def facts(self) -> dict[str, object]:
        """What it keeps in `member.json`, as plain values."""
        ...
