"""The oracle is Python's own engine, on expressions that cannot make it hang."""

from __future__ import annotations

import random
import re
import warnings

import pytest

from lorica.vetting.structure.check_structure import check_structure
from lorica.vetting.structure.safe_regex import SafeRegex, UnsupportedRegexError

from .specimens import codes, pairs, specimen

PLAIN = pairs({"self_attn.q_proj": (32, 32), "self_attn.v_proj": (32, 16)}, range(4))

PIECES = (
    *("a", "b", "q_proj", "v_proj", r"\.", ".", "*", "+", "?", "(", "(?:", ")", "|", "[ab]", "[^a]", "[0-9]", r"\d"),
    *(r"\w", "{2}", "{1,2}", "{2,}", "$", "^", "0", "1", "layers", ".*", "[0-2]", "*?"),
)
PATHS = ("a", "b", "ab", "aab", "layers.0.q_proj", "layers.1.v_proj", "a.b", "q_proj", "0", "10", "abab")


def test_random_expressions_mean_what_python_says() -> None:
    chance = random.Random(1)
    read = 0
    while read < 2_000:
        text = "".join(chance.choice(PIECES) for _ in range(chance.randint(1, 7)))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                python = re.compile(text)
            expression = SafeRegex(text)
        except (re.error, UnsupportedRegexError):
            continue
        read += 1
        for path in PATHS:
            truth = python.fullmatch(path) is not None
            said = expression.matches(path, path[-2:])
            assert (said is True) == truth, (text, path)
            assert said is not False or not truth


@pytest.mark.parametrize("text", [
    "(?=a)b", "(?i)a", r"(a)\1", "a++", "a{2}{3}", "a**", "(a", "a)", "[a", "[[a]]", "[b-a]", r"\b", "a" * 2000,
    "(a{60}){60}", "(" * 50 + "a" + ")" * 50, "a^b", "*", "a\n", "a{2000}",
])  # fmt: skip
def test_what_is_not_read_is_said(text: str) -> None:
    with pytest.raises(UnsupportedRegexError):
        SafeRegex(text)


def test_expressions_that_never_end_end() -> None:
    assert SafeRegex("(a+)+b").matches("a" * 5_000, "b") is None
    assert SafeRegex("(a+)+b").matches("a" * 5_000, "c") is False
    assert SafeRegex("(x+x+)+y").matches("x" * 5_000 + "y", "y") is True


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (r"model\..*(q|v)_proj", ""),
        (r"(?:.*)layers\.[0-3]\.self_attn\.[qv]_proj", ""),
        (r".*\.\d+\.self_attn\.(?:q|v)_\w+", ""),
        (r".*(a+)+$", "L123"),
        (r".*layers\.[0-2]\..*(q|v)_proj", "L128"),  # "layers.1.x.3.q_proj" would be meant
        (r"language_model\.layers\.[0-3]\..*(q|v)_proj", "L128"),  # loaders and wrappers change how paths begin
        (r"(?!x).*_proj", "L128"),
        (r".*(q_proj", "L128"),
    ],
)
def test_expressions_are_judged_without_running_them(text: str, code: str) -> None:
    found = codes(check_structure(*specimen(PLAIN, {"target_modules": text})))
    assert found == ([code] if code else [])
