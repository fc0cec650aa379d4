"""Thoughts are told from answers by their tags, whatever a model calls them."""

from __future__ import annotations

import pytest

from lorica.thoughts import closing_tags, is_tag, unclosed, without_thoughts

PAIRS = [
    ("<think>", "</think>"), ("<THINK>", "</THINK>"), ("<thinking>", "</thinking>"), ("<thought>", "</thought>"),
    ("<thoughts>", "</thoughts>"), ("<reasoning>", "</reasoning>"), ("<reflection>", "</reflection>"),
    ("<seed:think>", "</seed:think>"), ("<long_think>", "</long_think>"), ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"), ("<|thought|>", "<|/thought|>"), ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"), ("<|think_start|>", "<|think_end|>"),
    ("<|start_think|>", "<|end_think|>"),
]  # fmt: skip


@pytest.mark.parametrize(("tag", "close"), PAIRS)
def test_a_thought_is_left_out(tag: str, close: str) -> None:
    assert is_tag(tag)
    assert is_tag(close)
    assert closing_tags(f"{tag}\n")[0] == close
    assert closing_tags(close) == []
    assert without_thoughts(f"{tag}hm{close}Lima") == "Lima"
    assert without_thoughts(f"hm{close}Lima") == "Lima"
    assert without_thoughts(f"Lima{tag}hm") == "Lima"
    assert unclosed(f"a{tag}hm") == f"{tag}hm"
    assert unclosed(f"a{tag}hm{close}b") == unclosed(f"b{close}") == ""


@pytest.mark.parametrize(
    "text", ["I think so", "<b>", "a < think > b", "[1]", "<thinker>", "<|im_end|>", "[think about it]"]
)
def test_other_texts_are_no_thoughts(text: str) -> None:
    assert without_thoughts(text) == text
    assert unclosed(text) == ""
    assert not is_tag(text)
