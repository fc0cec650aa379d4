"""BM25 written out by its formula, which the index's is held to in tests and bench."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from lorica.retrieval.lexical_tokens import lexical_tokens

_K1, _B = 1.2, 0.75


class ReferenceBm25:
    """Scores of a question against all texts, as Robertson and Zaragoza (2009) define BM25, with FTS5's idf of at least
    1e-6, over terms in at most half of the texts (all terms where a question has no other)."""

    def __init__(self, texts: Sequence[str]) -> None:
        """texts: what is scored."""
        self._bags = [Counter(lexical_tokens(text)) for text in texts]
        self._lengths = [bag.total() for bag in self._bags]
        self._document_counts = Counter(term for bag in self._bags for term in bag)

    def scores(self, question: str) -> list[float]:
        """One score for each text; 0 where it has no term of the question."""
        size, mean_length = len(self._bags), sum(self._lengths) / len(self._bags)
        counts = {term: self._document_counts[term] for term in lexical_tokens(question)}
        present = {term: count for term, count in counts.items() if count}
        terms = {term for term, count in present.items() if 2 * count <= size} or set(present)
        idf = {term: max(math.log((size - counts[term] + 0.5) / (counts[term] + 0.5)), 1e-6) for term in terms}
        return [
            sum(
                idf[term] * bag[term] * (_K1 + 1) / (bag[term] + _K1 * (1 - _B + _B * length / mean_length))
                for term in terms
            )
            for bag, length in zip(self._bags, self._lengths, strict=True)
        ]
