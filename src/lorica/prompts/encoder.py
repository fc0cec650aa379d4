"""Chat template and tokenizer as one encoder: messages to token ids with a loss mask, the same for training, inference
and scoring."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lorica.errors import PromptError, TooLongError
from lorica.prompts.notes import template_notes, vocabulary_notes
from lorica.prompts.segments import SegmentFormat
from lorica.prompts.template import ChatTemplate
from lorica.prompts.tokenizer_folder import EncoderComponents, read_components
from lorica.prompts.truncate import check_policy, fit_spans, replace_spans, span_texts
from lorica.prompts.vocabulary import RunPosition, Vocabulary
from lorica.records import Encoded, Message

# No tokenizer in use has longer tokens: a text with more characters a token than this cannot fit.
_CHARS_PER_TOKEN = 256
_PRIVATE_USE = range(0xE000, 0xF900)
_SHORTEN = "shorten the instruction or the question"


class Encoder:
    """A model's chat template and tokenizer as one function from messages to token ids.

    stop_tokens: ids that end an answer: the template's end of turn, the end of text, and those of
    generation_config.json. template_digest, tokenizer_digest: "sha256:..." of what they are made of.
    template_origin: the file the template came from, or "plain". thinks: whether a generated answer may think first.
    opened: the thought that a prompt for one leaves open, with its tag ("" for none), so that what is generated begins
    inside it. notes: what a person should know of how prompts are made, one sentence each.
    """

    def __init__(self, components: EncoderComponents) -> None:
        """Use `Encoder.load`; this takes what it found."""
        self._vocabulary: Vocabulary = components.vocabulary
        self._template: ChatTemplate | SegmentFormat = components.template
        self.template_digest = components.template_digest
        self.tokenizer_digest = components.tokenizer_digest
        self.template_origin = components.template.source.origin
        self.folds_system = components.template.folds_system
        # A decoder reads one text, an encoder one text for each segment.
        self._after_marker: RunPosition = "start" if self.reads_segments else "segment"
        position = components.template.position
        end_marker = self._vocabulary.first_marker(position.after)
        self.end_of_turn: int = components.end_of_text if end_marker is None else end_marker
        self.stop_tokens: tuple[int, ...] = tuple(
            dict.fromkeys((self.end_of_turn, components.end_of_text, *components.more_stop_tokens))
        )
        self._marker, self._closing, self._trailing = position.marker, position.closing, components.trailing
        self._answer_prefix = components.trailing + position.prefix
        self.thinks = components.thinking and bool(position.closing)
        self.opened = position.thought if self.thinks else ""
        self.notes = template_notes(components)
        self._closing_place = self._position_after(position.tail + position.marker)
        generation_suffix = position.tail + position.marker + position.closing
        self._answer_place = self._position_after(generation_suffix.removesuffix(components.trailing))

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        chat_template: str = "auto",
        thinking: bool = False,
        model_config: Mapping[str, Any] | None = None,
    ) -> Encoder:
        """Read a model folder's tokenizer and chat template; no network, no code from the folder.

        chat_template: "auto" (the folder's own, else the plain format; for an encoder, "segments"), "plain", "segments"
        (each message is a segment of an encoder's input), or the path of a Jinja file.
        thinking: whether templates that know `enable_thinking` may open a thinking block. model_config: the folder's
        config.json, where it was read before.
        Raises PromptError for a folder without a usable tokenizer or template.
        """
        return cls(
            read_components(Path(folder), chat_template=chat_template, thinking=thinking, model_config=model_config)
        )

    def encode(
        self,
        messages: Sequence[Message],
        *,
        answer: str | None = None,
        max_tokens: int,
        truncate: str,
        limit_key: str = "inference.max_input_tokens",
        generated: bool = False,
    ) -> Encoded:
        """Token ids of a prompt, or of a prompt with its answer and the end of turn.

        max_tokens counts everything. truncate ("middle", "left", "right": what is dropped; or "error")
        applies to the messages' trim spans only. limit_key: the key that an error tells to raise. The
        prompt's ids are the same with and without an answer.
        generated: the answer is written, not scored, so that the model may think before it where `thinking` is on; an
        answer given here then follows a thought without a word in it. Scored answers always stand behind thoughts.
        Raises PromptError when the prompt does not fit and may not or cannot be cut, when the template
        refuses the messages, or for text that is not valid Unicode; ConfigError for an unknown policy.
        """
        check_policy(truncate)
        thinks = generated and self.thinks
        thought = self._encode_text(self._closing, self._closing_place) if thinks else ()
        ending = () if answer is None else (*thought, *self.encode_choice(answer), self.end_of_turn)
        budget = max_tokens - len(ending)
        for message in messages:
            _check_unicode(message.content)
        folded = self._template.fold(messages)
        shortened, unseen = self._pretruncate(folded, max_tokens, truncate, limit_key)
        prompt = self._prompt(shortened, thinks)
        dropped = unseen
        if len(prompt) > budget or unseen:
            if truncate == "error":
                raise TooLongError(
                    f"a prompt has {len(prompt) + unseen} tokens{_with_answer(ending)}; max_tokens is {max_tokens}",
                    needed=len(prompt) + unseen + len(ending),
                    limit_key=limit_key,
                    otherwise="set task.truncate=middle",
                )
            full_length = len(prompt)
            emptied_messages = replace_spans(shortened, [""] * len(span_texts(shortened)))
            fixed_tokens = len(self._prompt(emptied_messages, thinks))
            if fixed_tokens > budget:
                raise TooLongError(
                    f"the fixed text of a prompt needs {fixed_tokens} tokens{_with_answer(ending)}; "
                    f"max_tokens is {max_tokens}",
                    needed=fixed_tokens + len(ending),
                    limit_key=limit_key,
                    otherwise=_SHORTEN,
                )
            prompt = self._truncate(shortened, budget, fixed_tokens, truncate, thinks)
            dropped += max(full_length - len(prompt), 0 if unseen else 1)
        return Encoded(tokens=prompt + ending, answer_start=len(prompt), dropped=dropped)

    def encode_choice(self, choice_text: str) -> tuple[int, ...]:
        """Token ids of an answer as it follows a prompt, without the end of turn.

        Raises PromptError for an empty answer or text that is not valid Unicode.
        """
        _check_unicode(choice_text)
        tokens = self._vocabulary.encode(self._answer_prefix + choice_text, self._answer_place)
        if not choice_text or not tokens:
            raise PromptError(f"the answer {choice_text!r} has no tokens", fix="give every choice and answer a text")
        return tokens

    @property
    def reads_segments(self) -> bool:
        """Whether a prompt is the whole input of an encoder, behind which nothing is read."""
        return isinstance(self._template, SegmentFormat)

    def choice_positions(self, choices: Sequence[tuple[int, ...]]) -> int:
        """Positions that scoring these choices takes behind a prompt: the last token of one is predicted, never
        read, and an encoder reads none."""
        return 0 if self.reads_segments else max(map(len, choices), default=1) - 1

    def count_tokens(self, plain_text: str) -> int:
        """Tokens of a text by itself."""
        return self._vocabulary.count(plain_text)

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of generated token ids; special tokens are left out, thinking tags stay."""
        return self._vocabulary.decode(tokens)

    def check_vocabulary(self, rows: int) -> tuple[str, ...]:
        """Hold the tokenizer against a base model whose embedding has so many rows; what a person should know of it.

        Raises PromptError where ordinary texts, the template or its end of turn have tokens that the model has not.
        """
        written = self._encode_text(self._template.sample(), "start")
        return vocabulary_notes(self._vocabulary, rows, used_markers={*written, *self.stop_tokens[:2]})

    def decode_example(self, encoded: Encoded) -> tuple[str, str]:
        """Prompt and answer of a training example as the model sees them, special tokens written out; the loss is on
        all of the answer."""
        answer_start = encoded.answer_start
        return self._vocabulary.decode_with_special(
            encoded.tokens[:answer_start]
        ), self._vocabulary.decode_with_special(encoded.tokens[answer_start:])

    def render(self, messages: Sequence[Message], *, generated: bool = True) -> str:
        """The prompt as text, for people to read; see `encode`."""
        folded = self._template.fold(messages)
        return self._render([(message.role, message.content) for message in folded], generated and self.thinks)

    def _render(self, chat_turns: Sequence[tuple[str, str]], thinks: bool) -> str:
        opening = self._template.render(chat_turns, generation=True) + self._marker
        return opening if thinks else (opening + self._closing).removesuffix(self._trailing)

    def _position_after(self, prompt_text: str) -> RunPosition:
        return "segment" if self._vocabulary.ends_with_marker(prompt_text) else "continuation"

    def _prompt(self, messages: Sequence[Message], thinks: bool) -> tuple[int, ...]:
        contents = [message.content for message in messages]
        restore: dict[int, str] = {}
        if any(self._vocabulary.has_marker(content) for content in contents):
            stand_ins = self._stand_ins(contents)
            contents = [self._vocabulary.mask_markers(content, stand_ins) for content in contents]
            restore = {ord(stand_in): original_char for original_char, stand_in in stand_ins.items()}
        chat_turns = [(message.role, content) for message, content in zip(messages, contents, strict=True)]
        return self._encode_text(self._render(chat_turns, thinks), "start", restore)

    def _encode_text(
        self, prompt_text: str, position: RunPosition, restore: Mapping[int, str] | None = None
    ) -> tuple[int, ...]:
        """What a template wrote. restore: stand-ins of characters that the user wrote -> these characters."""
        tokens: list[int] = []
        for text_piece in self._vocabulary.split(prompt_text):
            if isinstance(text_piece, int):
                tokens.append(text_piece)
            else:
                tokens.extend(
                    self._vocabulary.encode(text_piece.translate(restore) if restore else text_piece, position)
                )
            position = self._after_marker
        return tuple(tokens)

    def _stand_ins(self, contents: Sequence[str]) -> dict[str, str]:
        """For each first character of a marker, a private-use character found nowhere else in this prompt."""
        used_characters = set().union(*map(set, contents), self._template.source.text)
        free_characters = (candidate for candidate in map(chr, _PRIVATE_USE) if candidate not in used_characters)
        stand_ins = dict(zip(self._vocabulary.marker_initials, free_characters, strict=False))
        if len(stand_ins) < len(self._vocabulary.marker_initials):
            raise PromptError(
                "a row holds control tokens of the model and every private-use character of Unicode",
                fix="remove one of the two from the row",
            )
        return stand_ins

    def _pretruncate(
        self, messages: Sequence[Message], max_tokens: int, policy: str, limit_key: str
    ) -> tuple[Sequence[Message], int]:
        """Cut what can never fit before it is tokenised; the messages, and about how many tokens are gone."""
        max_characters = max(max_tokens, 1) * _CHARS_PER_TOKEN
        message_texts = span_texts(messages)
        fixed_tokens = sum(len(message.content) for message in messages) - sum(map(len, message_texts))
        if fixed_tokens > max_characters:
            raise TooLongError(
                f"a prompt has {fixed_tokens} characters that may not be cut; max_tokens is {max_tokens}",
                needed=-(-fixed_tokens // _CHARS_PER_TOKEN),
                limit_key=limit_key,
                otherwise=_SHORTEN,
            )
        if all(len(span_text) <= max_characters for span_text in message_texts):
            return messages, 0
        unseen, shortened = 0, []
        for span_text in message_texts:
            excess = max(len(span_text) - max_characters, 0)
            kept_prefix = {"left": 0, "right": max_characters}.get(policy, max_characters // 2)
            shortened.append(span_text[:kept_prefix] + span_text[kept_prefix + excess :])
            unseen += self._vocabulary.count(span_text[kept_prefix : kept_prefix + excess])
        return replace_spans(messages, shortened), unseen

    def _truncate(
        self, messages: Sequence[Message], budget: int, fixed_tokens: int, policy: str, thinks: bool
    ) -> tuple[int, ...]:
        """fixed_tokens: tokens of the prompt without the spans that may be cut."""
        fitted = fit_spans(
            messages,
            policy=policy,
            available=budget - fixed_tokens,
            offsets=self._vocabulary.offsets,
            count_excess=lambda shortened: len(self._prompt(shortened, thinks)) - budget,
        )
        return self._prompt(fitted, thinks)


def _with_answer(ending: tuple[int, ...]) -> str:
    return f" and {len(ending)} for its answer" if ending else ""


def _check_unicode(prompt_text: str) -> None:
    if prompt_text.isascii():
        return
    try:
        prompt_text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise PromptError(
            f"a text holds half a character (the lone surrogate {prompt_text[error.start]!r} at {error.start})",
            fix="decode the file with its real encoding, or remove the character",
        ) from error
