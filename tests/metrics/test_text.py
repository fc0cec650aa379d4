from __future__ import annotations

import re
import string
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorica.metrics.text import answer_tokens, exact_match, normalise_answer, token_f1


def squad_normalise(text: str) -> str:
    """The normalisation of the official SQuAD 1.1 evaluation."""
    text = "".join(each for each in text.lower() if each not in set(string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def squad_f1(answer: str, gold: str) -> float:
    """The token F1 of the official SQuAD 2.0 evaluation."""
    wanted, given_tokens = squad_normalise(gold).split(), squad_normalise(answer).split()
    same = sum((Counter(wanted) & Counter(given_tokens)).values())
    if not wanted or not given_tokens:
        return float(wanted == given_tokens)
    if same == 0:
        return 0.0
    precision, recall = same / len(given_tokens), same / len(wanted)
    return 2 * precision * recall / (precision + recall)


ASCII = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20)
WORDS = st.lists(st.sampled_from(["the", "a", "An", "cat", "Cat!", "sat", "...", "don't", "U.S."]), max_size=6).map(
    " ".join
)


@given(text=st.one_of(ASCII, WORDS))
def test_ascii_is_normalised_as_in_squad(text: str) -> None:
    assert normalise_answer(text) == squad_normalise(text)


@given(answer=st.one_of(ASCII, WORDS), gold=st.lists(WORDS, min_size=1, max_size=3))
def test_f1_and_exact_match_are_those_of_squad(answer: str, gold: list[str]) -> None:
    assert token_f1([gold], [answer]) == pytest.approx(max(squad_f1(answer, each) for each in gold), abs=1e-12)
    assert exact_match([gold], [answer]) == max(squad_normalise(answer) == squad_normalise(each) for each in gold)


@given(text=st.text(max_size=30))
def test_normalising_twice_changes_nothing(text: str) -> None:
    once = normalise_answer(text)
    if not re.search(r"\b(a|an|the)\b", once):  # "t-he" loses its hyphen and only then is an article
        assert normalise_answer(once) == once


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("Straße", "STRASSE"),
        ("café", "cafe\u0301"),
        ("２０１９年", "2019年"),
        ("«Война и мир»", "война и мир"),
        ("¿Quién?", "quién"),
        ("北京。", "北京"),
        ("Ι", "ι"),
    ],
)
def test_spellings_of_one_answer(gold: str, answer: str) -> None:
    assert exact_match([(gold,)], [answer]) == 1.0
    assert token_f1([(gold,)], [answer]) == 1.0


def test_different_answers_stay_different() -> None:
    assert exact_match([("resume",)], ["résumé"]) == 0.0
    assert exact_match([("1.5",)], ["15"]) == 1.0  # SQuAD drops the point; kept for comparability


def test_scripts_without_spaces_are_compared_by_character() -> None:
    assert answer_tokens("東京タワー") == list("東京タワー")
    assert answer_tokens("in 東京 2020") == ["in", "東", "京", "2020"]
    assert token_f1([("北京市",)], ["北京"]) == pytest.approx(2 * 2 / 5)


def test_best_accepted_answer_counts_and_none_is_wrong() -> None:
    gold = [("x", "the red fox"), ("y",), ("",)]
    assert exact_match(gold, ["Red fox.", None, None]) == pytest.approx(1 / 3)
    assert token_f1(gold, ["red dog", None, ""]) == pytest.approx((0.5 + 0 + 1) / 3)


@pytest.mark.parametrize("gold", [(), "a text"])
def test_a_row_without_accepted_answers_is_refused(gold: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="one or more accepted answers"):
        exact_match([gold], ["x"])
