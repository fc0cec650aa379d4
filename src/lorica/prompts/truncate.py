"""Truncating over-long texts by a declared policy: pure functions over messages and their trim spans."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lorica.errors import ConfigError
from lorica.records import Message

POLICIES = ("middle", "left", "right", "error")
GAP = "..."

# The (start, stop) character offsets of each token of a text.
Offsets = Sequence[tuple[int, int]]


def check_policy(policy: str) -> None:
    """Raises ConfigError for a policy that is not one of POLICIES."""
    if policy not in POLICIES:
        raise ConfigError(
            f"truncate={policy!r} is not a policy", fix=f"use one of {', '.join(POLICIES)} for task.truncate"
        )


def span_texts(messages: Sequence[Message]) -> list[str]:
    """The texts of all trim spans, in order. Raises ValueError for spans that overlap or lie outside."""
    texts = []
    for message in messages:
        end = 0
        for start, stop in message.trim:
            if not end <= start <= stop <= len(message.content):
                raise ValueError(f"trim spans {message.trim} overlap or leave {len(message.content)} characters")
            texts.append(message.content[start:stop])
            end = stop
    return texts


def replace_spans(messages: Sequence[Message], texts: Sequence[str]) -> list[Message]:
    """The same messages with their trim spans replaced by `texts`, one per span in order."""
    remaining = iter(texts)
    replaced = []
    for message in messages:
        pieces, spans, end, length = [], [], 0, 0
        for start, stop in message.trim:
            text = next(remaining)
            pieces += [message.content[end:start], text]
            length += start - end
            spans.append((length, length + len(text)))
            length += len(text)
            end = stop
        pieces.append(message.content[end:])
        replaced.append(Message(message.role, "".join(pieces), tuple(spans)))
    return replaced


def allocate(counts: Sequence[int], keep: int) -> list[int]:
    """How many tokens each span keeps: the longest give first, down to a common level.

    counts: tokens of each span. keep: tokens that all spans together may have.
    """
    allowed = [0] * len(counts)
    budget = max(keep, 0)
    for position, index in enumerate(sorted(range(len(counts)), key=lambda i: counts[i])):
        allowed[index] = min(counts[index], budget // (len(counts) - position))
        budget -= allowed[index]
    return allowed


def truncate_text(text: str, offsets: Offsets, keep: int, policy: str) -> str:
    """`text` with at most `keep` of its tokens, and "..." where something is gone.

    policy: `right` drops the end, `left` the beginning, `middle` the middle.
    """
    count = len(offsets)
    if keep >= count:
        return text
    if keep <= 0:
        return ""
    head = {"right": keep, "left": 0, "middle": (keep + 1) // 2}[policy]
    tail = keep - head
    start = text[: offsets[head - 1][1]].rstrip() if head else ""
    stop = text[offsets[count - tail][0] :].lstrip() if tail else ""
    return " ".join(piece for piece in (start, GAP, stop) if piece)


def fit_spans(
    messages: Sequence[Message],
    *,
    policy: str,
    available: int,
    offsets: Callable[[str], Offsets],
    fits: Callable[[Sequence[Message]], int],
) -> list[Message]:
    """Messages whose spans are cut until they fit.

    available: tokens left for all spans together. offsets: tokenises one span. fits: the number of tokens by
    which messages are too long (0 or less when they fit); the messages with empty spans must fit.
    """
    texts = span_texts(messages)
    tokens = [offsets(text) for text in texts]
    counts = [len(token_ids) for token_ids in tokens]
    keep, step = available, 1
    while keep > 0:
        lengths = allocate(counts, keep)
        cut = replace_spans(
            messages, [truncate_text(*entry, policy) for entry in zip(texts, tokens, lengths, strict=True)]
        )
        over = fits(cut)
        if over <= 0:
            return cut
        # Tokens merge differently at a cut, so the first guess can miss; the growing step bounds the rounds.
        keep -= max(over, step)
        step *= 2
    return replace_spans(messages, [""] * len(texts))
