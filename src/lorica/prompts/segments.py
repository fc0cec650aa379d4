"""The format of an encoder's input: each message is a segment, joined as the tokenizer joins a pair of texts.

    [CLS] rule [SEP] example [SEP] post [SEP]            BERT, DeBERTa, ModernBERT
    <s> rule </s></s> example </s></s> post </s>         RoBERTa

One or two segments have the ids that transformers' tokenizer gives them.
"""

from __future__ import annotations

from collections.abc import Sequence

from lorica.errors import PromptError
from lorica.prompts.position import PROBE_USER, AnswerPosition
from lorica.prompts.template import TemplateSource
from lorica.prompts.vocabulary import Vocabulary
from lorica.records import Message


class SegmentFormat:
    """Segments between a tokenizer's own marks; it stands where decoders have a chat template, and asks for nothing.

    separator: the mark behind a segment, and the end of the input.
    """

    folds_system = False

    def __init__(self, vocabulary: Vocabulary, origin: str) -> None:
        """origin: the tokenizer's file. Raises PromptError for a tokenizer that does not say how it joins two texts."""
        opening, between, ending = vocabulary.pair_marks()
        if not between or not ending:
            raise PromptError(
                f"{origin} puts no mark between two texts, so an encoder could not tell the rule from the post",
                fix="use the encoder's own tokenizer, saved with its post_processor",
            )
        self._opening, self._between, self._ending = ("".join(marks) for marks in (opening, between, ending))
        self.separator = ending[-1]
        self.source = TemplateSource("|".join((self._opening, self._between, self._ending)), "segments")
        self.position = AnswerPosition(
            tail=self._ending, marker="", thought="", closing="", prefix="", after=self.separator
        )

    def render(self, chat_turns: Sequence[tuple[str, str]], *, generation: bool) -> str:
        """The input as text, with its marks written out. generation: changes nothing, since no answer follows."""
        return self._opening + self._between.join(content for _, content in chat_turns) + self._ending

    def sample(self) -> str:
        """Two segments, with every mark that an input may have."""
        return self.render([("user", PROBE_USER), ("user", PROBE_USER)], generation=False)

    def fold(self, messages: Sequence[Message]) -> Sequence[Message]:
        """The messages as they are: a system message is a segment like any other."""
        return messages
