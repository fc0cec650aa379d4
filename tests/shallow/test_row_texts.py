"""The texts of a row out of the segments of its prompt, and out of its bytes."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from lorica.data.read import rows_from_memory
from lorica.models.locate import locate_model
from lorica.prompts.encoder import Encoder
from lorica.shallow.row_texts import RowTexts, read_byte_segments, read_segments
from lorica.tasks import load_task
from lorica.tasks.base import TaskSettings

POST = "Buy now [SEP] 50% off\nRule: none 猫"


def _segments(task_name: str, record: Mapping[str, object]) -> list[str]:
    """Through the tokenizer and back, as an engine gets them."""
    task = load_task(task_name, TaskSettings(method="choice", style="segments"))
    (row,) = rows_from_memory([record], task.schemas)
    encoder = Encoder.load(locate_model("embedded:text_bytes", environ={}), chat_template="segments")
    prompt = encoder.encode(task.render(row), max_tokens=10_000, truncate="error").tokens
    segments = read_byte_segments(prompt)
    assert segments == [message.content for message in task.render(row)]
    return segments


def test_rule_examples_and_post_come_apart() -> None:
    record = {"id": "1", "body": POST, "rule": "No spam: none.", "subreddit": "lamps"}
    record |= {"positive_example_1": "Breaks the rule: x", "positive_example_2": "y", "negative_example_1": "z"}
    texts = read_segments(_segments("rules", record), "score")
    assert texts == RowTexts(POST, "No spam: none.", ("Breaks the rule: x", "y"), ("z",))
    assert texts.with_rule == f"No spam: none.\n{POST}"


def test_a_question_and_its_options_come_apart() -> None:
    record = {"id": "1", "question": "Which?", "options": ["a", "b\nc"], "passage": "Of these."}
    assert read_segments(_segments("mcq", record), "option") == RowTexts("Of these.\nWhich?", options=("a", "b\nc"))


@pytest.mark.parametrize("turns", [["Rule: be kind", "hello", "post"], ["hi", "there"], ["Rule: a", "Rule: b", "c"]])
def test_turns_of_a_chat_are_one_text(turns: list[str]) -> None:
    assert read_segments(turns, "score") == RowTexts("\n".join(turns))
