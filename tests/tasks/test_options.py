"""The one reader of which option an answer names."""

from __future__ import annotations

import math

import pytest

from lorica.tasks.options import parse_option

COLOURS = ["Monday", "blue", "an old Red car", "x < 3"]


@pytest.mark.parametrize(
    "value",
    [
        "B",
        "b",
        " b ",
        "(b)",
        "[B]",
        "B.",
        "b)",
        "**B**",
        "'B'",
        "Ｂ",
        "blue",
        "Blue",
        "BLUE.",
        '"blue"',
        "B) blue",
        "(B) blue",
        "B. Blue.",
        "b: blue",
        "B - blue",
        "B blue",
        "Answer: B",
        "The answer is (B).",
        "option b",
        "the correct answer is blue",
        "The answer is B) blue",
        "B!",
        "$B$",
        r"\boxed{B}",
        r"$\boxed{\text{blue}}$",
        "答案：B",
        "正确答案是B。",
        "选B",
    ],
)
def test_spellings_of_an_option(value: object) -> None:
    assert parse_option(value, COLOURS) == 1


def test_a_sign_behind_a_label_is_the_options() -> None:
    signed = ["-1", "1", ".5", "*x"]
    for index, (letter, option) in enumerate(zip("ABCD", signed, strict=True)):
        for value in (f"({letter}){option}", f"{letter}. {option}", f"{letter}: {option}"):
            assert parse_option(value, signed) == index
    assert parse_option(r"\boxed{2}", ["2", r"\boxed{2}"]) == 1


@pytest.mark.parametrize(
    "value", ["E", "both", "A and B", "A, B", "AB", "A) blue", "B or A", "5", "-1", "1.5", "nan", "x < 4"]
)
def test_what_names_no_option_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="names none of the 4 options"):
        parse_option(value, COLOURS)


@pytest.mark.parametrize("value", [None, "", "  ", math.nan])
def test_no_answer_names_nothing(value: object) -> None:
    assert parse_option(value, COLOURS) is None


@pytest.mark.parametrize(
    ("value", "options", "index"),
    [
        ("[0,1)", ["(0,1)", "[0,1)"], 1),
        ("x", ["X", "x"], 1),
        ("1,000", ["1000", "1,000"], 1),
        (".", [".", ","], 0),
        ("the answer is a car", ["A car", "the answer is a car"], 1),
    ],
)
def test_an_equal_text_comes_before_a_similar_one(value: str, options: list[str], index: int) -> None:
    assert parse_option(value, options) == index


@pytest.mark.parametrize(
    ("value", "options"), [("[0,1)", ["(0,1)", "2"]), (".35", ["35", "7"]), ("102", ["10²", "3"]), (";", [".", ","])]
)
def test_texts_that_mean_something_else_are_no_option(value: str, options: list[str]) -> None:
    with pytest.raises(ValueError, match="names none"):
        parse_option(value, options)


@pytest.mark.parametrize(("value", "options"), [("1", ["1", "2"]), ("A", ["B", "A"]), ("Red", ["red", "RED"])])
def test_two_meanings_are_refused(value: str, options: list[str]) -> None:
    with pytest.raises(ValueError, match="could mean the options A and B"):
        parse_option(value, options)


def test_the_keys_of_the_file_come_first() -> None:
    assert parse_option("1", ["red", "blue"], ["1", "2"]) == 0
    assert parse_option("2) blue", ["red", "blue"], ["1", "2"]) == 1


@pytest.mark.parametrize("value", ["1", 1, 1.0, "1.0", "(1)", "１"])
def test_numbers_are_counted_as_is_told_or_refused(value: object) -> None:
    assert parse_option(value, COLOURS, numbering=lambda: "from_0") == 1
    assert parse_option(value, COLOURS, numbering=lambda: "from_1") == 0
    with pytest.raises(ValueError, match="could mean the options A and B"):
        parse_option(value, COLOURS)
