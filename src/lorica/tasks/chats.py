"""Rows that are chats: `messages`, ShareGPT's `conversations`, `prompt` and `completion`.

A chat is asked as it is, with its own roles and without a task's instruction; the last turn of the assistant is the
answer. What a turn may hold besides its role and its text would be lost, and is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from lorica.errors import CellError
from lorica.records import Message, Role, Row, RowShape
from lorica.tasks.base import is_missing, needed_text, text_value
from lorica.tasks.drafts import Draft
from lorica.tasks.literals import literal_cell

_ROLES: dict[str, Role] = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "model", "bot", "chatgpt"), "assistant"),
}
_WHO, _WHAT = ("role", "from"), ("content", "value")
_OWN = ("id", "subject", "group")
# Columns beside a chat that change what it means; Lorica asks without them.
_REFUSED = ("tools", "functions", "images", "videos", "audios", "documents", "chosen", "rejected", "label")
_SEVERAL = "a chat has several turns of the assistant: the last one is the answer, and the loss is on it alone"


class ChatCase(msgspec.Struct, frozen=True):
    """The turns of a chat up to the answer: (role, text) each."""

    turns: tuple[tuple[Role, str], ...]

    @property
    def question(self) -> str:
        """What the user said last."""
        return next((text for role, text in reversed(self.turns) if role == "user"), "")


def chat_messages(case: ChatCase) -> tuple[Message, ...]:
    """The turns as messages. Truncation may cut all of the turns but the first (a system message) and the last."""
    last = len(case.turns) - 1
    messages = []
    for number, (role, text) in enumerate(case.turns):
        whole = role == "system" or number == last
        messages.append((Draft().add_whole(text) if whole else Draft().add_long(text)).message(role))
    return tuple(messages)


def chat_shapes(gold: Callable[[str], Any]) -> tuple[RowShape, ...]:
    """The tables of chats. gold: the answer of the assistant -> gold of a row; raises ValueError for none of a task."""

    def shape(
        name: str,
        required: str,
        optional: tuple[str, ...],
        turns: Callable[[Mapping[str, Any]], list[tuple[Role, str]]],
    ) -> RowShape:
        def build(values: Mapping[str, Any], row_id: str, line: int) -> Row:
            return _build(turns(values), values, gold, row_id, line)

        aliases = {"completion": ("response", "answer", "output")}
        return RowShape(name, (required,), (*optional, *_OWN, *_REFUSED), "id", build, aliases=aliases)

    return (
        shape("chats as messages", "messages", (), lambda values: _turns(values["messages"], "messages")),
        shape("ShareGPT", "conversations", ("system",), _conversation),
        shape("prompt and completion", "prompt", ("completion",), _pair),
    )


def _build(
    turns: list[tuple[Role, str]], values: Mapping[str, Any], gold: Callable[[str], Any], row_id: str, line: int
) -> Row:
    for name in _REFUSED:
        if not _is_empty(values.get(name)):
            raise CellError(
                f"a chat with {name!r} cannot be asked without it", fix=f"remove {name!r}, or ask these rows elsewhere"
            )
    answers = sum(role == "assistant" for role, _ in turns)
    answer = turns.pop()[1] if turns[-1][0] == "assistant" else None
    if not any(role == "user" for role, _ in turns) or turns[-1][0] != "user":
        before = "before its answer" if answer is not None else "at its end"
        raise CellError(
            f"the chat has no turn of the user {before}",
            fix="a chat ends with the user, or with the answer to the user",
        )
    return Row(
        id=row_id,
        case=ChatCase(tuple(turns)),
        subject=text_value(values, "subject"),
        gold=None if answer is None else gold(answer),
        group=text_value(values, "group"),
        line=line,
        notes=(_SEVERAL,) if answer is not None and answers > 1 else (),
    )


def _conversation(values: Mapping[str, Any]) -> list[tuple[Role, str]]:
    turns = _turns(values["conversations"], "conversations")
    system = text_value(values, "system")
    return [("system", system), *turns] if system else turns


def _pair(values: Mapping[str, Any]) -> list[tuple[Role, str]]:
    """Texts, or lists of messages."""
    prompt, completion = values["prompt"], values.get("completion")
    if not isinstance(prompt, str):
        return [*_turns(prompt, "prompt"), *([] if completion is None else _turns(completion, "completion"))]
    pair: list[tuple[Role, str]] = [("user", needed_text(values, "prompt"))]
    return pair if is_missing(completion) else [*pair, ("assistant", needed_text(values, "completion"))]


def _turns(value: object, name: str) -> list[tuple[Role, str]]:
    """(role, text) of each turn. Raises ValueError for roles and parts that are not known."""
    cell = literal_cell(value, name)
    if not isinstance(cell, list) or not cell:
        raise CellError(f"{name!r} is no list of turns", fix='write [{"role": "user", "content": "..."}, ...]')
    turns = [_turn(turn, f"{name}[{number}]") for number, turn in enumerate(cell)]
    if any(role == "system" for role, _ in turns[1:]):
        raise CellError(f"{name!r} has a system message behind its first turn", fix="put it first")
    return turns


def _turn(turn: object, name: str) -> tuple[Role, str]:
    if not isinstance(turn, Mapping):
        raise CellError(
            f"{name} is {turn!r:.40}, and must be an object", fix='write {"role": "user", "content": "..."}'
        )
    who, what = (next((key for key in keys if key in turn), keys[0]) for keys in (_WHO, _WHAT))
    for key, value in turn.items():
        harmless = key in (who, what) or _is_empty(value) or (key == "weight" and value == 1)
        if not harmless:
            raise CellError(
                f"{name} has {key!r}: {value!r:.40}, which is not read", fix=f"remove {key!r}, or leave the chat out"
            )
    role = turn.get(who)
    if not isinstance(role, str) or role not in _ROLES:
        raise CellError(
            f"{name} is by {role!r}", fix=f"allowed are {', '.join(_ROLES)}; leave out chats with other turns"
        )
    return _ROLES[role], _content(turn.get(what), name)


def _content(value: object, name: str) -> str:
    """The text of a turn, or of its parts {"type": "text", "text": ...}."""
    parts = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    texts = []
    for part in parts:
        if isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str):
            part = part["text"]
        if not isinstance(part, str):
            kind = part.get("type", "an object") if isinstance(part, Mapping) else repr(part)
            raise CellError(f"{name} holds {kind}, and only text is read", fix="leave the chat out, or its other parts")
        texts.append(part.strip())
    text = "\n".join(filter(None, texts))
    if not text:
        raise CellError(f"{name} is empty", fix="give the turn a text, or leave the chat out")
    return text


def _is_empty(value: object) -> bool:
    return is_missing(value) or value in ("", [], {}, False)
