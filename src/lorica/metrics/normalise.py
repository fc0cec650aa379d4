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


def is_answer(answer: object) -> bool:
    """Whether there is a text with a visible character in it; None, NaN, "" and white space are no answer."""
    return isinstance(answer, str) and (
        answer[:1].isalnum()  # as most begin
        or any(unicodedata.category(character)[0] not in "ZC" for character in answer)
    )


def _text(answer_text: str) -> str:
    return compact(split_atoms(answer_text)) or _plain(answer_text)


def _tokens(answer_text: str) -> list[str]:
    return tokens(split_atoms(answer_text)) or _plain(answer_text).split()


def _plain(answer_text: str) -> str:
    """A text of nothing but punctuation: compared as it is."""
    return " ".join(unicodedata.normalize("NFKC", answer_text).casefold().split())


_ARTICLES = re.compile(r"\b(a|an|the)\b")


def _squad_text(answer_text: str) -> str:
    unpunctuated = "".join(character for character in fold_case(answer_text) if not _is_punctuation(character))
    # Combining marks that stood apart may be neighbours now: NFC gives them their one order.
    return " ".join(_ARTICLES.sub(" ", unicodedata.normalize("NFC", unpunctuated)).split())


def _squad_tokens(answer_text: str) -> list[str]:
    return UNSPACED.sub(lambda match: f" {match[0]} ", _squad_text(answer_text)).split()


def _is_punctuation(character: str) -> bool:
    # string.punctuation holds symbols such as $ and + that Unicode does not call punctuation, and SQuAD drops.
    return character in string.punctuation or unicodedata.category(character).startswith("P")


LORICA = Normalisation("lorica", _text, _tokens, "numbers compared as numbers, symbols that carry meaning kept")
SQUAD = Normalisation("squad", _squad_text, _squad_tokens, "SQuAD's own: signs, points and symbols dropped")
NORMALISATIONS = {normalisation.name: normalisation for normalisation in (LORICA, SQUAD)}
