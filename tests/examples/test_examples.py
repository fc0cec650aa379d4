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

from lorica.data.read import read_rows
from lorica.data.split import components_of
from lorica.tasks import load_task
from lorica.tasks.base import TaskSettings
from tools import example_rows

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
FILES = ("questions", "validation", "test")
SUBJECTS = {"mcq": {"verbs"}, "saq": {"orders", "trips", "lost"}}
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


def read_posts(file_name: str) -> list[dict[str, str]]:
    with (EXAMPLES / "rules" / file_name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def read_questions(task_name: str, file_name: str) -> list[dict[str, Any]]:
    lines = (EXAMPLES / task_name / f"{file_name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


POSTS = read_posts("posts.csv")
TEST_POSTS = read_posts("test.csv")
MCQ = {file_name: read_questions("mcq", file_name) for file_name in FILES}
SAQ = {file_name: read_questions("saq", file_name) for file_name in FILES}


# --- rules ---


def test_posts_have_exactly_the_columns_of_a_rule_violation_table() -> None:
    assert list(POSTS[0]) == COLUMNS
    assert all(None not in post and None not in post.values() for post in POSTS)
    assert all(list(post) == COLUMNS and None not in post.values() for post in TEST_POSTS)
    assert (len(POSTS), len(TEST_POSTS)) == (464, 160)
    assert len({post["row_id"] for post in POSTS + TEST_POSTS}) == len(POSTS + TEST_POSTS)


@pytest.mark.parametrize(("posts", "per_label"), [(POSTS, 58), (TEST_POSTS, 20)], ids=["posts", "test"])
def test_each_rule_has_as_many_violations_as_innocent_posts(posts: list[dict[str, str]], per_label: int) -> None:
    counts = Counter((post["rule"], post["rule_violation"]) for post in posts)
    assert len({rule for rule, _ in counts}) == 4
    assert set(counts.values()) == {per_label}
    assert {label for _, label in counts} == {"0", "1"}


def test_each_community_sees_both_kinds_of_posts_so_that_its_name_gives_nothing_away() -> None:
    rules = defaultdict(set)
    for post in POSTS:
        rules[post["subreddit"]].add(post["rule"])
    assert all(len(found) == 1 for found in rules.values())
    for community in rules:
        for posts in (POSTS, TEST_POSTS):
            labels = Counter(post["rule_violation"] for post in posts if post["subreddit"] == community)
            assert abs(labels["0"] - labels["1"]) <= 2, community


def test_bodies_are_short_and_distinct() -> None:
    bodies = [post["body"] for post in POSTS + TEST_POSTS]
    assert [body for body in bodies if not 6 <= len(body.split()) <= 30] == []
    assert near_duplicates(bodies, 0.6) == []


def test_example_posts_are_few_short_and_never_a_body() -> None:
    bodies = {post["body"].lower() for post in POSTS + TEST_POSTS}
    variants = defaultdict(set)
    for post in POSTS + TEST_POSTS:
        examples = tuple(post[column] for column in EXAMPLE_COLUMNS)
        assert len(set(examples)) == 4
        assert all(len(example.split()) < 12 and example.lower() not in bodies for example in examples)
        variants[post["rule"]].add(examples)
    assert all(len(found) == 2 for found in variants.values())
    pool = [example for found in variants.values() for examples in found for example in examples]
    assert near_duplicates([*pool, *(post["body"] for post in POSTS + TEST_POSTS)], 0.6) == []


# --- mcq and saq ---


@pytest.mark.parametrize(
    ("task_name", "files", "keys"),
    [
        ("mcq", MCQ, ["id", "subject", "question", "options", "answer"]),
        ("saq", SAQ, ["id", "subject", "question", "answer"]),
    ],
)
def test_questions_have_their_keys_and_subjects(
    task_name: str, files: dict[str, list[dict[str, Any]]], keys: list[str]
) -> None:
    for rows in files.values():
        assert all(list(row) == keys for row in rows)
        subjects = Counter(row["subject"] for row in rows)
        assert set(subjects) == SUBJECTS[task_name]
        assert len(set(subjects.values())) == 1


def test_ids_are_unique_over_all_files() -> None:
    ids = [row["id"] for files in (MCQ, SAQ) for rows in files.values() for row in rows]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize(("task_name", "suffix"), [("rules", "csv"), ("mcq", "jsonl"), ("saq", "jsonl")])
def test_no_row_is_a_near_duplicate_of_a_row_of_another_file(task_name: str, suffix: str) -> None:
    task = load_task(task_name, TaskSettings(style="plain" if task_name == "rules" else ""))
    paths = sorted((EXAMPLES / task_name).glob(f"*.{suffix}"))
    rows_by_file = [list(read_rows(path, task.schemas)) for path in paths]
    file_of_row = [path.name for path, rows in zip(paths, rows_by_file, strict=True) for _ in rows]
    for component in components_of([row for rows in rows_by_file for row in rows], task.text):
        assert len({file_of_row[row_index] for row_index in component}) == 1


def test_the_files_are_what_the_tool_writes() -> None:
    for files, generated in ((MCQ, example_rows.mcq_rows()), (SAQ, example_rows.saq_rows())):
        assert list(files.values()) == generated


def test_no_verb_name_town_thing_or_place_stands_in_two_files() -> None:
    drawn = {*example_rows.NAMES, *example_rows.TOWNS, *example_rows.THINGS, *example_rows.PLACES}
    singular = {word.lower().removesuffix("s") for word in drawn}
    words_by_file = [
        {word.removesuffix("s") for row in rows for word in words(row["question"])} & singular for rows in SAQ.values()
    ]
    forms_by_file = [{option for row in rows for option in row["options"]} for rows in MCQ.values()]
    for in_files in (words_by_file, forms_by_file):
        assert all(in_files)
        for in_file, in_other_file in itertools.combinations(in_files, 2):
            assert in_file & in_other_file == set()


def test_mcq_has_four_different_options_and_a_valid_letter() -> None:
    for row in itertools.chain.from_iterable(MCQ.values()):
        assert len({option.lower() for option in row["options"]}) == len(row["options"]) == 4, row["id"]
        assert row["answer"] in {"A", "B", "C", "D"}, row["id"]


@pytest.mark.parametrize("file_name", FILES)
def test_mcq_letters_are_balanced(file_name: str) -> None:
    letters = Counter(row["answer"] for row in MCQ[file_name])
    assert len(letters) == 4
    assert max(letters.values()) - min(letters.values()) <= 1


def right_answer(row: dict[str, Any]) -> str:
    if "options" in row:
        return str(row["options"]["ABCD".index(row["answer"])])
    return str(row["answer"])


def message_and_question(text: str) -> tuple[str, str]:
    message, end, question = text.rpartition(". ")
    return message + end, question


def test_saq_answers_stand_in_the_message_and_not_in_the_question() -> None:
    for row in itertools.chain.from_iterable(SAQ.values()):
        message, question = message_and_question(row["question"])
        answer = row["answer"].lower()
        assert question.endswith("?"), row["id"]
        assert answer in words(message), row["id"]
        assert answer not in words(question), row["id"]


@pytest.mark.parametrize(
    ("verb", "forms"),
    [
        ("walk", ("walks", "walked", "walking")),
        ("bake", ("bakes", "baked", "baking")),
        ("cry", ("cries", "cried", "crying")),
        ("play", ("plays", "played", "playing")),
        ("stop", ("stops", "stopped", "stopping")),
        ("wash", ("washes", "washed", "washing")),
        ("tie", ("ties", "tied", "tying")),
    ],
)
def test_verbs_have_their_regular_forms(verb: str, forms: tuple[str, ...]) -> None:
    assert example_rows.verb_forms(verb) == forms


# --- all texts ---


def test_texts_are_plain_and_name_no_site_but_the_reserved_one() -> None:
    questions = [row for files in (MCQ, SAQ) for rows in files.values() for row in rows]
    texts = [value for post in POSTS + TEST_POSTS for value in post.values()]
    texts += [row["question"] for row in questions] + [right_answer(row) for row in questions]
    for text in texts:
        assert PLAIN.fullmatch(text), text
        assert text == text.strip()
        assert not re.search(r"https?:|www\.|@|\d{3}", text) or text.isdigit(), text
        assert not re.search(r"\w\.(com|org|net|io)\b", text.replace(SITE, "")), text
