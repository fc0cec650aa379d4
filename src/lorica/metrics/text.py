"""Metrics of a short text against several accepted answers, as in SQuAD, for every script.

Normalisation is SQuAD's (lower case, no punctuation, no English articles, single spaces) after Unicode NFKC
and full case folding; on ASCII text it is SQuAD's own. Scripts written without spaces are compared character
by character.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence

import numpy as np

from lorica.metrics.base import Column, Evaluator, check_lengths, evaluate, mean_of

_ARTICLES = re.compile(r"\b(a|an|the)\b")

# Thai, Lao, Myanmar, Khmer, kana, and Han ideographs with their extensions: words are not separated by
# spaces.
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)


def exact_match(gold: Sequence[Sequence[str]], answer: Sequence[str | None]) -> float:
    """Share of rows whose normalised answer equals a normalised accepted one.

    gold: [n] of one or more accepted answers. answer: [n]; None is wrong. ValueError for a row without gold.
    """
    return evaluate(prepare_exact_match, gold, answer)


def token_f1(gold: Sequence[Sequence[str]], answer: Sequence[str | None]) -> float:
    """Mean over rows of the best F1 of the answer's words against those of an accepted answer.

    gold: [n] of one or more accepted answers. answer: [n]; None scores 0. ValueError for a row without gold.
    """
    return evaluate(prepare_token_f1, gold, answer)


def normalise_answer(text: str) -> str:
    """Lower case, without punctuation and English articles, words separated by one space."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    plain = "".join(each for each in folded if not _is_punctuation(each))
    return " ".join(_ARTICLES.sub(" ", plain).split())


def answer_tokens(text: str) -> list[str]:
    """The words that token_f1 compares; single characters in scripts without spaces."""
    return _UNSPACED.sub(lambda found: f" {found[0]} ", normalise_answer(text)).split()


def prepare_exact_match(gold: Column, answer: Column) -> Evaluator:
    """See `exact_match`."""
    check_lengths(gold, answer)
    return mean_of(np.array([_matches(*row) for row in zip(gold, answer, strict=True)], dtype=np.float64))


def prepare_token_f1(gold: Column, answer: Column) -> Evaluator:
    """See `token_f1`."""
    check_lengths(gold, answer)
    return mean_of(np.array([_overlap(*row) for row in zip(gold, answer, strict=True)], dtype=np.float64))


def _matches(accepted: Sequence[str], answer: str | None) -> float:
    _check(accepted)
    if answer is None:
        return 0.0
    given = normalise_answer(answer)
    return float(any(given == normalise_answer(each) for each in accepted))


def _overlap(accepted: Sequence[str], answer: str | None) -> float:
    _check(accepted)
    if answer is None:
        return 0.0
    given = answer_tokens(answer)
    return max(_f1(answer_tokens(each), given) for each in accepted)


def _f1(wanted: list[str], given: list[str]) -> float:
    if not wanted or not given:
        return float(wanted == given)
    common = sum((Counter(wanted) & Counter(given)).values())
    return 2 * common / (len(wanted) + len(given))


def _check(accepted: Sequence[str]) -> None:
    if isinstance(accepted, str) or not accepted:
        raise ValueError(f"gold must be a tuple of one or more accepted answers, got {accepted!r}")


def _is_punctuation(character: str) -> bool:
    # string.punctuation holds symbols such as $ and + that Unicode does not call punctuation, and SQuAD
    # drops.
    return character in string.punctuation or unicodedata.category(character).startswith("P")
