"""The terms of BM25: words without case, width and punctuation; of scripts without spaces, characters and their pairs.

SQLite splits no Chinese, so that a question would have to repeat a sentence; therefore the index holds these terms in
place of the text, and its own tokenizer only takes them apart at the spaces.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import pairwise

from lorica.data.near_duplicates import normalise_text

MAX_TERM = 64
"""Characters of a term; what is longer (data in base64, say) is cut, in texts and questions alike."""

MAX_QUERY_TERMS = 128
"""Distinct terms of a question that are looked up: of more, those in the fewest passages."""

# Han, kana, Hangul, Thai, Lao, Khmer, Burmese: written without spaces, or with endings that no space sets apart.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
    "\U00020000-\U0003ffff"
)
_RUN = re.compile(f"[{_UNSPACED}]+|[^{_UNSPACED}]+")
_HAS_UNSPACED = re.compile(f"[{_UNSPACED}]")
# Marks that writers set or leave: Arabic vowel signs and the stroke that lengthens, Hebrew points.
_OPTIONAL = re.compile(
    "[\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0610-\u061a\u0640\u064b-\u065f\u0670\u06d6-\u06ed]"
)
_ASCII_MARK = re.compile(r"[\x00-\x2f\x3a-\x40\x5b-\x60\x7b-\x7f]")


def lexical_tokens(text: str) -> list[str]:
    """The terms of a text or a question, in its order. None of them holds a mark that SQLite reads as syntax."""
    tokens = []
    for word in _evened_out(text).split():
        if _ASCII_MARK.search(word):
            continue  # a text of marks alone stays as it is when normalised
        if not _HAS_UNSPACED.search(word):
            tokens.append(word[:MAX_TERM])
            continue
        for run in _RUN.findall(word):
            tokens.extend(_pairs(run) if _HAS_UNSPACED.match(run) else [run[:MAX_TERM]])
    return tokens


def telling_terms(counts: Mapping[str, int], passage_count: int) -> list[str]:
    """The terms of a question that are looked up, the rarest first. counts: term -> passages that hold it, where any
    does. One in more than half of the passages tells nothing and is looked up only where there is no other."""
    rare = {term: count for term, count in counts.items() if 2 * count <= passage_count}
    usable = rare or counts
    return sorted(usable, key=lambda term: (usable[term], term))[:MAX_QUERY_TERMS]


def _evened_out(text: str) -> str:
    normalised = normalise_text(text)
    if normalised.isascii():
        return normalised
    return _OPTIONAL.sub("", normalised).replace("i\u0307", "i").replace("ı", "i")  # Turkish İ and ı, as others write


def _pairs(run: str) -> Iterator[str]:
    yield from run
    yield from map("".join, pairwise(run))
