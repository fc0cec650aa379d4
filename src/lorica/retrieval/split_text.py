"""Splitting a text into passages of at most so many tokens that overlap, at the ends of paragraphs and sentences."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right

from lorica.retrieval.split_tokenizer import SplitTokenizer

# Behind these a sentence or a paragraph begins.
_SENTENCE = re.compile(r"[.!?…][\"'”’)\]]*\s+|[。！？]+[”’」』）]*|\n+")
_WORD_SEARCH = 24  # tokens within which a cut looks for a word's beginning, where no sentence ends


def split_text(text: str, tokenizer: SplitTokenizer, *, length: int, overlap: int) -> list[str]:
    """The passages of a text, in its order; none of a text without anything but white space.

    length: tokens of a passage, at most; overlap: tokens that it has of the one before, at most. A passage ends at the
    last sentence's end in its second half, where there is one, and else between words. Without overlap the passages are
    the whole text but for white space between them."""
    spans = tokenizer.spans(text)
    if len(spans) <= length:
        return [text.strip()] if text.strip() else []
    starts, ends = [start for start, _ in spans], [end for _, end in spans]
    sentences = sorted({bisect_right(ends, match.end()) for match in _SENTENCE.finditer(text)})
    words = [index for index, start in enumerate(starts) if text[start].isspace() or text[start - 1].isspace()]
    chunks, begin = [], 0
    while True:
        middle, limit = begin + length // 2, begin + length
        end = _last(sentences, middle, limit) if limit < len(spans) else len(spans)
        end = end or _last(words, max(middle, limit - _WORD_SEARCH), limit) or limit
        last = end >= len(spans)
        chunk = text[starts[begin] if begin else 0 : len(text) if last else starts[end]].strip()
        if chunk:
            chunks.append(chunk)
        if last:
            return chunks
        target = max(end - overlap, begin + 1)
        begin = _first(sentences, target, end) or _first(words, target, end) or end


def _last(indices: list[int], low: int, high: int) -> int:
    """The greatest of sorted indices in (low, high], 0 where there is none."""
    position = bisect_right(indices, high)
    return indices[position - 1] if position and indices[position - 1] > low else 0


def _first(indices: list[int], low: int, high: int) -> int:
    """The least of sorted indices in [low, high), 0 where there is none."""
    position = bisect_left(indices, low)
    return indices[position] if position < len(indices) and indices[position] < high else 0
