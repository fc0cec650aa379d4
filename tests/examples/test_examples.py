"""The shipped example data keep the promises of examples/README.md."""

from __future__ import annotations

import csv
import itertools
import json
import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
COLUMNS = [
    "row_id",
    "body",
    "rule",
    "subreddit",
    "positive_example_1",
    "positive_example_2",
    "negative_example_1",
    "negative_example_2",
    "rule_violation",
]
EXAMPLE_COLUMNS = COLUMNS[4:8]
SUBJECTS = {"reading", "language", "nature"}
# Letters, digits, and the punctuation of plain typing: what every tokenizer and terminal can show.
PLAIN = re.compile(r"[A-Za-z0-9 .,;:!?'\"%()_\-]+")
# The one site name that is allowed, because it is reserved for examples.
SITE = "example.com"


def words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9']+", text.lower())


def near_duplicates(texts: list[str], limit: float) -> list[tuple[str, str]]:
    bags = [(text, set(words(text))) for text in texts]
    return [
        (one, other) for (one, a), (other, b) in itertools.combinations(bags, 2) if len(a & b) / len(a | b) >= limit
    ]


def read_posts() -> list[dict[str, str]]:
    with (EXAMPLES / "rules" / "posts.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def read_questions(name: str) -> list[dict[str, Any]]:
    lines = (EXAMPLES / name / "questions.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


POSTS = read_posts()
MCQ = read_questions("mcq")
SAQ = read_questions("saq")


# --- rules ---


def test_posts_have_exactly_the_columns_of_a_rule_violation_table() -> None:
    assert list(POSTS[0]) == COLUMNS
    assert all(None not in post and None not in post.values() for post in POSTS)
    assert len(POSTS) == 464
    assert len({post["row_id"] for post in POSTS}) == len(POSTS)


def test_each_rule_has_as_many_violations_as_innocent_posts() -> None:
    counts = Counter((post["rule"], post["rule_violation"]) for post in POSTS)
    assert len({rule for rule, _ in counts}) == 4
    assert set(counts.values()) == {58}
    assert {label for _, label in counts} == {"0", "1"}


def test_each_community_sees_both_kinds_of_posts_so_that_its_name_gives_nothing_away() -> None:
    rules = defaultdict(set)
    for post in POSTS:
        rules[post["subreddit"]].add(post["rule"])
    assert all(len(found) == 1 for found in rules.values())
    for community in rules:
        labels = Counter(post["rule_violation"] for post in POSTS if post["subreddit"] == community)
        assert abs(labels["0"] - labels["1"]) <= 2, community


def test_bodies_are_short_and_distinct() -> None:
    bodies = [post["body"] for post in POSTS]
    assert [body for body in bodies if not 6 <= len(body.split()) <= 30] == []
    assert near_duplicates(bodies, 0.6) == []


def test_example_posts_are_few_short_and_never_a_body() -> None:
    bodies = {post["body"].lower() for post in POSTS}
    variants = defaultdict(set)
    for post in POSTS:
        examples = tuple(post[column] for column in EXAMPLE_COLUMNS)
        assert len(set(examples)) == 4
        assert all(len(example.split()) < 12 and example.lower() not in bodies for example in examples)
        variants[post["rule"]].add(examples)
    assert all(len(found) == 2 for found in variants.values())
    pool = [example for found in variants.values() for examples in found for example in examples]
    assert near_duplicates([*pool, *(post["body"] for post in POSTS)], 0.6) == []


# --- mcq and saq ---


@pytest.mark.parametrize(
    ("rows", "keys", "per_subject"),
    [
        (MCQ, ["id", "subject", "question", "options", "answer"], 70),
        (SAQ, ["id", "subject", "question", "answer"], 110),
    ],
    ids=["mcq", "saq"],
)
def test_questions_have_their_keys_and_three_equal_subjects(
    rows: list[dict[str, Any]], keys: list[str], per_subject: int
) -> None:
    assert all(list(row) == keys for row in rows)
    assert Counter(row["subject"] for row in rows) == dict.fromkeys(SUBJECTS, per_subject)


def test_ids_are_unique_over_both_files_and_no_question_is_in_both() -> None:
    ids = [row["id"] for row in MCQ + SAQ]
    assert len(set(ids)) == len(ids)
    assert near_duplicates([row["question"] for row in MCQ], 0.8) == []
    assert near_duplicates([row["question"] for row in SAQ], 0.8) == []
    assert {row["question"] for row in MCQ} & {row["question"] for row in SAQ} == set()


def test_mcq_has_four_different_options_and_a_valid_letter() -> None:
    for row in MCQ:
        assert len({option.lower() for option in row["options"]}) == len(row["options"]) == 4, row["id"]
        assert row["answer"] in {"A", "B", "C", "D"}, row["id"]


@pytest.mark.parametrize("subject", sorted(SUBJECTS))
def test_mcq_letters_are_balanced(subject: str) -> None:
    letters = Counter(row["answer"] for row in MCQ if row["subject"] == subject)
    assert len(letters) == 4
    assert max(letters.values()) - min(letters.values()) <= 1


def test_saq_answers_are_one_to_three_words() -> None:
    assert [row["id"] for row in SAQ if not 1 <= len(row["answer"].split()) <= 3] == []


def sentences(text: str) -> list[str]:
    return re.split(r'(?<=[.!?"]) (?=[A-Z])', text)


def story(question: str) -> str:
    """The text of a `reading` question without its last sentence, which asks."""
    return " ".join(sentences(question)[:-1])


def right_answer(row: dict[str, Any]) -> str:
    if "options" in row:
        return str(row["options"]["ABCD".index(row["answer"])])
    return str(row["answer"])


def test_reading_answers_occur_in_the_story_and_not_in_the_question() -> None:
    for row in MCQ + SAQ:
        if row["subject"] == "reading":
            answer = right_answer(row).lower()
            assert answer in words(story(row["question"])), row["id"]
            assert row["question"].endswith("?"), row["id"]
            assert answer not in words(sentences(row["question"])[-1]), row["id"]


def test_reading_distractors_often_come_from_the_story_too() -> None:
    rows = [row for row in MCQ if row["subject"] == "reading"]
    told = [sum(option.lower() in words(story(row["question"])) for option in row["options"]) for row in rows]
    assert sum(count >= 2 for count in told) >= len(rows) // 2


# --- all texts ---


def test_texts_are_plain_and_name_no_site_but_the_reserved_one() -> None:
    texts = [value for post in POSTS for value in post.values()]
    texts += [row["question"] for row in MCQ + SAQ] + [right_answer(row) for row in SAQ]
    texts += [option for row in MCQ for option in row["options"]]
    for text in texts:
        assert PLAIN.fullmatch(text), text
        assert text == text.strip()
        assert not re.search(r"https?:|www\.|@|\d{3}", text) or text.isdigit(), text
        assert not re.search(r"\w\.(com|org|net|io)\b", text.replace(SITE, "")), text
