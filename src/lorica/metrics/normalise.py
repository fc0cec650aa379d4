"""When do two texts say the same? The normalisations that exact_match and token_f1 compare under, by name.

lorica (the default): numbers as numbers, symbols that carry meaning kept, and of case, punctuation and English articles
only what carries none; docs/metrics.md has the rules with examples. squad: SQuAD's own (lower case, no punctuation, no
English articles, single spaces) after Unicode NFKC and full case folding, for figures that are to stand beside
published ones; it drops signs and points.

Scripts written without spaces are compared character by character by token_f1.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Callable

import msgspec

from lorica.metrics.atoms import UNSPACED, compact, split_atoms, tokens
from lorica.names import fold_case


class Normalisation(msgspec.Struct, frozen=True):
    """text: what exact_match compares. tokens: what token_f1 counts. about: what it does, in a line."""

    name: str
    text: Callable[[str], str]
    tokens: Callable[[str], list[str]]
    about: str


def is_answer(text: object) -> bool:
    """Whether there is a text with a visible character in it; None, NaN, "" and white space are no answer."""
    return isinstance(text, str) and any(unicodedata.category(char)[0] not in "ZC" for char in text)


def _text(text: str) -> str:
    return compact(split_atoms(text)) or _plain(text)


def _tokens(text: str) -> list[str]:
    return tokens(split_atoms(text)) or _plain(text).split()


def _plain(text: str) -> str:
    """A text of nothing but punctuation: compared as it is."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


_ARTICLES = re.compile(r"\b(a|an|the)\b")


def _squad_text(text: str) -> str:
    plain = "".join(char for char in fold_case(text) if not _is_punctuation(char))
    return " ".join(_ARTICLES.sub(" ", plain).split())


def _squad_tokens(text: str) -> list[str]:
    return UNSPACED.sub(lambda match: f" {match[0]} ", _squad_text(text)).split()


def _is_punctuation(char: str) -> bool:
    # string.punctuation holds symbols such as $ and + that Unicode does not call punctuation, and SQuAD drops.
    return char in string.punctuation or unicodedata.category(char).startswith("P")


LORICA = Normalisation("lorica", _text, _tokens, "numbers compared as numbers, symbols that carry meaning kept")
SQUAD = Normalisation("squad", _squad_text, _squad_tokens, "SQuAD's own: signs, points and symbols dropped")
NORMALISATIONS = {normalisation.name: normalisation for normalisation in (LORICA, SQUAD)}
