"""The three-stage reader of generated probabilities."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorica.tasks.parse_probability import parse_probability

WHOLE = [
    ("0.85", 0.85), ("1", 1.0), ("0", 0.0), ("1.0", 1.0), (".5", 0.5), ("1.", 1.0), (" 0.3\n", 0.3),
    ('"0.4"', 0.4),
    ("**0.7**", 0.7), ("85%", 0.85), ("85 %", 0.85), ("12.5 percent", 0.125), ("100%", 1.0),
    ("Score: 0.6", 0.6),
    ("The probability is 0.25.", 0.25), ("Answer = 0.9", 0.9), ("(0.1)", 0.1), ("1e-3", 0.001),
    ("<think>it is 0.2</think>0.9", 0.9), ("0.8<|im_end|>\n<|im_start|>user\n0.1", 0.8),
]  # fmt: skip
FIRST = [
    ("I would say 0.7 because of rule 2.", 0.7),
    ("Rule 1 is broken: 0.9", 0.9),
    ("Step 1: the post sells. Step 2: so 0.75", 0.75),
    ("1. It sells.\n2. It links.\nProbability: 0.9", 0.9),
    ("0 - nothing wrong here", 0.0),
    ("1\n\nBecause it sells.", 1.0),
    ("The answer, on a scale from 0 to 1: 0.35", 0.35),
    ("Between 0.0 and 1.0 I choose 0.45", 0.45),
    ("For $0.99 a month! So about 0.95 here.", 0.95),
    ("About 90% sure it is an ad", 0.9),
    ("Version 2.0.1 says 0.4", 0.4),
    ("10:30 and 5 links, hence 0.6", 0.6),
    ("Result: 1, an advert", 1.0),
    ("0.8 out of 1", 0.8),
    ("Post #1 gets 0.3", 0.3),
    ("Score:0.8 (high)", 0.8),
    ("-0.5? No: 0.5", 0.5),
]
KEYWORD = [
    ("Yes", 1.0), ("No.", 0.0), ("yes, it is an advert", 1.0), ("No, it does not violate the rule", 0.0),
    ("The post violates rule 2", 1.0), ("This doesn't break the rule", 0.0), ("It is not a violation", 0.0),
    ("This is a clear violation of rule 1", 1.0), ("No violation", 0.0), ("It is not allowed here", 1.0),
    ("It isn't against the rules", 0.0), ("The post is acceptable", 0.0), ("It complies with rule 2", 0.0),
    ("There is no doubt that it violates the rule", 1.0), ("This post does not comply", 1.0),
    ("It breaks the rule 3 times", 1.0), ("There is 1 link; a violation", 1.0), ("8/10 violation", 1.0),
]  # fmt: skip
NOTHING = [
    "", "   ", "maybe", "7", "250%", "rule 2", "1/2", "2024-01-01", "-0.5",
    "It violates rule 1 but does not violate 2",
    "Yes, it does not violate the rule", "<think>0.9", "nan", "inf", "It has 3 links and 12 emojis", "...",
]  # fmt: skip


@pytest.mark.parametrize(("text", "value"), WHOLE)
def test_whole(text: str, value: float) -> None:
    found = parse_probability(text)
    assert found is not None
    assert found.stage == "whole"
    assert found.value == pytest.approx(value)


@pytest.mark.parametrize(("text", "value"), FIRST)
def test_first_number(text: str, value: float) -> None:
    found = parse_probability(text)
    assert found is not None
    assert found.stage == "first_number"
    assert found.value == pytest.approx(value)


@pytest.mark.parametrize(("text", "value"), KEYWORD)
def test_keyword(text: str, value: float) -> None:
    found = parse_probability(text)
    assert found is not None
    assert (found.stage, found.value) == ("keyword", value)


@pytest.mark.parametrize("text", NOTHING)
def test_nothing_is_read_where_nothing_is_said(text: str) -> None:
    assert parse_probability(text) is None


@given(st.floats(min_value=0, max_value=1), st.integers(min_value=1, max_value=6))
def test_a_printed_probability_reads_back(value: float, digits: int) -> None:
    text = f"{value:.{digits}f}"
    for wrapped in (text, f"Score: {text}", f"  {text}\n", f"I think {text} fits"):
        found = parse_probability(wrapped)
        assert found is not None
        assert found.value == float(text)


@given(st.text(max_size=200) | st.text(alphabet="01.%- \nyesnovil", max_size=200))
def test_any_text_gives_a_probability_or_nothing(text: str) -> None:
    found = parse_probability(text)
    assert found is None or (0 <= found.value <= 1 and math.isfinite(found.value))


@pytest.mark.parametrize("unit", ["\n", "1 ", "not ", "<think>", "</think>", "- ", "0.", "a", "1.\n", "$", "<|a|>"])
def test_hostile_repetition_is_read_in_linear_time(unit: str) -> None:
    parse_probability(unit * 200_000)
