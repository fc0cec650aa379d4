"""Sanity checks of an adapter just trained: is it whole, did it learn, does it do anything? Proof is the vetting."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lorica.adapters.folder import AdapterFolder
from lorica.adapters.member import Member
from lorica.records import Answer
from lorica.training.types import TrainResult


@dataclass(frozen=True)
class SanityCheck:
    """One question about an adapter, whether it passed, and the figures behind that."""

    question: str
    passed: bool
    figures: str


def check_trained_adapter(
    adapter: Member, result: TrainResult, base_answers: Mapping[str, Answer], adapted: Mapping[str, Answer]
) -> list[SanityCheck]:
    """Sanity checks of a trained adapter.

    base, adapted: answers to the same rows (by id) without and with the adapter.
    """
    size = f"{len(adapter.tensors)} tensors"
    if isinstance(adapter, AdapterFolder):
        size = f"{len(adapter.modules())} modules, rank {adapter.config.r}"
    answer_pairs = [(base_answers[row_id], answer) for row_id, answer in adapted.items()]
    changed = sum(_answer_content(before) != _answer_content(after) for before, after in answer_pairs)
    distinct = len({_answer_content(after) for _, after in answer_pairs})
    return [
        SanityCheck("is the folder whole?", True, size),
        SanityCheck(
            "did it learn?",
            result.trained_loss < result.base_loss,
            f"loss per answer token {result.base_loss:.3f} without it, {result.trained_loss:.3f} with it",
        ),
        SanityCheck("does it change the base's answers?", changed > 0, f"{changed} of {len(answer_pairs)} rows"),
        SanityCheck(
            "does its output vary with the input?", distinct > 1, f"{distinct} different in {len(answer_pairs)} rows"
        ),
    ]


def _answer_content(answer: Answer) -> tuple[object, ...]:
    scores = None if answer.scores is None else tuple(round(choice_score, 6) for choice_score in answer.scores.values())
    return answer.answer, answer.score, scores
