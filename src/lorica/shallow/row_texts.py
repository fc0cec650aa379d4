"""The texts of a row as shallow models read them: the segments of its prompt (`task.style=segments`), told apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from lorica.tasks.rules import SEGMENT_PREFIXES

# Token ids of `embedded:text_bytes`: those below are bytes, [CLS] opens a prompt, [SEP] ends each segment.
_BYTES, _SEPARATOR = 256, 257
VOCABULARY_SIZE = 258


class RowTexts(msgspec.Struct, frozen=True):
    """text: the post, or the question. breaking, allowed: the row's own examples. options: of a question."""

    text: str
    rule: str = ""
    breaking: tuple[str, ...] = ()
    allowed: tuple[str, ...] = ()
    options: tuple[str, ...] = ()

    @property
    def with_rule(self) -> str:
        """Rule and post, or the text alone where there is no rule (a chat)."""
        return f"{self.rule}\n{self.text}" if self.rule else self.text


class LabelledRow(msgspec.Struct, frozen=True):
    """A row with gold. label: 1 where the post breaks the rule, else 0; of a question the index of the right option."""

    texts: RowTexts
    label: int


def read_segments(segments: Sequence[str], answer_type: Literal["score", "option"]) -> RowTexts:
    """The texts in the segments of a prompt: rule, community, examples and post, told by their prefixes; the turns of a
    chat; or a question and its options."""
    if answer_type == "option":
        return RowTexts(segments[0], options=tuple(segments[1:]))
    *described, post = segments
    texts: dict[str, list[str]] = {name: [] for name in SEGMENT_PREFIXES}
    for segment in described:
        for name, prefix in SEGMENT_PREFIXES.items():
            if segment.startswith(prefix):
                texts[name].append(segment[len(prefix) :])
    if len(texts["rule"]) != 1 or sum(map(len, texts.values())) != len(described):
        return RowTexts("\n".join(segments))
    return RowTexts(post, rule=texts["rule"][0], breaking=tuple(texts["breaking"]), allowed=tuple(texts["allowed"]))


def read_byte_segments(prompt: Sequence[int]) -> list[str]:
    """The segments of a prompt of `embedded:text_bytes`: their bytes between its two marks."""
    segments, segment_bytes = [], bytearray()
    for token in prompt:
        if token < _BYTES:
            segment_bytes.append(token)
        elif token == _SEPARATOR:
            segments.append(segment_bytes.decode("utf-8", errors="replace"))
            segment_bytes.clear()
    return segments
