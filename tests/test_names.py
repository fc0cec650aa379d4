"""One key for the spellings of a subject, wherever subjects are compared."""

from __future__ import annotations

from pathlib import Path

import pytest

from lorica.names import closest_file, count_of, first_repeated, spellings, subject_key

SAME = [
    ("History", "history", "HISTORY", " history ", "history.", "history\u00a0", "\u200bhistory\ufeff", "(History)"),
    ("World History", "world_history", "WORLD-HISTORY", "world  history", "World\u00a0History", "world\u2011history"),
    ("World History", "world\thistory", "WORLD.HISTORY", "world, history", "Ｗorld　History", "wor\u00adld history"),
    ("Straße", "STRASSE", "strasse", "straſſe"),
    ("İstanbul", "istanbul", "ISTANBUL", "i\u0307stanbul", "ıstanbul"),
    ("café", "Cafe\u0301", "CAFÉ"),
    ("ﬁlm", "FILM"),
    ("हिन्दी कविता", "हिन्दी_कविता"),
    ("C++", "c++", " C++"),
    ("Women's studies", "women’s Studies"),
    ("❤\ufe0f", "❤"),
    ("???", " ??? "),
]
DIFFERENT = ["C", "C++", "C#", "C*", "का", "की", "???", "!!!", "x²", "x", "worldhistory", "world history", "1.1", "11"]
DIFFERENT += ["C++ basics", "C# basics", "C basics", "100%", "100", "😀", "😁"]


@pytest.mark.parametrize("names", SAME)
def test_spellings_of_one_subject(names: tuple[str, ...]) -> None:
    assert len(set(map(subject_key, names))) == 1
    assert list(spellings(names).values()) == [names]
    assert all(subject_key(subject_key(name)) == subject_key(name) for name in names)


def test_other_subjects_stay_apart() -> None:
    assert len(set(map(subject_key, DIFFERENT))) == len(DIFFERENT)
    assert spellings(["b", "a", "B", "b"]) == {"b": ("b", "B"), "a": ("a",)}


@pytest.mark.parametrize(
    ("name", "siblings", "near"),
    [
        ("out.csv", ["posts.csv", "a.csv"], ""),
        ("pots.csv", ["posts.csv", "a.csv"], "posts.csv"),
        ("posts.json", ["posts.jsonl", "posts.csv.gz"], "posts.jsonl"),
        ("rules-qwen2.5-1.5b", ["sums-llama-3.1-8b", "rules-qwen2.5-0.5b"], "rules-qwen2.5-0.5b"),
        ("a", [], ""),
    ],
)
def test_a_file_is_not_like_another_by_its_suffix_alone(
    name: str, siblings: list[str], near: str, tmp_path: Path
) -> None:
    for sibling in siblings:
        (tmp_path / sibling).touch()
    assert closest_file(tmp_path / name) == near


def test_what_is_counted_is_one_or_several() -> None:
    assert [count_of(count, "row") for count in (0, 1, 2, 2_000)] == ["0 rows", "1 row", "2 rows", "2,000 rows"]
    assert [count_of(count, "row is", "rows are") for count in (1, 3)] == ["1 row is", "3 rows are"]


def test_the_first_name_that_is_there_twice() -> None:
    assert first_repeated(["a", "b", "c", "c", "b"]) == "b"
    assert first_repeated("abc") is None
