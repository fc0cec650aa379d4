"""The answer position of a chat template, proved by rendering conversations whose answer is known.

What a template writes between the user's text and an assistant's answer is compared with what it writes there to ask
for one. An answer must be asked for where the template itself has answers; anywhere else a model is asked in the
middle of something (in an open thought, before the mark of its own turn), and its probabilities mean nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec

from lorica.errors import PromptError
from lorica.thoughts import closing_tags, first_tag, unclosed, without_thoughts

PROBE_SYSTEM = "lorica probe: system"
PROBE_USER = "lorica probe: user"
PROBE_ANSWER = "lorica probe: answer"
_THOUGHT = "lorica probe: thought"
# Names under which templates take what an assistant thought.
_THOUGHT_KEYS = ("reasoning_content", "reasoning", "thinking", "thought")

Turn = Mapping[str, str]
Render = Callable[[Sequence[Turn], bool], str]
"""Turns of role and content (and more, which a template may know), and whether to ask for an answer -> text."""


class AnswerPosition(msgspec.Struct, frozen=True):
    """What stands around an answer.

    tail: what the template writes behind the user's text to ask for an answer. marker: what an answer needs behind
    that and the template leaves out there, such as the mark of the assistant's turn. thought: the thought that the
    tail opens, with its tag, "" for none. closing: what closes it (or writes an empty one) before the answer.
    prefix: white space between all this and the answer. after: what the template writes behind the answer.
    """

    tail: str
    marker: str
    thought: str
    closing: str
    prefix: str
    after: str


def find_answer_position(
    render: Render, *, folds_system: bool, origin: str, is_token: Callable[[str], bool]
) -> AnswerPosition:
    """Prove where a template has its answers. is_token: whether a text is a control token of the tokenizer.

    folds_system: it takes no system message. Raises PromptError for a template that asks elsewhere, or shows no answer.
    """
    user_turn = {"role": "user", "content": PROBE_USER}
    probe_chats = (
        [[user_turn]] if folds_system else [[user_turn], [{"role": "system", "content": PROBE_SYSTEM}, user_turn]]
    )
    positions = [_find(render, probe_chat, origin, is_token) for probe_chat in probe_chats]
    if len({msgspec.structs.replace(position, tail="") for position in positions}) > 1:
        raise _refusal(origin, "asks for an answer elsewhere when there is a system message", positions[1].tail)
    return positions[0]


def _find(render: Render, probe_chat: Sequence[Turn], origin: str, is_token: Callable[[str], bool]) -> AnswerPosition:
    opening = render(probe_chat, True)
    opening_tail = opening[opening.rindex(PROBE_USER) + len(PROBE_USER) :]
    try:
        before, closing_text = _around_answer(render(_answered(probe_chat), False))
    except (PromptError, ValueError) as error:
        refusal_reason = (
            error.message if isinstance(error, PromptError) else "an assistant's answer is not in what it writes"
        )
        raise PromptError(
            f"where the chat template of {origin} has its answers cannot be proved: {refusal_reason}",
            fix="set model.chat_template to a template that shows an assistant's answer, or to 'plain'",
        ) from error
    thought = unclosed(opening_tail)
    marker, closing, prefix = "", "", ""
    if before.startswith(opening_tail):
        marker, closing, prefix = _split(before[len(opening_tail) :], thought)
        proved = not (thought and marker)
    else:
        # White space apart, the prompt may open a thought that the answer has behind it, or write a whole one.
        prompt_end, answer_start = opening_tail.removesuffix(thought).rstrip(), before.rstrip()
        extra_text = prompt_end.removeprefix(answer_start)
        proved = prompt_end.startswith(answer_start) and not without_thoughts(extra_text).strip()
    if not proved:
        raise _refusal(origin, f"has its answers behind {before!r}", opening_tail)
    opened = unclosed(opening_tail + marker + closing)
    if opened:
        closing, prefix = closing + _closing(render, probe_chat, opened, origin, is_token), ""
    return AnswerPosition(opening_tail, marker, thought, closing, prefix, closing_text)


def _split(extra_text: str, thought: str) -> tuple[str, str, str]:
    """What stands between a prompt and its answer, as marker, thought and prefix. thought: one is open before it."""
    tag_start = first_tag(extra_text)
    if tag_start < len(extra_text):
        return ("", extra_text, "") if thought else (extra_text[:tag_start], extra_text[tag_start:], "")
    # Spaces belong to the answer's own tokens; behind a line break or a mark it begins anew.
    marker = extra_text.rstrip(" \t") if extra_text.strip() else ""
    return marker, "", extra_text[len(marker) :]


def _closing(
    render: Render, probe_chat: Sequence[Turn], opened: str, origin: str, is_token: Callable[[str], bool]
) -> str:
    """What closes an opened thought without a word in it: as the template does it, else by the kind of its tag."""
    for thought_key in _THOUGHT_KEYS:
        try:
            rendered_text, _ = _around_answer(render(_answered(probe_chat, {thought_key: _THOUGHT}), False))
        except (PromptError, ValueError):
            continue
        if _THOUGHT in rendered_text and not unclosed(rendered_text):
            return rendered_text[rendered_text.rindex(_THOUGHT) + len(_THOUGHT) :]
    tag_name = opened.split(maxsplit=1)[0]
    for closing_tag in closing_tags(opened):
        # Of a tag that is a token its end is one, too; where several spellings are possible nothing else decides.
        if is_token(closing_tag) or (len(closing_tags(opened)) == 1 and not is_token(tag_name)):
            return f"\n{closing_tag}\n\n" if opened.endswith("\n") else closing_tag
    raise PromptError(
        f"the chat template of {origin} opens a thought with {tag_name!r}, and neither it nor the tokenizer says what "
        "closes one: a short answer would be asked for inside the thought",
        fix="set model.chat_template to a copy of it that ends its generation prompt behind a closed thought",
    )


def _answered(probe_chat: Sequence[Turn], extra_keys: Turn | None = None) -> list[Turn]:
    return [*probe_chat, {"role": "assistant", "content": PROBE_ANSWER, **(extra_keys or {})}]


def _around_answer(rendered_text: str) -> tuple[str, str]:
    """What stands between the user's text and the answer, and what behind it. Raises ValueError without an answer."""
    answer_start = rendered_text.rindex(PROBE_ANSWER)
    user_end = rendered_text.rindex(PROBE_USER, 0, answer_start) + len(PROBE_USER)
    return rendered_text[user_end:answer_start], rendered_text[answer_start + len(PROBE_ANSWER) :]


def _refusal(origin: str, refusal_reason: str, opening_tail: str) -> PromptError:
    return PromptError(
        f"the chat template of {origin} asks for an answer behind {opening_tail!r}, and {refusal_reason}: "
        "the answer would be asked for where the model never has one",
        fix="set model.chat_template to a template whose generation prompt ends where its answers begin, or to 'plain'",
    )
