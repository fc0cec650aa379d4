"""Which texts of a prompt truncation may cut: posts anywhere; of a rule or a question the middle, if it is endless."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorica.data.read import rows_from_memory
from lorica.records import Message
from lorica.tasks import load_task
from lorica.tasks.base import TaskSettings
from lorica.tasks.message_builder import MessageBuilder

WORDS = [f"w{number}" for number in range(300)]
LONG = " ".join(WORDS)
MIDDLE = " ".join(WORDS[40:-40])


def trimmed(message: Message) -> list[str]:
    return [message.content[start:stop] for start, stop in message.trim]


def prompt(task: str, record: dict[str, Any], **settings: Any) -> Message:
    made = load_task(task, TaskSettings(**settings))
    (row,) = rows_from_memory([record], made.schemas)
    return made.render(row)[-1]


@pytest.mark.parametrize("text", [" ".join(WORDS[:200]), "x" * 1200, "short", "", " \n ", "a" + " " * 1300 + "b"])
def test_normal_texts_stay_whole(text: str) -> None:
    assert MessageBuilder().add("Q: ").add_protected(text).build("user") == Message("user", "Q: " + text)


def test_of_a_pathological_text_the_middle_may_go() -> None:
    message = MessageBuilder().add("Q: ").add_protected(LONG).add(" A:").build("user")
    assert message.content == f"Q: {LONG} A:"
    assert trimmed(message) == [MIDDLE]


def test_a_text_without_spaces_keeps_240_characters_of_each_end() -> None:
    text = "長" * 1201
    (span,) = MessageBuilder().add_protected(text).build("user").trim
    assert span == (240, 961)
    (span,) = MessageBuilder().add_protected("問: " + text).build("user").trim
    assert span == (240, 1204 - 240)


@given(st.lists(st.text("ab \n長", max_size=300), max_size=12).map(" ".join))
def test_the_ends_always_stay(text: str) -> None:
    message = MessageBuilder().add_protected(text).build("user")
    assert message.content == text
    for start, stop in message.trim:
        assert len(text) > 1200 or len(text.split()) > 200
        assert 0 < start <= stop < len(text)
        assert start <= len(text) - 1 - 100
        for end in (text[:start], text[stop:]):
            assert len(end.split()) >= 40 or len(end) >= 120
        assert text[start:stop] == text[start:stop].strip()


@pytest.mark.parametrize(
    ("task", "record", "settings"),
    [
        ("saq", {"question": LONG}, {}),
        ("qa", {"question": LONG}, {}),
        ("mcq", {"question": LONG, "options": ["a", "b"]}, {}),
        ("mcq", {"question": LONG, "options": ["a", "b"]}, {"method": "likelihood"}),
        ("mcq", {"question": "Which?", "options": ["a", LONG]}, {}),
        ("mcq", {"MCQID": "1", "prompt": LONG + "\nA. a\nB. b\nAnswer:", "choices": ["a", "b"]}, {}),
        ("rules", {"rule": LONG, "body": ""}, {}),
        ("rules", {"rule": LONG, "body": ""}, {"style": "structured"}),
    ],
)
def test_every_task_lets_the_middle_of_a_pathological_text_go(
    task: str, record: dict[str, Any], settings: dict[str, Any]
) -> None:
    body = {"body": "post"} if task == "rules" else {}
    expected = [MIDDLE, "post"] if task == "rules" else [MIDDLE]
    assert trimmed(prompt(task, record | body, **settings)) == expected


def test_options_that_a_prompt_lists_are_never_cut() -> None:
    options = [f"option {letter} " + "many words " * 30 for letter in "abcd"]
    listed = "\n".join(f"{letter}. {option.strip()}" for letter, option in zip("ABCD", options, strict=True))
    record = {"MCQID": "1", "prompt": f"Which?\n{listed}\nAnswer:", "choices": options}
    assert len(record["prompt"].split()) > 200  # type: ignore[attr-defined]
    assert prompt("mcq", record).trim == ()
