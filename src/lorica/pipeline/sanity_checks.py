"""A first look at a fresh adapter: is it whole, did it learn, does it do anything? (Proof is the vetting's job.)"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lorica.adapters.folder import open_adapter
from lorica.records import Answer
from lorica.training.types import TrainResult


@dataclass(frozen=True)
class Check:
    """One question to an adapter, the answer, and what was seen."""

    question: str
    passed: bool
    seen: str


def look(folder: Path, result: TrainResult, base: Mapping[str, Answer], adapted: Mapping[str, Answer]) -> list[Check]:
    """Checks on a trained adapter.

    base, adapted: answers to the same rows (by id) without and with the adapter. Raises AdapterError when the folder
    cannot be read at all.
    """
    adapter = open_adapter(folder)
    pairs = [(base[row_id], answer) for row_id, answer in adapted.items()]
    changed = sum(_content(before) != _content(after) for before, after in pairs)
    distinct = len({_content(after) for _, after in pairs})
    return [
        Check("is the folder whole?", True, f"{len(adapter.modules())} modules, rank {adapter.config.r}"),
        Check(
            "did it learn?",
            result.trained_loss < result.base_loss,
            f"loss per answer token {result.base_loss:.3f} without it, {result.trained_loss:.3f} with it",
        ),
        Check("does it change the base's answers?", changed > 0, f"{changed} of {len(pairs)} rows"),
        Check("does its output vary with the input?", distinct > 1, f"{distinct} different in {len(pairs)} rows"),
    ]


def _content(answer: Answer) -> tuple[object, ...]:
    scores = None if answer.scores is None else tuple(round(score, 6) for score in answer.scores.values())
    return answer.answer, answer.score, scores
