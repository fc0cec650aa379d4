"""Rows that are chats: `messages`, ShareGPT's `conversations`, `prompt` and `completion`.

A chat is asked as it is, with its own roles and without a task's instruction; the last turn of the assistant is the
answer. What a turn may hold besides its role and its text would be lost, and is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from lorica.errors import CellError
from lorica.records import Message, Role, Row, RowSchema
from lorica.tasks.base import is_missing, needed_text, text_value
from lorica.tasks.literals import literal_cell
from lorica.tasks.message_builder import MessageBuilder

_ROLES: dict[str, Role] = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "model", "bot", "chatgpt"), "assistant"),
}
_ROLE_KEYS, _TEXT_KEYS = ("role", "from"), ("content", "value")
_OWN = ("id", "subject", "group")
# Columns beside a chat that change what it means: Lorica asks without them.
_REFUSED = ("tools", "functions", "images", "videos", "audios", "documents", "chosen", "rejected", "label", "weight")
_OPTIONS = ("options", "choices", "A", "B")
_EMPTY_TEXTS = ("", "[]", "{}", "null", "None")
_SEVERAL = "the chat has several turns of the assistant; the last one is its answer, and the loss is on that alone"

Gold = Callable[[str], tuple[Any, tuple[str, ...]]]
"""The assistant's answer -> gold of the row, and notes; raises ValueError for one that is none of the task's."""


class ChatCase(msgspec.Struct, frozen=True):
    """The turns of a chat up to the answer: (role, text) each."""

    turns: tuple[tuple[Role, str], ...]

    @property
    def question(self) -> str:
        """What the user said last."""
        return self.turns[-1][1]

    @property
    def text(self) -> str:
        """All that was said."""
        return "\n".join(text for _, text in self.turns)


def chat_messages(case: ChatCase) -> tuple[Message, ...]:
    """The turns as messages. Truncation may cut all of the turns but the first (a system message) and the last."""
    last = len(case.turns) - 1
    messages = []
    for number, (role, text) in enumerate(case.turns):
        never_cut = role == "system" or number == last
        messages.append(
            (MessageBuilder().add_protected(text) if never_cut else MessageBuilder().add_truncatable(text)).build(role)
        )
    return tuple(messages)


def with_chat_of(row: Row, donor: Row) -> Row:
    """The row with the turns of another chat; as it is where one of the two is no chat."""
    is_chat = isinstance(row.case, ChatCase) and isinstance(donor.case, ChatCase)
    return msgspec.structs.replace(row, case=donor.case) if is_chat else row


def chat_schemas(gold: Gold) -> tuple[RowSchema, ...]:
    """The tables of chats, whose turns say who speaks."""
    return (
        _schema("chats as messages", ("messages",), (), lambda values: _turns(values["messages"], "messages"), gold),
        _schema("ShareGPT", ("conversations",), ("system",), _conversation, gold),
    )


def pair_schema(gold: Gold) -> RowSchema:
    """The table of prompts and completions, asked as chats of one turn."""
    return _schema("prompt and completion", ("prompt",), ("completion", "system", *_OPTIONS), _pair, gold)


def _schema(
    name: str,
    required: tuple[str, ...],
    optional: tuple[str, ...],
    turns: Callable[[Mapping[str, Any]], list[tuple[Role, str]]],
    gold: Gold,
) -> RowSchema:
    def build(values: Mapping[str, Any], row_id: str, line: int) -> Row:
        for column in (*_REFUSED, *_OPTIONS):
            if column in values and not _is_harmless(column, values[column]):
                raise CellError(
                    f"the chat comes with {column!r}, and would be asked without it",
                    fix=f"remove {column!r} where it does not matter, or leave such rows out",
                )
        return _build(turns(values), values, gold, row_id, line)

    aliases = {"completion": ("response", "answer", "output"), "conversations": ("conversation",)}
    gold_column = "completion" if "completion" in optional else ""
    return RowSchema(name, required, (*optional, *_OWN, *_REFUSED), "id", build, aliases=aliases, gold=gold_column)


def _build(turns: list[tuple[Role, str]], values: Mapping[str, Any], gold: Gold, row_id: str, line: int) -> Row:
    answers = sum(role == "assistant" for role, _ in turns)
    answer = turns.pop()[1].strip() if turns[-1][0] == "assistant" else None
    if not turns or turns[-1][0] != "user":
        where = "at its end" if answer is None else "before its answer"
        raise CellError(
            f"the chat has no turn of the user {where}", fix="end it with the user, or with the answer to the user"
        )
    label, notes = (None, ()) if answer is None else gold(answer)
    return Row(
        id=row_id,
        case=ChatCase(tuple(turns)),
        subject=text_value(values, "subject"),
        gold=label,
        group=text_value(values, "group"),
        line=line,
        notes=(*((_SEVERAL,) if answer is not None and answers > 1 else ()), *notes),
    )


def _conversation(values: Mapping[str, Any]) -> list[tuple[Role, str]]:
    return _with_system(values, _turns(values["conversations"], "conversations"))


def _pair(values: Mapping[str, Any]) -> list[tuple[Role, str]]:
    """The turns of a prompt and a completion, each a text or a list of messages."""
    turns: list[tuple[Role, str]] = []
    for name, role in (("prompt", "user"), ("completion", "assistant")):
        value = values.get(name)
        if isinstance(value, list):
            turns += _turns(value, name)
        elif not is_missing(value):
            turns.append((_ROLES[role], needed_text(values, name)))
    return _with_system(values, turns)


def _with_system(values: Mapping[str, Any], turns: list[tuple[Role, str]]) -> list[tuple[Role, str]]:
    system = text_value(values, "system")
    if system and turns[0][0] == "system":
        raise CellError("the chat has two system messages", fix="keep one: the column 'system', or the first turn")
    return [("system", system), *turns] if system else turns


def _turns(value: object, name: str) -> list[tuple[Role, str]]:
    """(role, text) of each turn. Raises ValueError for roles and parts that are not known."""
    cell = literal_cell(value, name)
    if isinstance(cell, dict) and all(isinstance(column, list) for column in cell.values()):
        # A sequence of objects as datasets may hold it: a list for every key.
        alike = len({len(column) for column in cell.values()}) == 1
        cell = [dict(zip(cell, turn, strict=True)) for turn in zip(*cell.values(), strict=True)] if alike else []
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
    role_key, text_key = (next((key for key in keys if key in turn), keys[0]) for keys in (_ROLE_KEYS, _TEXT_KEYS))
    for key, value in turn.items():
        if key not in (role_key, text_key) and not _is_harmless(key, value):
            if role_key not in turn:
                keys = ", ".join(map(repr, turn))
                raise CellError(
                    f"{name} has {keys}, and no 'role' that says who speaks",
                    fix='write every turn as {"role": "user", "content": "..."}',
                )
            raise CellError(
                f"{name} has {key!r}: {value!r:.40}, which is not read", fix=f"remove {key!r}, or leave the chat out"
            )
    role = turn.get(role_key)
    if not isinstance(role, str) or role.lower() not in _ROLES:
        raise CellError(
            f"{name} is by {role!r}", fix=f"allowed are {', '.join(_ROLES)}; leave out chats with other turns"
        )
    return _ROLES[role.lower()], _content(turn.get(text_key), name)


def _content(value: object, name: str) -> str:
    """The text of a turn, or of its parts {"type": "text", "text": ...}."""
    blocks = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    texts = []
    for block in blocks:
        if isinstance(block, Mapping) and block.get("type") == "text" and isinstance(block.get("text"), str):
            block = block["text"]
        if not isinstance(block, str):
            block_type = block.get("type", "an object") if isinstance(block, Mapping) else repr(block)
            raise CellError(
                f"{name} holds {block_type}, and only text is read", fix="leave the chat out, or its other parts"
            )
        texts.append(block)
    text = "\n".join(texts)
    if not text.strip():
        raise CellError(f"{name} is empty", fix="give the turn a text, or leave the chat out")
    return text


def _is_harmless(name: str, value: object) -> bool:
    """Whether it means the same as if it were not there."""
    if isinstance(value, str):
        return value.strip() in _EMPTY_TEXTS
    return is_missing(value) or value == [] or value == {} or (name == "weight" and value == 1)
