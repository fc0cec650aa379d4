"""Stop strings: whether the generated text contains one, looked for in the text of its newest tokens."""

from __future__ import annotations

from collections.abc import Sequence

from lorica.engines.base import Decode

_MARGIN_TOKENS = 8  # the first characters of a window that is decoded alone may be missing or differ


def contains_stop_string(detokenize: Decode, tokens: Sequence[int], stop_strings: Sequence[str]) -> bool:
    """Whether the text of `tokens` contains any of the stop strings, given that it did not before its last token."""
    if not stop_strings:
        return False
    # A token may be a single byte, and a character four.
    window_tokens = 4 * max(map(len, stop_strings)) + _MARGIN_TOKENS
    text = detokenize(tokens[-window_tokens:])
    if not any(stop in text for stop in stop_strings):
        return False
    if len(tokens) > window_tokens:  # in its context the start of the window may read otherwise
        text = detokenize(tokens)
    return any(stop in text for stop in stop_strings)
