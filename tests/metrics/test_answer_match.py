"""Short answers as a careful reader takes them: numbers in words, units, final answers, and not knowing."""

from __future__ import annotations

import random

import pytest
from cn2an import an2cn
from num2words import num2words

from lorica.metrics.abstention import abstains
from lorica.metrics.metric_table import METRICS
from lorica.metrics.number_words import with_numerals


def matches(gold: str, answer: str) -> bool:
    return METRICS["answer_match"]([(gold,)], [answer]) == 1.0


def equals(gold: str, answer: str) -> bool:
    return METRICS["numeric_equality"]([(gold,)], [answer]) == 1.0


_RANDOM = random.Random(0)
NUMBERS = [*range(200), *(_RANDOM.randrange(10 ** _RANDOM.randint(3, 12)) for _ in range(300))]


def test_english_numbers_are_those_of_num2words() -> None:
    for number in NUMBERS:
        assert with_numerals(num2words(number).replace(",", "")) == str(number)
        if number:
            ordinal = num2words(number, to="ordinal").replace(",", "")
            assert with_numerals(ordinal) == num2words(number, to="ordinal_num"), ordinal


def test_chinese_numbers_are_those_of_cn2an() -> None:
    for number in NUMBERS:
        for style in ("low", "up"):
            assert with_numerals(an2cn(number, style)) == str(number), an2cn(number, style)


@pytest.mark.parametrize(
    ("words", "digits"),
    [
        *[("two and a half", "2 1/2"), ("two thirds", "2/3"), ("half", "1/2"), ("twenty third", "23rd")],
        *[("nineteen eighty-four", "1984"), ("three point one four", "3.14"), ("minus three", "-3")],
        *[("3.5 million", "3500000"), ("two dozen eggs", "24 eggs"), ("One of a kind", "1 of a kind")],
        *[("百分之五十", "50%"), ("三分之一", "1/3"), ("三点一四", "3.14"), ("二〇二四年", "2024年")],
        *[("3万", "30000"), ("1.5亿", "150000000"), ("第三章", "第3章"), ("万一", "万一"), ("seconds", "seconds")],
        *[("two hundred and", "200 and"), ("one two", "1 2"), ("someone", "someone"), ("tenfold", "tenfold")],
    ],
)
def test_numbers_in_words(words: str, digits: str) -> None:
    assert with_numerals(words) == digits


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        *[("3", "three"), ("twenty-one", "21"), ("3rd", "the third"), ("三十五", "35"), ("second place", "2nd place")],
        *[("1/2", "0.5"), ("0.5", "50%"), ("50%", "1/2"), ("1,000", "one thousand"), ("3×10^8", "300000000")],
        *[("$18", "18 dollars"), ("18", "$18"), ("72", "72 clips"), ("5 km", "about 5 km"), ("-7", "minus seven")],
        *[
            ("42", r"Some steps. \boxed{42}"),
            (r"\frac{1}{2}", r"So $\boxed{\frac{1}{2}}$."),
            ("0.5", r"\boxed{\frac{1}{2}}"),
        ],
        *[("72", "48/2 = 24 in May.\nNatalia sold 48+24 = 72 clips altogether."), ("18", "16-3-4=9\n9*2=18\n#### 18")],
        *[("Paris", "Let me think. The answer is Paris."), ("7", "First 12. The answer is 12. No, the answer is 7.")],
        *[
            ("12", "计算得到 3*4=12。答案是12。"),
            ("15", "所以答案为：十五"),
            ("U.S. Navy", "The answer is the U.S. Navy"),
        ],
        *[
            ("26", "She earns 2 a piece for 13. So she makes $26 every day."),
            ("x", "**Answer:** x"),
            ("9", "It takes 9 days."),
        ],
        *[("I don't know", "I am not sure."), ("unanswerable", "The question cannot be answered from the passage")],
        *[("unanswerable", "不知道"), ("无法回答", "I don't know"), ("8", "<think>maybe 9</think>8"), ("√7", "x = √7")],
    ],
)
def test_the_same_answer(gold: str, answer: str) -> None:
    assert matches(gold, answer)


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        *[("12", "12 - 5 = 7"), ("12", "There are 12 apples. The answer is 7."), ("12", r"12 + 1 gives \boxed{13}")],
        *[("3", "There are 3 weeks; so she earns 26*3=78"), ("12", "The answer is not 12."), ("12", "It is 12 or 15.")],
        *[("12", "The answer is 12 or 15"), ("5 km", "5 m"), ("5 km", "5"), ("50%", "50"), ("50", "50%"), ("3", "3rd")],
        *[("2", "second"), ("3", "2x = 3"), ("12", "12 people came in 1995"), ("10:30", "10"), ("007", "7")],
        *[("Paris", "I don't know"), ("unknown", "Paris"), ("unanswerable", "I don't know, but maybe Paris")],
        *[("$5", "€5"), ("1/3", "0.33"), ("100", "one hundred and one"), ("18", "18 or maybe not"), ("5", "5 + 3")],
    ],
)
def test_another_answer(gold: str, answer: str) -> None:
    assert not matches(gold, answer)
    assert not equals(gold, answer)


@pytest.mark.parametrize(
    ("gold", "answers"),
    [
        # A number that names, bounds or is part of something else is no answer.
        ("3", ["step 3", "See step 3.", "In step 3 we find that it is impossible.", "Chapter 3", "第三", "第三步"]),
        ("5", ["May 5", "Room 5", "more than 5", "The answer is at least 5.", "up to 5", ">5", "x > 5", "x ≠ 5", "±5"]),
        ("5", ["5x", "5k", "5π", "√5", "5 less than x", "5 dozen", "5 and 6", "Therefore, the total is 3 + 5"]),
        ("5", ["So 3 of the 5 are red", "So John has 3 apples left out of 5.", "minimum of 5", "5 feet 3 inches"]),
        ("3", ["超过3", "至少3个", "大于3", "不是3", "3人以上"]),
        ("1914", ["1914-1918", "1914 to 1918", "before 1914", "until 1914", "between 1914 and 1918"]),
        ("20", ["twenty one", "twenty-one"]),
        ("305", ["三百五", "三十五"]),
        ("10 km", ["10 km/h", "10 km per hour"]),
        ("10 m", ["10 m/s", "10 m²", "10 m^2"]),
        ("13800138000", ["13800138001"]),
        # A mark that is denied or taken back marks nothing.
        (
            "Paris",
            ["not Paris", "I don't think the answer is Paris.", "I doubt the answer is Paris", "Is the answer Paris?"],
        ),
        ("Paris", ["The wrong answer is Paris.", "It is false that the answer is Paris.", "If the answer is Paris"]),
        ("Paris", ["The answer is Paris. Actually, it is Lyon.", "The answer is Paris\nThe answer is not Paris"]),
        ("12", ["The wrong answer is 12.", "My first answer was 12, but it is 13.", "I don't think the answer is 12."]),
        ("5", [r"\boxed{4} or \boxed{5}", r"\boxed{5} or 6", r"\boxed{5}. Wait, that is wrong."]),
        ("北京", ["不是北京", "答案不是北京", "答案是上海，不是北京"]),
        (
            "unanswerable",
            ["I don't know the capital of France, Paris", "I do not know it is Paris", "无法回答，答案是巴黎"],
        ),
        ("unanswerable", ["The passage does not say Paris, it says Lyon", "I cannot answer. The answer is Paris"]),
    ],
)
def test_no_wrong_answer_counts_as_right(gold: str, answers: list[str]) -> None:
    assert [answer for answer in answers if matches(gold, answer) or equals(gold, answer)] == []


@pytest.mark.parametrize(
    ("gold", "answers"),
    [
        (
            "5",
            [
                "It is clear that the answer is 5.",
                "The answer is actually 5.",
                "不难看出答案是5",
                "非常明显，答案是5。",
            ],
        ),
        ("5", ["If she sells 3 a day the answer is 5.", "Since 3 doesn't divide 7 the answer is 5.", "5 times"]),
        (
            "5",
            ["after 5 days", "5 years older than Bob", "5个多边形", "Answer: 5 (not 6)", "5 apples, not 4", "5 (five)"],
        ),
        (
            "5",
            [r"\boxed{\text{5}}", r"\boxed{5\text{ cm}}", r"\boxed{4}. Wait, it should be \boxed{5}.", "not 3 but 5"],
        ),
        ("5 cm", [r"\boxed{5 \text{ cm}}", r"\boxed{5\,\text{cm}}"]),
        ("1/2", [r"\boxed{\frac12}", r"\dfrac12"]),
        ("1995", ["In May 1995", "It began in 1995."]),
        ("1905", ["nineteen oh five"]),
        ("60", ["5 dozen", "five dozen"]),
        ("350", ["三百五", "三百五十"]),
        ("15000", ["一万五", "一万五千"]),
        ("Paris", ["You do not need more; the answer is Paris.", "That is wrong, so the answer is Paris"]),
        ("unanswerable", ["I cannot answer that.", "The passage does not mention it.", "As an AI, I don't know."]),
        (
            "unanswerable",
            [
                "I don't know because the passage does not say.",
                "无法回答，因为文章没有提到。",
                "Sorry, but I don't know",
            ],
        ),
    ],
)
def test_no_right_answer_counts_as_wrong(gold: str, answers: list[str]) -> None:
    assert [answer for answer in answers if not matches(gold, answer)] == []


def test_what_exact_match_takes_for_equal_answer_match_does() -> None:
    for gold, answer in [
        ("the Beatles", "Beatles"),
        ("résumé", "Résumé"),
        ("北京", "北京。"),
        ("The answer is 5", "the answer is 5"),
    ]:
        assert METRICS["exact_match"]([(gold,)], [answer]) == 1.0
        assert matches(gold, answer)
    assert METRICS["exact_match"]([("3",)], ["three"]) == 0.0


def test_any_alias_counts() -> None:
    assert METRICS["answer_match"]([("NYC", "New York City", "the Big Apple")], ["Big Apple"]) == 1.0
    assert METRICS["answer_match"]([("NYC", "unanswerable")], ["I don't know"]) == 1.0
    assert METRICS["answer_match"]([("NYC",)], [None]) == 0.0


def test_numbers_are_equal_within_a_millionth() -> None:
    assert equals("1/3", "0.3333333")
    assert not equals("1/3", "0.3333")
    assert not equals("0", "0.0000001")
    assert not equals("1234567890", "1234567891"), "whole numbers are compared as they are"


@pytest.mark.parametrize(
    "text", ["I don't know.", "idk", "Not sure", "Sorry, I don't know the answer", "N/A", "我不知道。"]
)
def test_abstentions(text: str) -> None:
    assert abstains(text)


@pytest.mark.parametrize("text", ["none", "No", "Na", "I don't know, but Paris", "The Unknown Soldier", "0", "know"])
def test_answers_are_no_abstentions(text: str) -> None:
    assert not abstains(text)
