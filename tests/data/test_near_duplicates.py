"""Near-duplicates: what counts as one, and that the fast search finds what comparing all pairs finds."""

from __future__ import annotations

import random
from itertools import combinations

import numpy as np
import pytest

from lorica.data.near_duplicates import THRESHOLD, jaccard, join_near_duplicates, normalise_text, shingles
from lorica.data.union_find import UnionFind


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Buy NOW!!!  Cheap.", "buy now cheap", True),
        ("Ｆｕｌｌ width ①", "full width 1", True),
        ("naïve café", "naive cafe", False),
        ("हिन्दी", "हिन्द", False),
        ("👍", "👎", False),
        ("a\tb\n", "a b", True),
        ("in\u00advis\u200bib\u2060le \ufeffmarks", "invisible marks", True),
        ("I \u2764\ufe0f tea", "I \u2764 tea", True),
        ("a\u202eb", "ab", True),
    ],
)
def test_normalise(one: str, other: str, same: bool) -> None:
    assert (normalise_text(one) == normalise_text(other)) is same


def test_ascii_is_normalised_as_any_other_text() -> None:
    text = "".join(map(chr, range(128)))
    assert normalise_text(text + "é") == normalise_text(text) + " é"


def _plain_jaccard(one: str, other: str) -> float:
    a, b = ({text[i : i + 5] for i in range(max(1, len(text) - 4))} for text in (one, other))
    return len(a & b) / len(a | b)


def _corpus(seed: int, count: int) -> list[str]:
    pick = random.Random(seed)
    words = ["".join(pick.choices("abcdefghij", k=pick.randint(2, 7))) for _ in range(300)]
    texts: list[str] = []
    for _ in range(count):
        if texts and pick.random() < 0.5:  # an earlier text with a few words changed
            changed = pick.choice(texts).split()
            for _ in range(pick.randint(0, 3)):
                changed[pick.randrange(len(changed))] = pick.choice(words)
            texts.append(" ".join(changed))
        else:
            texts.append(" ".join(pick.choices(words, k=pick.randint(1, 25))))
    return texts


def test_hashed_shingles_give_the_similarity_of_the_plain_ones() -> None:
    texts = _corpus(1, 40)
    for one, other in combinations(texts, 2):
        assert jaccard(shingles(one), shingles(other)) == _plain_jaccard(one, other)


@pytest.mark.parametrize("seed", range(4))
def test_search_agrees_with_comparing_all_pairs(seed: int) -> None:
    texts = _corpus(seed, 250)
    expected = UnionFind(len(texts))
    for i, j in combinations(range(len(texts)), 2):
        if _plain_jaccard(texts[i], texts[j]) >= THRESHOLD:
            expected.join(i, j)
    found = UnionFind(len(texts))
    join_near_duplicates(texts, found)
    assert [found.find(i) for i in range(len(texts))] == [expected.find(i) for i in range(len(texts))]
    assert len({expected.find(i) for i in range(len(texts))}) < len(texts) - 20  # the corpus does hold some


def test_empty_texts_are_like_no_other() -> None:
    union = UnionFind(4)
    join_near_duplicates(["", " ", "", "a"], union)
    assert [union.find(i) for i in range(4)] == [0, 1, 2, 3]


def test_many_texts_of_one_template_end_in_one_component() -> None:
    texts = [
        f"This is post number {i} of a long series of posts that say the same thing again and again"
        for i in range(3000)
    ]
    union = UnionFind(len(texts))
    join_near_duplicates(texts, union)
    assert {union.find(i) for i in range(len(texts))} == {0}


def test_shingles_are_sorted_and_distinct() -> None:
    for text in ("a", "abcde", "aaaaaaaaaa", "x" * 10_000, "\ud800"):
        found = shingles(text)
        assert len(found) >= 1
        assert np.array_equal(found, np.unique(found))
