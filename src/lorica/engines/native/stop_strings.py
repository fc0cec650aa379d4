"""Whether a text holds one of the strings that end it, looked for in its newest tokens."""

from __future__ import annotations

from collections.abc import Sequence

from lorica.engines.base import Decode

_MARGIN = 8  # tokens: where a piece of a text is decoded alone, its first characters may be lost or others


def holds_stop(decode: Decode, tokens: Sequence[int], stops: Sequence[str]) -> bool:
    """Whether the text of `tokens` holds any of `stops`, given that it did not before its last token."""
    if not stops:
        return False
    # A token may be a single byte, and a character four.
    reach = 4 * max(map(len, stops)) + _MARGIN
    near = decode(tokens[-reach:])
    if not any(stop in near for stop in stops):
        return False
    # The beginning of the piece may read otherwise in its place.
    whole = near if len(tokens) <= reach else decode(tokens)
    return any(stop in whole for stop in stops)
