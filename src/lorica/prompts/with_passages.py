"""Passages of a knowledge base in a prompt: before the question, in the room that the row's own text leaves.

Passages are data like the row's own texts: a template's markers in them are plain text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from lorica.errors import PromptError
from lorica.prompts.encoder import Encoder
from lorica.records import Encoded, Message

# What truncation leaves of a passage says something from about here on.
_FEWEST_TOKENS = 16


@dataclass(frozen=True)
class PromptWithPassages:
    """A prompt with the first `shown` of the passages it was offered. encoded: `dropped` is of the row's own text.
    cut_tokens: what truncation removed from the one passage shown."""

    encoded: Encoded
    shown: int = 0
    cut_tokens: int = 0


def insert_passages(messages: Sequence[Message], passages: Sequence[str]) -> list[Message]:
    """The messages with passages in the last message of the user, where its task says (`Message.context`).

    Truncation may cut the passages, and nothing else.
    """
    question_index = max(index for index, message in enumerate(messages) if message.role == "user")
    question = messages[question_index]
    content, spans = question.content[: question.context], []
    for passage in passages:
        content += "Passage: "
        spans.append((len(content), len(content) + len(passage)))
        content += passage + "\n"
    with_passages = Message(question.role, content + question.content[question.context :], tuple(spans))
    protected = [msgspec.structs.replace(message, trim=()) for message in messages]
    return [*protected[:question_index], with_passages, *protected[question_index + 1 :]]


def encode_with_passages(
    encoder: Encoder,
    messages: Sequence[Message],
    passages: Sequence[str],
    *,
    answer: str | None = None,
    max_tokens: int,
    passage_tokens: int,
    truncate: str,
    limit_key: str = "inference.max_input_tokens",
    generated: bool = False,
) -> PromptWithPassages:
    """As `Encoder.encode`, with as many passages, the best first, as there is room for.

    passage_tokens: tokens that all passages together may have. Passages are dropped from the end until they fit; one
    that alone is too long is cut by `truncate`, or dropped where that is "error". The row's own text is never cut for a
    passage: where it must be cut by itself, there is none.
    """

    def encode(prompt_messages: Sequence[Message], token_limit: int, policy: str) -> Encoded:
        return encoder.encode(
            prompt_messages,
            answer=answer,
            max_tokens=token_limit,
            truncate=policy,
            limit_key=limit_key,
            generated=generated,
        )

    alone = encode(messages, max_tokens, truncate)
    room = min(max_tokens - len(alone.tokens), passage_tokens)
    if alone.dropped or not passages or room < _FEWEST_TOKENS:
        return PromptWithPassages(alone)
    counts = [encoder.count_tokens(passage) for passage in passages]
    most = max((number for number in range(2, len(counts) + 1) if sum(counts[:number]) <= room), default=1)
    for shown in range(most, 0, -1):
        try:
            encoded = encode(
                insert_passages(messages, passages[:shown]),
                len(alone.tokens) + room,
                truncate if shown == 1 else "error",
            )
        except PromptError:
            continue  # one passage fewer
        if counts[shown - 1] - encoded.dropped >= min(counts[shown - 1], _FEWEST_TOKENS):
            return PromptWithPassages(msgspec.structs.replace(encoded, dropped=0), shown, encoded.dropped)
    return PromptWithPassages(alone)
