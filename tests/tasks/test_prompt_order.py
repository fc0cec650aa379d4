"""What rows share stands first in a prompt, what is the row's own last."""

from __future__ import annotations

from itertools import takewhile

import msgspec
import pytest

from lorica.records import Row
from lorica.tasks.base import TaskSettings
from lorica.tasks.mcq import McqCase, McqTask
from lorica.tasks.rules import RulesCase, RulesTask

CASE = RulesCase(
    "Cheap watches!", "No advertising.", "r/watches", ("Buy now!", "A sale."), ("Which one?", "Mine runs.")
)
ROW = Row("1", CASE)
OTHER = Row("2", msgspec.structs.replace(CASE, body="I repaired my clock.", subreddit="r/clocks"))


def shared(one: str, other: str) -> str:
    """The beginning that both have."""
    return "".join(a for a, _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def text_of(task: RulesTask, row: Row) -> str:
    return "\n".join(message.content for message in task.render(row))


@pytest.mark.parametrize("method", RulesTask.methods)
@pytest.mark.parametrize("style", RulesTask.styles)
def test_all_that_two_posts_on_one_rule_share_stands_before_what_differs(style: str, method: str) -> None:
    task = RulesTask(TaskSettings(style=style, method=method))
    one, other = text_of(task, ROW), text_of(task, OTHER)
    own = one[len(shared(one, other)) :]
    # Behind the first word that differs come the community, the label of the post and the post: nothing else.
    otherwise = {"plain": "Cheap watches!", "segments": "watches\nCheap watches!"}
    assert own == otherwise.get(style, "watches\nNew post:\nCheap watches!")


def test_the_first_message_is_the_same_for_every_rule_and_example() -> None:
    task = RulesTask(TaskSettings(style="structured"))
    elsewhere = Row("3", RulesCase("Hi", "Be kind.", "r/all", ("Go away!",), ("Hello!",)))
    assert task.render(ROW)[0] == task.render(elsewhere)[0]


def test_a_multiple_choice_prompt_opens_with_the_instruction_and_the_passage() -> None:
    def prompt(question: str) -> str:
        row = Row("1", McqCase(question, ("a", "b"), passage="A long passage."))
        return McqTask(TaskSettings()).render(row)[0].content

    common = shared(prompt("Who?"), prompt("Is it?"))
    assert common == "Answer with the letter of the right option.\nPassage: A long passage.\nQuestion: "
