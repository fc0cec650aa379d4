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
    all_span_texts = []
    for message in messages:
        previous_end = 0
        for span_start, span_end in message.trim:
            if not previous_end <= span_start <= span_end <= len(message.content):
                raise ValueError(f"trim spans {message.trim} overlap or leave {len(message.content)} characters")
            all_span_texts.append(message.content[span_start:span_end])
            previous_end = span_end
    return all_span_texts


def replace_spans(messages: Sequence[Message], new_texts: Sequence[str]) -> list[Message]:
    """The same messages with their trim spans replaced by `new_texts`, one per span in order."""
    remaining = iter(new_texts)
    replaced = []
    for message in messages:
        pieces, trimmed_spans, previous_end, length = [], [], 0, 0
        for span_start, span_end in message.trim:
            span_text = next(remaining)
            pieces += [message.content[previous_end:span_start], span_text]
            length += span_start - previous_end
            trimmed_spans.append((length, length + len(span_text)))
            length += len(span_text)
            previous_end = span_end
        pieces.append(message.content[previous_end:])
        replaced.append(Message(message.role, "".join(pieces), tuple(trimmed_spans)))
    return replaced


def allocate(counts: Sequence[int], kept_tokens: int) -> list[int]:
    """How many tokens each span keeps: the longest give first, down to a common level.

    counts: tokens of each span. kept_tokens: tokens that all spans together may have.
    """
    allowed = [0] * len(counts)
    budget = max(kept_tokens, 0)
    for position, span_index in enumerate(sorted(range(len(counts)), key=lambda i: counts[i])):
        allowed[span_index] = min(counts[span_index], budget // (len(counts) - position))
        budget -= allowed[span_index]
    return allowed


def truncate_text(span_text: str, offsets: Offsets, kept_tokens: int, policy: str) -> str:
    """`span_text` with at most `kept_tokens` of its tokens, and "..." where something is gone.

    policy: `right` drops the end, `left` the beginning, `middle` the middle.
    """
    token_count = len(offsets)
    if kept_tokens >= token_count:
        return span_text
    if kept_tokens <= 0:
        return ""
    head_tokens = {"right": kept_tokens, "left": 0, "middle": (kept_tokens + 1) // 2}[policy]
    tail_tokens = kept_tokens - head_tokens
    head_text = span_text[: offsets[head_tokens - 1][1]].rstrip() if head_tokens else ""
    tail_text = span_text[offsets[token_count - tail_tokens][0] :].lstrip() if tail_tokens else ""
    return " ".join(text_piece for text_piece in (head_text, GAP, tail_text) if text_piece)


def fit_spans(
    messages: Sequence[Message],
    *,
    policy: str,
    available: int,
    offsets: Callable[[str], Offsets],
    count_excess: Callable[[Sequence[Message]], int],
) -> list[Message]:
    """Messages whose spans are cut until they fit.

    available: tokens left for all spans together. offsets: tokenises one span. count_excess: the number of tokens by
    which messages are too long (0 or less when they fit); the messages with empty spans must fit.
    """
    original_texts = span_texts(messages)
    tokens = [offsets(span_text) for span_text in original_texts]
    counts = [len(token_ids) for token_ids in tokens]
    kept_tokens, step_size = available, 1
    while kept_tokens > 0:
        lengths = allocate(counts, kept_tokens)
        shortened_messages = replace_spans(
            messages,
            [
                truncate_text(*span_arguments, policy)
                for span_arguments in zip(original_texts, tokens, lengths, strict=True)
            ],
        )
        excess_tokens = count_excess(shortened_messages)
        if excess_tokens <= 0:
            return shortened_messages
        # Tokens merge differently at a cut, so the first guess can miss; the growing step bounds the rounds.
        kept_tokens -= max(excess_tokens, step_size)
        step_size *= 2
    return replace_spans(messages, [""] * len(original_texts))
