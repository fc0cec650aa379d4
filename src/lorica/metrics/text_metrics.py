"""Metrics of a short text against several accepted answers, compared under a named normalisation: each is the mean of
one value a row.

No answer (None, NaN, an empty text) equals nothing, whatever the accepted answers become under the normalisation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from lorica.metrics.abstention import abstains
from lorica.metrics.base import Column, Floats, RowValues, check_lengths
from lorica.metrics.normalise import Normalisation, is_answer
from lorica.metrics.number_words import with_numerals
from lorica.metrics.stated_answer import gold_quantity, stated_answers, stated_quantity


def exact_match(normalisation: Normalisation) -> RowValues:
    """1 where the normalised answer equals a normalised accepted one, else 0. Each metric of texts takes gold answers,
    [n] of one or more accepted ones, and answers [n]; no answer is wrong. ValueError for a row without gold."""

    def matches(accepted: str, answer: str) -> float:
        return float(normalisation.text(accepted) == normalisation.text(answer))

    return _best_of(matches)


def token_f1(normalisation: Normalisation) -> RowValues:
    """The best F1 of the answer's words against those of an accepted answer."""

    def overlap(accepted: str, answer: str) -> float:
        return _f1(normalisation.tokens(accepted), normalisation.tokens(answer))

    return _best_of(overlap)


def answer_match(normalisation: Normalisation) -> RowValues:
    """1 where the answer, or the final answer that it states, equals an accepted one: as normalised text with numbers
    in words read as digits, or as a number. An abstention answers what gold calls not answerable, and no more."""

    def comparable(text: str) -> str:
        return normalisation.text(with_numerals(text))

    def matches(accepted: str, answer: str) -> float:
        if abstains(accepted):
            return float(abstains(answer))
        readings = (answer, *stated_answers(answer))
        return float(any(comparable(accepted) == comparable(reading) for reading in readings)) or equal_numbers(
            accepted, answer
        )

    return _best_of(matches)


def equal_numbers(accepted: str, answer: str) -> float:
    """1.0 where an answer states the number that is accepted, within `stated_answer.TOLERANCE` and with its unit."""
    wanted, stated = gold_quantity(accepted), stated_quantity(answer)
    return float(wanted is not None and stated is not None and stated.equals(wanted))


def has_number(accepted: Sequence[str]) -> bool:
    """Whether an accepted answer is a number, so that `numeric_equality` is defined on the row."""
    return any(gold_quantity(text) is not None for text in accepted)


def numeric_equality(gold_answers: Column, answers: Column) -> Floats:
    """1 where the answer states the accepted number; of the accepted answers one is a number."""
    return _best_of(equal_numbers)(gold_answers, answers)


def _best_of(compare: Callable[[str, str], float]) -> RowValues:
    """The best comparison with an accepted answer, 0 for rows without an answer."""

    def best_values(gold_answers: Column, answers: Column) -> Floats:
        check_lengths(gold_answers, answers)
        for accepted in gold_answers:
            if isinstance(accepted, str) or not accepted:
                raise ValueError(f"gold must be a tuple of one or more accepted answers, got {accepted!r}")
        answer_pairs = zip(gold_answers, answers, strict=True)
        best_scores = [
            max(compare(accepted_text, prediction) for accepted_text in accepted) if is_answer(prediction) else 0.0
            for accepted, prediction in answer_pairs
        ]
        return np.array(best_scores, dtype=np.float64)

    return best_values


def _f1(accepted: list[str], answer: list[str]) -> float:
    if not accepted or not answer:
        return float(accepted == answer)
    common_count = sum((Counter(accepted) & Counter(answer)).values())
    return 2 * common_count / (len(accepted) + len(answer))
