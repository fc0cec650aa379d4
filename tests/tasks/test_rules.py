"""The task `rules`: rows, prompts, scores."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from lorica.data.read import read_rows, rows_from_memory
from lorica.errors import ConfigError, DataError
from lorica.records import Row
from lorica.tasks.base import TaskSettings
from lorica.tasks.rules import RulesCase, RulesTask

SHARED = Path(__file__).resolve().parents[2] / ".." / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data folder is not beside the repository")

FULL = {
    "row_id": "17",
    "body": " Cheap watches at my shop! ",
    "rule": "No advertising.",
    "subreddit": "r/watches",
    "positive_example_1": "Buy now!",
    "positive_example_2": "My store has a sale.",
    "negative_example_1": "Which watch is this?",
    "negative_example_2": "I repaired my watch.",
    "rule_violation": "1",
}


def task_of(**settings: Any) -> RulesTask:
    return RulesTask(TaskSettings(**settings))


def one(record: dict[str, Any], task: RulesTask | None = None) -> Row:
    return rows_from_memory([record], (task or task_of()).schemas)[0]


def test_a_full_row_becomes_a_case() -> None:
    row = one(FULL)
    assert (row.id, row.gold, row.group, row.subject) == ("17", 1, "", "")
    assert row.case == RulesCase(
        body="Cheap watches at my shop!",
        rule="No advertising.",
        subreddit="r/watches",
        breaking=("Buy now!", "My store has a sale."),
        allowed=("Which watch is this?", "I repaired my watch."),
    )


def test_body_and_rule_are_enough() -> None:
    row = one({"body": "hello", "rule": "Be kind"})
    assert (row.id, row.gold) == ("row-1", None)


@pytest.mark.parametrize(
    ("label", "gold"),
    [
        (1, 1),
        (0, 0),
        (1.0, 1),
        ("0.0", 0),
        (True, 1),
        (False, 0),
        ("Yes", 1),
        (" no ", 0),
        ("", None),
        (None, None),
        (math.nan, None),
    ],
)
def test_spellings_of_labels(label: object, gold: int | None) -> None:
    assert one({**FULL, "rule_violation": label}).gold == gold


def test_an_unknown_label_is_refused_with_what_is_allowed() -> None:
    with pytest.raises(DataError, match=r"(?s)'spam' is neither.*violation.*task.positive_labels"):
        one({**FULL, "rule_violation": "spam"})


def test_own_labels() -> None:
    task = task_of(positive_labels=("spam",), negative_labels=("Ham",))
    assert one({**FULL, "rule_violation": "SPAM"}, task).gold == 1
    assert one({**FULL, "rule_violation": "ham"}, task).gold == 0
    with pytest.raises(DataError, match="'1' is neither"):
        one(FULL, task)
    with pytest.raises(ConfigError, match=r"\['1'\]"):
        task_of(positive_labels=("1",), negative_labels=("1.0", "0"))


def test_fallback_score_must_be_a_probability() -> None:
    with pytest.raises(ConfigError, match=r"fallback_score=1\.5"):
        task_of(fallback_score=1.5)


def test_plain_prompt_is_exactly_this() -> None:
    (message,) = task_of().render(one(FULL))
    assert message.content == (
        "Rule: No advertising.\nDoes the post break the rule? Answer Yes or No.\nPost: Cheap watches at my shop!"
    )
    assert [message.content[a:b] for a, b in message.trim] == ["Cheap watches at my shop!"]


def test_structured_prompt_is_exactly_this() -> None:
    system, user = task_of(style="structured", method="generate").render(one(FULL))
    assert (system.role, system.trim) == ("system", ())
    assert system.content == (
        "You judge whether a post breaks a community rule. "
        "Answer with one number from 0 (does not break it) to 1 (breaks it) and nothing else."
    )
    assert user.content == (
        "Rule:\nNo advertising.\n\n"
        "Posts that break the rule:\n- Buy now!\n- My store has a sale.\n\n"
        "Posts that do not break the rule:\n- Which watch is this?\n- I repaired my watch.\n\n"
        "Community: r/watches\nNew post:\nCheap watches at my shop!"
    )
    assert [user.content[a:b] for a, b in user.trim] == [
        "Buy now!",
        "My store has a sale.",
        "Which watch is this?",
        "I repaired my watch.",
        "Cheap watches at my shop!",
    ]


def test_contrastive_has_three_steps_and_no_empty_sections() -> None:
    system, user = task_of(style="contrastive").render(one({"body": "hello", "rule": "Be kind"}))
    assert system.content.endswith("Answer Yes or No.")
    assert [line[:2] for line in user.content.splitlines() if line[:1].isdigit()] == ["1.", "2.", "3."]
    assert "Posts that" not in user.content
    assert "Community" not in user.content


def test_contrastive_with_examples_is_exactly_this() -> None:
    system, user = task_of(style="contrastive").render(one({**FULL, "subreddit": ""}))
    assert system.content == (
        "You compare a post with examples to judge whether it breaks a community rule. Answer Yes or No."
    )
    assert user.content.split("- I repaired my watch.\n\n")[1] == (
        "Think in three steps, silently:\n"
        "1. What do the posts that break the rule have in common?\n"
        "2. What sets the posts that do not break it apart?\n"
        "3. Which of the two is the new post closer to?\n\n"
        "New post:\nCheap watches at my shop!"
    )


def test_contrastive_without_examples_asks_to_imagine_them() -> None:
    system, user = task_of(style="contrastive").render(one({"body": "hello", "rule": "Be kind"}))
    assert system.content == "You judge whether a post breaks a community rule. Answer Yes or No."
    assert user.content == (
        "Rule:\nBe kind\n\n"
        "Think in three steps, silently:\n"
        "1. What would a post that breaks the rule look like?\n"
        "2. What would a post that does not break it look like?\n"
        "3. Which of the two is the new post closer to?\n\n"
        "New post:\nhello"
    )


@pytest.mark.parametrize(
    ("given", "first", "second"),
    [
        ("positive_example_1", "1. What do the posts", "2. What would a post that does not break it"),
        ("negative_example_2", "1. What would a post that breaks", "2. What sets the posts"),
    ],
)
def test_contrastive_speaks_only_of_examples_that_are_there(given: str, first: str, second: str) -> None:
    record = {"body": "hello", "rule": "Be kind", given: "an example"}
    system, user = task_of(style="contrastive").render(one(record))
    assert "with examples" in system.content
    assert f"\n{first}" in user.content
    assert f"\n{second}" in user.content


@pytest.mark.parametrize("style", ["plain", "structured", "contrastive"])
def test_rows_of_one_rule_share_all_but_the_post(style: str) -> None:
    task = task_of(style=style)
    one_prompt, other = (task.render(one({**FULL, "body": body})) for body in ("first", "second"))
    assert one_prompt[:-1] == other[:-1]
    assert one_prompt[-1].content.removesuffix("first") == other[-1].content.removesuffix("second")


def test_score_is_yes_against_no() -> None:
    reading = task_of().parse_logprobs(one(FULL), [math.log(0.3), math.log(0.1)], [1, 1])
    assert reading.score == pytest.approx(0.75)
    assert reading.scores == pytest.approx({"Yes": 0.75, "No": 0.25})
    assert (reading.answer, reading.stage, reading.valid) == ("Yes", "choice", True)


def test_extreme_log_probabilities_stay_finite() -> None:
    reading = task_of().parse_logprobs(one(FULL), [-2000.0, -1000.0], [1, 1])
    assert (reading.score, reading.answer) == (0.0, "No")
    assert task_of().parse_logprobs(one(FULL), [-math.inf, -1.0], [1, 1]).score == 0.0
    for broken in ([math.nan, -1.0], [-math.inf, -math.inf]):
        reading = task_of().parse_logprobs(one(FULL), broken, [1, 1])
        assert (reading.valid, reading.answer, reading.score) == (False, None, None)


def test_a_wrong_number_of_log_probabilities_is_a_bug_that_shows() -> None:
    with pytest.raises(ValueError, match="2 choices have 1"):
        task_of().parse_logprobs(one(FULL), [-1.0], [1])


def test_targets() -> None:
    yes, no = one(FULL), one({**FULL, "rule_violation": "0"})
    assert [task_of().target(row) for row in (yes, no)] == ["Yes", "No"]
    task = task_of(method="generate")
    assert [task.target(row) for row in (yes, no)] == ["1.0", "0.0"]
    assert [task.parse_text(row, task.target(row)).score for row in (yes, no)] == [1.0, 0.0]
    assert task_of().choices(yes) == ("Yes", "No")
    assert task.choices(yes) is None


def test_generated_text_is_read_by_stage() -> None:
    task = task_of(method="generate", fallback_score=0.25)
    readings = [task.parse_text(one(FULL), text) for text in ("0.9", "I say 0.2.", "It violates it", "who knows")]
    assert [(r.stage, r.score, r.answer, r.valid) for r in readings] == [
        ("whole", 0.9, "Yes", True),
        ("first_number", 0.2, "No", True),
        ("keyword", 1.0, "Yes", True),
        ("fallback", 0.25, None, False),
    ]
    assert readings[3].problem


@needs_shared
def test_the_sms_file_reads_with_a_mapping() -> None:
    task = task_of(positive_labels=("spam",), negative_labels=("ham",))
    rows = list(
        read_rows(
            SHARED / "sms_spam" / "messages.jsonl",
            task.schemas,
            columns={"body": "text", "rule_violation": "label"},
            constants={"rule": "No unsolicited advertising."},
        )
    )
    assert len(rows) == 2000
    assert rows[0].id == "sms-0000"
    assert 200 < sum(row.gold == 1 for row in rows) < 1000
    assert all(row.gold in (0, 1) for row in rows)


@needs_shared
def test_hatecheck_is_grouped_by_functionality() -> None:
    task = task_of(positive_labels=("hateful",), negative_labels=("non-hateful",))
    rows = list(
        read_rows(
            SHARED / "hatecheck" / "cases.jsonl",
            task.schemas,
            columns={"body": "text", "rule_violation": "label", "group": "functionality"},
            constants={"rule": "No hateful content."},
        )
    )
    assert len(rows) == 1923
    assert len({row.group for row in rows}) == 15
