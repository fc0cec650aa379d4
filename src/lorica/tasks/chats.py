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
        return "\n".join(turn_text for _, turn_text in self.turns)


def chat_messages(chat_case: ChatCase) -> tuple[Message, ...]:
    """The turns as messages. Truncation may cut all of the turns but the first (a system message) and the last."""
    last_index = len(chat_case.turns) - 1
    messages = []
    for turn_index, (role, text) in enumerate(chat_case.turns):
        never_cut = role == "system" or turn_index == last_index
        messages.append(
            (MessageBuilder().add_protected(text) if never_cut else MessageBuilder().add_truncatable(text)).build(role)
        )
    return tuple(messages)


def with_chat_of(row: Row, donor_row: Row) -> Row:
    """The row with the turns of another chat; as it is where one of the two is no chat."""
    is_chat = isinstance(row.case, ChatCase) and isinstance(donor_row.case, ChatCase)
    return msgspec.structs.replace(row, case=donor_row.case) if is_chat else row


def chat_schemas(parse_gold: Gold) -> tuple[RowSchema, ...]:
    """The tables of chats, whose turns say who speaks."""
    return (
        _schema(
            "chats as messages",
            ("messages",),
            (),
            lambda cell_values: _turns(cell_values["messages"], "messages"),
            parse_gold,
        ),
        _schema(
            "ShareGPT",
            ("conversations",),
            ("system",),
            lambda cells: _with_system(cells, _turns(cells["conversations"], "conversations")),
            parse_gold,
        ),
    )


def pair_schema(parse_gold: Gold) -> RowSchema:
    """The table of prompts and completions, asked as chats of one turn."""
    return _schema("prompt and completion", ("prompt",), ("completion", "system", *_OPTIONS), _pair, parse_gold)


def _schema(
    name: str,
    required: tuple[str, ...],
    optional: tuple[str, ...],
    parse_turns: Callable[[Mapping[str, Any]], list[tuple[Role, str]]],
    parse_gold: Gold,
) -> RowSchema:
    def build(cell_values: Mapping[str, Any], row_id: str, line_number: int) -> Row:
        for column in (*_REFUSED, *_OPTIONS):
            if column in cell_values and not _is_harmless(column, cell_values[column]):
                raise CellError(
                    f"the chat comes with {column!r}, and would be asked without it",
                    fix=f"remove {column!r} where it does not matter, or leave such rows out",
                )
        return _build(parse_turns(cell_values), cell_values, parse_gold, row_id, line_number)

    aliases = {"completion": ("response", "answer", "output"), "conversations": ("conversation",)}
    gold_column = "completion" if "completion" in optional else ""
    return RowSchema(name, required, (*optional, *_OWN, *_REFUSED), "id", build, aliases=aliases, gold=gold_column)


def _build(
    chat_turns: list[tuple[Role, str]], cell_values: Mapping[str, Any], parse_gold: Gold, row_id: str, line_number: int
) -> Row:
    answers = sum(role == "assistant" for role, _ in chat_turns)
    answer = chat_turns.pop()[1].strip() if chat_turns[-1][0] == "assistant" else None
    if not chat_turns or chat_turns[-1][0] != "user":
        position_words = "at its end" if answer is None else "before its answer"
        raise CellError(
            f"the chat has no turn of the user {position_words}",
            fix="end it with the user, or with the answer to the user",
        )
    gold_label, gold_notes = (None, ()) if answer is None else parse_gold(answer)
    return Row(
        id=row_id,
        case=ChatCase(tuple(chat_turns)),
        subject=text_value(cell_values, "subject"),
        gold=gold_label,
        group=text_value(cell_values, "group"),
        line=line_number,
        notes=(*((_SEVERAL,) if answer is not None and answers > 1 else ()), *gold_notes),
    )


def _pair(cell_values: Mapping[str, Any]) -> list[tuple[Role, str]]:
    """The turns of a prompt and a completion, each a text or a list of messages."""
    chat_turns: list[tuple[Role, str]] = []
    for column_name, role in (("prompt", "user"), ("completion", "assistant")):
        cell_value = cell_values.get(column_name)
        if isinstance(cell_value, list):
            chat_turns += _turns(cell_value, column_name)
        elif not is_missing(cell_value):
            chat_turns.append((_ROLES[role], needed_text(cell_values, column_name)))
    return _with_system(cell_values, chat_turns)


def _with_system(cell_values: Mapping[str, Any], chat_turns: list[tuple[Role, str]]) -> list[tuple[Role, str]]:
    system = text_value(cell_values, "system")
    if system and chat_turns[0][0] == "system":
        raise CellError("the chat has two system messages", fix="keep one: the column 'system', or the first turn")
    return [("system", system), *chat_turns] if system else chat_turns


def _turns(cell_value: object, column_name: str) -> list[tuple[Role, str]]:
    """(role, text) of each turn. Raises ValueError for roles and parts that are not known."""
    chat_cell = literal_cell(cell_value, column_name)
    if isinstance(chat_cell, dict) and all(isinstance(column_values, list) for column_values in chat_cell.values()):
        # A sequence of objects as datasets may hold it: a list for every key.
        equal_lengths = len({len(column_values) for column_values in chat_cell.values()}) == 1
        chat_cell = (
            [dict(zip(chat_cell, turn_values, strict=True)) for turn_values in zip(*chat_cell.values(), strict=True)]
            if equal_lengths
            else []
        )
    if not isinstance(chat_cell, list) or not chat_cell:
        raise CellError(f"{column_name!r} is no list of turns", fix='write [{"role": "user", "content": "..."}, ...]')
    chat_turns = [_turn(turn_values, f"{column_name}[{index}]") for index, turn_values in enumerate(chat_cell)]
    if any(role == "system" for role, _ in chat_turns[1:]):
        raise CellError(f"{column_name!r} has a system message behind its first turn", fix="put it first")
    return chat_turns


def _turn(turn_object: object, turn_name: str) -> tuple[Role, str]:
    if not isinstance(turn_object, Mapping):
        raise CellError(
            f"{turn_name} is {turn_object!r:.40}, and must be an object", fix='write {"role": "user", "content": "..."}'
        )
    role_key, text_key = (
        next((turn_key for turn_key in keys if turn_key in turn_object), keys[0]) for keys in (_ROLE_KEYS, _TEXT_KEYS)
    )
    for turn_key, extra_value in turn_object.items():
        if turn_key not in (role_key, text_key) and not _is_harmless(turn_key, extra_value):
            if role_key not in turn_object:
                present_keys = ", ".join(map(repr, turn_object))
                raise CellError(
                    f"{turn_name} has {present_keys}, and no 'role' that says who speaks",
                    fix='write every turn as {"role": "user", "content": "..."}',
                )
            raise CellError(
                f"{turn_name} has {turn_key!r}: {extra_value!r:.40}, which is not read",
                fix=f"remove {turn_key!r}, or leave the chat out",
            )
    role_name = turn_object.get(role_key)
    if not isinstance(role_name, str) or role_name.lower() not in _ROLES:
        raise CellError(
            f"{turn_name} is by {role_name!r}", fix=f"allowed are {', '.join(_ROLES)}; leave out chats with other turns"
        )
    return _ROLES[role_name.lower()], _content(turn_object.get(text_key), turn_name)


def _content(content: object, content_name: str) -> str:
    """The text of a turn, or of its parts {"type": "text", "text": ...}."""
    blocks = []
    for block in content if isinstance(content, Sequence) and not isinstance(content, str) else [content]:
        if isinstance(block, Mapping) and block.get("type") == "text" and isinstance(block.get("text"), str):
            block = block["text"]
        if not isinstance(block, str):
            block_type = block.get("type", "an object") if isinstance(block, Mapping) else repr(block)
            message = f"{content_name} holds {block_type}, and only text is read"
            raise CellError(message, fix="leave the chat out, or its other parts")
        blocks.append(block)
    joined_text = "\n".join(blocks)
    if not joined_text.strip():
        raise CellError(f"{content_name} is empty", fix="give the turn a text, or leave the chat out")
    return joined_text


def _is_harmless(column_name: str, value: object) -> bool:
    """Whether it means the same as if it were not there."""
    if isinstance(value, str):
        return value.strip() in _EMPTY_TEXTS
    return is_missing(value) or value == [] or value == {} or (column_name == "weight" and value == 1)
