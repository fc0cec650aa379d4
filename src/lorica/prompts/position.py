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
    user = {"role": "user", "content": PROBE_USER}
    chats = [[user]] if folds_system else [[user], [{"role": "system", "content": PROBE_SYSTEM}, user]]
    positions = [_find(render, chat, origin, is_token) for chat in chats]
    if len({msgspec.structs.replace(position, tail="") for position in positions}) > 1:
        raise _refusal(origin, "asks for an answer elsewhere when there is a system message", positions[1].tail)
    return positions[0]


def _find(render: Render, chat: Sequence[Turn], origin: str, is_token: Callable[[str], bool]) -> AnswerPosition:
    opening = render(chat, True)
    tail = opening[opening.rindex(PROBE_USER) + len(PROBE_USER) :]
    try:
        before, after = _around_answer(render(_answered(chat), False))
    except (PromptError, ValueError) as error:
        why = error.message if isinstance(error, PromptError) else "an assistant's answer is not in what it writes"
        raise PromptError(
            f"where the chat template of {origin} has its answers cannot be proved: {why}",
            fix="set model.chat_template to a template that shows an assistant's answer, or to 'plain'",
        ) from error
    thought = unclosed(tail)
    marker, closing, prefix = "", "", ""
    if before.startswith(tail):
        marker, closing, prefix = _split(before[len(tail) :], thought)
        proved = not (thought and marker)
    else:
        # White space apart, the prompt may open a thought that the answer has behind it, or write a whole one.
        prompt_end, answer_start = tail.removesuffix(thought).rstrip(), before.rstrip()
        extra = prompt_end.removeprefix(answer_start)
        proved = prompt_end.startswith(answer_start) and not without_thoughts(extra).strip()
    if not proved:
        raise _refusal(origin, f"has its answers behind {before!r}", tail)
    opened = unclosed(tail + marker + closing)
    if opened:
        closing, prefix = closing + _closing(render, chat, opened, origin, is_token), ""
    return AnswerPosition(tail, marker, thought, closing, prefix, after)


def _split(extra: str, thought: str) -> tuple[str, str, str]:
    """What stands between a prompt and its answer, as marker, thought and prefix. thought: one is open before it."""
    at = first_tag(extra)
    if at < len(extra):
        return ("", extra, "") if thought else (extra[:at], extra[at:], "")
    # Spaces belong to the answer's own tokens; behind a line break or a mark it begins anew.
    marker = extra.rstrip(" \t") if extra.strip() else ""
    return marker, "", extra[len(marker) :]


def _closing(render: Render, chat: Sequence[Turn], opened: str, origin: str, is_token: Callable[[str], bool]) -> str:
    """What closes an opened thought without a word in it: as the template does it, else by the kind of its tag."""
    for key in _THOUGHT_KEYS:
        try:
            text, _ = _around_answer(render(_answered(chat, {key: _THOUGHT}), False))
        except (PromptError, ValueError):
            continue
        if _THOUGHT in text and not unclosed(text):
            return text[text.rindex(_THOUGHT) + len(_THOUGHT) :]
    tag = opened.split(maxsplit=1)[0]
    for close in closing_tags(opened):
        # Of a tag that is a token its end is one, too; where several spellings are possible nothing else decides.
        if is_token(close) or (len(closing_tags(opened)) == 1 and not is_token(tag)):
            return f"\n{close}\n\n" if opened.endswith("\n") else close
    raise PromptError(
        f"the chat template of {origin} opens a thought with {tag!r}, and neither it nor the tokenizer says what "
        "closes one: a short answer would be asked for inside the thought",
        fix="set model.chat_template to a copy of it that ends its generation prompt behind a closed thought",
    )


def _answered(chat: Sequence[Turn], more: Turn | None = None) -> list[Turn]:
    return [*chat, {"role": "assistant", "content": PROBE_ANSWER, **(more or {})}]


def _around_answer(text: str) -> tuple[str, str]:
    """What stands between the user's text and the answer, and what behind it. Raises ValueError without an answer."""
    start = text.rindex(PROBE_ANSWER)
    user = text.rindex(PROBE_USER, 0, start) + len(PROBE_USER)
    return text[user:start], text[start + len(PROBE_ANSWER) :]


def _refusal(origin: str, why: str, tail: str) -> PromptError:
    return PromptError(
        f"the chat template of {origin} asks for an answer behind {tail!r}, and {why}: the answer would be asked for "
        "where the model never has one",
        fix="set model.chat_template to a template whose generation prompt ends where its answers begin, or to 'plain'",
    )
