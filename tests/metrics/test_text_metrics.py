from __future__ import annotations

import math
import re
import string
from collections import Counter
from decimal import Decimal
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lorica.metrics.base import Column
from lorica.metrics.metric_table import find_metric
from lorica.metrics.normalise import LORICA, NORMALISATIONS, SQUAD, Normalisation, is_answer


def exact_match(gold: Column, answers: Column, normalisation: Normalisation = LORICA) -> float:
    return find_metric("exact_match", normalisation.name)(gold, answers)


def token_f1(gold: Column, answers: Column, normalisation: Normalisation = LORICA) -> float:
    return find_metric("token_f1", normalisation.name)(gold, answers)


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
    assert SQUAD.text(text) == squad_normalise(text)


@given(answer=st.one_of(ASCII, WORDS).filter(is_answer), gold=st.lists(WORDS, min_size=1, max_size=3))
def test_f1_and_exact_match_under_squad_are_those_of_squad(answer: str, gold: list[str]) -> None:
    assert token_f1([gold], [answer], SQUAD) == pytest.approx(max(squad_f1(answer, each) for each in gold), abs=1e-12)
    assert exact_match([gold], [answer], SQUAD) == max(
        squad_normalise(answer) == squad_normalise(each) for each in gold
    )


@given(text=st.text(max_size=30))
@example(text="\u00a8:\u0316")  # two combining marks, once the colon between them is gone
def test_normalising_twice_changes_nothing(text: str) -> None:
    once = SQUAD.text(text)
    if not re.search(r"\b(a|an|the)\b", once):  # "t-he" loses its hyphen and only then is an article
        assert SQUAD.text(once) == once


@given(text=st.text(st.one_of(st.sampled_from("0123456789.,-+/'$€%°() aAthe*^#½²−–٣"), st.characters()), max_size=20))
def test_every_answer_keeps_a_form_to_compare_and_equals_itself(text: str) -> None:
    assert bool(LORICA.text(text)) or not is_answer(text)
    if is_answer(text):
        assert exact_match([(text,)], [text]) == token_f1([(text,)], [text]) == 1.0


SAME = [
    ("Straße", "STRASSE"),
    ("café", "cafe\u0301"),
    ("２０１９年", "2019年"),
    ("«Война и мир»", "война и мир"),
    ("¿Quién?", "quién"),
    ("北京。", "北京"),
    ("Ι", "ι"),
]


@pytest.mark.parametrize(("gold", "answer"), SAME)
def test_spellings_of_one_answer(gold: str, answer: str) -> None:
    for each in NORMALISATIONS.values():
        assert exact_match([(gold,)], [answer], each) == 1.0
        assert token_f1([(gold,)], [answer], each) == 1.0


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        # numbers
        *[("1,000", "1000"), ("1,00,000", "100000"), ("1\u202f000", "1000"), ("1 000 000", "1000000")],
        *[("1'000", "1000"), ("3.0", "3"), ("3", "3."), (".5", "0.5"), ("2.50", "2.5"), ("1.000,5", "1000.5")],
        *[("1,5", "1.5"), ("1e5", "100000"), ("1.5E3", "1500"), ("+3", "3"), ("-0", "0"), ("-1,000.0", "-1000")],
        *[("-3", "−3"), ("-3", "–3"), ("-3", "－３"), ("− 3", "-3"), ("-1/2", "−½"), ("1½", "1 1/2"), ("1 / 2", "1/2")],
        *[("٣", "3"), ("٣٫٥", "3.5"), ("۱٬۰۰۰", "1000"), ("\u200f٣", "3"), ("5km", "5 km"), ("约1,000人", "约1000人")],
        *[("10²", "10^2"), ("5 km²", "5km2"), ("1914–1918", "1914-1918"), ("(1,2)", "(1, 2)"), ("1,2,3", "1, 2, 3")],
        # with units
        *[
            ("50 %", "50%"),
            ("1.000.000", "1000000"),
            ("50 percent", "50%"),
            ("50 per cent", "50 %"),
            ("٥٠٪", "50%"),
            ("$5", "5 $"),
        ],
        *[("-$5", "$-5"), ("$1,000.00", "1000$"), ("€1.5", "1,50 €"), ("39 °C", "39℃"), ("39ºC", "39° c")],
        # markup
        *[
            ("$5$", "5"),
            ("$$x+1$$", "x + 1"),
            (r"\(5\)", "5"),
            (r"5\%", "5%"),
            ("* Paris", "Paris"),
            ("## Paris", "Paris"),
        ],
        # words and symbols
        *[
            ("C++", "c++"),
            ("x + y", "x+y"),
            ("x - 3", "x−3"),
            ("B-12", "B12"),
            ("3-D", "3D"),
            ("U.S.", "US"),
            ("don’t", "dont"),
            ("e-mail", "email"),
            ("H₂O", "H2O"),
        ],
        *[("The Beatles", "beatles"), ('the "Cat"', "cat"), ("An A", "A"), ("**Paris**", "Paris"), ("`ls`", "ls")],
        *[
            ("Paris,France", "Paris, France"),
            ("北京 大学", "北京大学"),
            ("Windows™", "Windows"),
            ("❤️", "❤"),
            ("Ⅳ", "IV"),
        ],
    ],
)
def test_what_means_the_same_is_equal(gold: str, answer: str) -> None:
    assert exact_match([(gold,)], [answer]) == exact_match([(answer,)], [gold]) == 1.0


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("resume", "résumé"),
        # signs, points, strokes
        *[("-3", "3"), ("1.5", "15"), ("1/2", "12"), ("1/2", "2/1"), ("-39", "39"), (".5", "5"), ("...5", ".5")],
        *[("1,234", "1.234"), ("1.2.3", "123"), ("12/05/2020", "12052020"), ("1914-1918", "19141918"), ("007", "7")],
        *[("10:30", "1030"), ("5-3", "5+3"), ("3,4", "34"), ("(3,4)", "3.4"), ("6'2\"", "62"), ("-½", "½")],
        *[
            ("气温-3度", "气温3度"),
            ("-3 °C", "3 °C"),
            ("$-5", "$5"),
            ("v1.5", "v15"),
            ("GPT-3.5", "GPT-35"),
            ("1e5", "15"),
        ],
        # symbols
        *[
            ("C++", "C#"),
            ("C#", "C"),
            ("¥5", "$5"),
            ("¥5", "5"),
            ("5%", "5"),
            ("39°C", "39°F"),
            ("5°", "5"),
            ("#", "%"),
        ],
        *[
            ("≤5", "≥5"),
            ("<5", ">5"),
            ("√2", "2"),
            ("±5", "5"),
            ("10²", "102"),
            ("x²", "x2"),
            ("2*3", "23"),
            ("2^3", "23"),
        ],
        *[
            ("m/s", "ms"),
            ("AT&T", "ATT"),
            ("a@b", "ab"),
            ("-x", "x"),
            ("x-3", "x3"),
            ("2x-3", "2x3"),
            ("3-x", "3x"),
            ("x-y", "xy"),
            ("-∞", "∞"),
            ("?", "!"),
            ("+", "-"),
            ("-", "—"),
        ],
        *[("O-", "O+"), ("O-", "O"), ("O+", "O"), ("Cl-", "Cl"), ("A+", "A-"), ("R$5", "$5"), ("1:2", "12")],
        *[
            ("$5-$10", "5-10"),
            ("$5 and $10", "5 and 10"),
            ("US$5,US$6", "5,US6"),
            ("#", "*"),
            (r"\n", "n"),
            ("> 5", "5"),
        ],
        # articles that are none
        *[("A", "the"), ("#", "the"), ("vitamin A", "vitamin"), ("A, B", "B"), ("A B", "B"), ("a + b", "b")],
    ],
)
def test_what_means_something_else_is_not_equal(gold: str, answer: str) -> None:
    assert exact_match([(gold,)], [answer]) == exact_match([(answer,)], [gold]) == 0.0


def _examples() -> list[tuple[str, int, tuple[str, ...]]]:
    """(rule, column, texts) of the table of docs/metrics.md; column 0 holds equal ones, 1 different ones."""
    page = (Path(__file__).resolve().parents[2] / "docs" / "metrics.md").read_text("utf-8")
    table = [line.split("|")[1:-1] for line in page.splitlines() if line.startswith("|") and "---" not in line]
    return [
        (rule.strip(), column, tuple(re.findall("`([^`]+)`", texts)))
        for rule, *cells in table[1:]
        for column, cell in enumerate(cells)
        for texts in cell.split("; ")
    ]


@pytest.mark.parametrize(("rule", "column", "texts"), _examples())
def test_the_examples_of_the_page_hold(rule: str, column: int, texts: tuple[str, ...]) -> None:
    for gold, answer in combinations(texts, 2):
        assert exact_match([(gold,)], [answer]) == 1.0 - column, rule


NUMBERS = st.decimals(min_value=-(10**9), max_value=10**9, places=3)


def spelt(number: Decimal, how: int) -> str:
    size = abs(number)
    european = f"{size:,f}".translate(str.maketrans(",.", ".,")) if size >= 1000 else f"{size:f}"
    arabic = "".join(chr(0x660 + int(char)) if char.isdigit() else "٫" for char in f"{size:f}")
    grouped = [f"{size:,f}".replace(",", mark) for mark in (",", " ", "\u202f", "'")]
    scientific = (f"{size:E}", f"{size:e}")
    spellings = [*grouped, f"{size:f}".rstrip("0").rstrip("."), f"{size:f}000", *scientific, european, arabic]
    return ("-−–"[how % 3] if number < 0 else "") + spellings[how]


@given(a=NUMBERS, b=NUMBERS, first=st.integers(0, 9), second=st.integers(0, 9))
def test_texts_of_numbers_are_equal_when_the_numbers_are(a: Decimal, b: Decimal, first: int, second: int) -> None:
    assert exact_match([(spelt(a, first),)], [spelt(a, second)]) == 1.0
    assert exact_match([("$" + spelt(a, first),)], [spelt(a, second) + " $"]) == 1.0
    assert exact_match([(spelt(a, first),)], [spelt(b, second)]) == float(a == b)


@pytest.mark.parametrize("answer", [None, "", "  \n", "\u200b", math.nan])
@pytest.mark.parametrize("gold", ["A", "the", "#", "", "...", "\u200b"])
def test_no_answer_equals_nothing(gold: str, answer: str | None) -> None:
    for normalisation in NORMALISATIONS.values():
        assert exact_match([(gold,)], [answer], normalisation) == 0.0
        assert token_f1([(gold,)], [answer], normalisation) == 0.0


def test_a_text_of_mere_punctuation_is_compared_as_it_is() -> None:
    for text in ("?", "...", "-", "()", "'", "_"):
        assert exact_match([(text,)], [f" {text} "]) == token_f1([(text,)], [text]) == 1.0


def test_scripts_without_spaces_are_compared_by_character() -> None:
    for normalisation in NORMALISATIONS.values():
        assert normalisation.tokens("東京タワー") == list("東京タワー")
        assert normalisation.tokens("in 東京 2020") == ["in", "東", "京", "2020"]
        assert token_f1([("北京市",)], ["北京"], normalisation) == pytest.approx(2 * 2 / 5)


def test_a_number_with_its_sign_and_a_word_with_its_symbols_are_one_token() -> None:
    assert LORICA.tokens("the C++ and C# of -3, 5% at 39 °C") == [
        "c++",
        "and",
        "c#",
        "of",
        "-3",
        "5",
        "%",
        "at",
        "39",
        "°c",
    ]
    assert token_f1([("-3",)], ["3"]) == token_f1([("C++",)], ["C#"]) == token_f1([("1/2",)], ["2"]) == 0.0
    assert token_f1([("salt and pepper",)], ["salt & pepper"]) == pytest.approx(4 / 6)


def test_best_accepted_answer_counts_and_none_is_wrong() -> None:
    gold = [("x", "the red fox"), ("y",), ("",)]
    assert exact_match(gold, ["Red fox.", None, None]) == pytest.approx(1 / 3)
    assert token_f1(gold, ["red dog", None, ""]) == pytest.approx(0.5 / 3)


@pytest.mark.parametrize("gold", [(), "a text"])
def test_a_row_without_accepted_answers_is_refused(gold: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="one or more accepted answers"):
        exact_match([gold], ["x"])
