"""Truncation: only what may be cut is cut, by the declared policy, and counted."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lorica.data.read import rows_from_memory
from lorica.errors import PromptError
from lorica.prompts.truncate import allocate, replace_spans, span_texts, truncate_text
from lorica.records import Message
from lorica.tasks import load_task

from .conftest import load_encoder

relaxed = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
WORDS = " ".join(f"w{i}" for i in range(200))


def prompt(*posts: str) -> list[Message]:
    """One message: an instruction, the posts as trim spans, a question."""
    content, trim = "Rule: be kind.\n", []
    for post in posts:
        trim.append((len(content), len(content) + len(post)))
        content += post + "\n"
    return [Message("system", "You judge."), Message("user", content + "Is it broken?", tuple(trim))]


@relaxed
@given(
    posts=st.lists(st.text(alphabet="ab é京\n<|im_end|>", max_size=300), min_size=1, max_size=3),
    limit=st.integers(min_value=60, max_value=200),
    policy=st.sampled_from(["middle", "left", "right"]),
    answer=st.sampled_from([None, "Yes"]),
)
def test_a_cut_prompt_fits_and_keeps_its_instruction(
    tiny: Path, posts: list[str], limit: int, policy: str, answer: str | None
) -> None:
    encoder = load_encoder(tiny)
    chat = prompt(*posts)
    whole = encoder.encode(chat, answer=answer, max_tokens=100_000, truncate="error")
    cut = encoder.encode(chat, answer=answer, max_tokens=limit, truncate=policy)
    assert len(cut.tokens) <= limit
    assert cut.dropped == len(whole.tokens) - len(cut.tokens)
    if len(whole.tokens) <= limit:
        assert cut == whole
    else:
        assert cut.dropped > 0
        text = encoder.decode(cut.tokens)
        assert "Rule: be kind.\n" in text
        assert "\nIs it broken?" in text
        assert "You judge." in text
        if answer:
            assert cut.tokens[cut.answer_start :] == (*encoder.encode_choice(answer), 2)
        with pytest.raises(PromptError, match=f"max_tokens is {limit}"):
            encoder.encode(chat, answer=answer, max_tokens=limit, truncate="error")


def test_policies_name_what_they_drop(tiny: Path) -> None:
    encoder = load_encoder(tiny)
    cut = {
        policy: encoder.decode(encoder.encode(prompt(WORDS), max_tokens=100, truncate=policy).tokens)
        for policy in ("left", "right", "middle")
    }
    kept = {policy: text.split("kind.\n")[1].split("\nIs it")[0] for policy, text in cut.items()}
    assert kept["right"].startswith("w0 w1 ")
    assert kept["right"].endswith(" ...")
    assert kept["left"].startswith("... ")
    assert kept["left"].endswith(" w199")
    assert kept["middle"].startswith("w0 w1 ")
    assert kept["middle"].endswith(" w199")
    assert kept["middle"].count(" ... ") == 1


def test_nearly_all_of_the_budget_is_used(tiny: Path) -> None:
    encoder = load_encoder(tiny)
    for limit in range(60, 160, 7):
        cut = encoder.encode(prompt(WORDS), max_tokens=limit, truncate="middle")
        assert limit - 12 <= len(cut.tokens) <= limit


def test_the_longest_text_gives_first(tiny: Path) -> None:
    encoder = load_encoder(tiny)
    text = encoder.decode(encoder.encode(prompt("a short example", WORDS), max_tokens=120, truncate="right").tokens)
    assert "a short example\n" in text
    assert "w199" not in text


def test_a_limit_below_the_fixed_text_says_what_it_needs(tiny: Path) -> None:
    encoder = load_encoder(tiny)
    needed = len(encoder.encode(prompt(""), max_tokens=999, truncate="error").tokens)
    assert encoder.encode(prompt(WORDS), max_tokens=needed, truncate="left").tokens
    with pytest.raises(PromptError, match=f"needs {needed} tokens; max_tokens is {needed - 1}"):
        encoder.encode(prompt(WORDS), max_tokens=needed - 1, truncate="left")
    answer = len(encoder.encode_choice("Yes")) + 1
    with pytest.raises(PromptError, match=f"needs {needed} tokens and {answer} for its answer"):
        encoder.encode(prompt(WORDS), answer="Yes", max_tokens=needed, truncate="left")


def test_a_prompt_without_spans_is_never_cut(tiny: Path) -> None:
    with pytest.raises(PromptError, match="the fixed text of a prompt needs"):
        load_encoder(tiny).encode([Message("user", WORDS)], max_tokens=100, truncate="middle")


@pytest.mark.parametrize("policy", ["middle", "left", "right"])
def test_a_pathological_question_keeps_its_ends_and_its_instruction(tiny: Path, policy: str) -> None:
    encoder = load_encoder(tiny)
    question = " ".join(f"w{number}" for number in range(300))
    task = load_task("saq")
    (row,) = rows_from_memory([{"question": question}], task.schemas)
    cut = encoder.encode(task.render(row), max_tokens=400, truncate=policy)
    assert len(cut.tokens) <= 400
    assert cut.dropped > 0
    text = encoder.decode(cut.tokens)
    assert "Answer in a few words.\nQuestion: w0 w1 " in text
    assert " w38 w39 " in text
    assert " w260 w261 " in text
    assert " w298 w299" in text
    assert text.count(" ... ") == 1
    with pytest.raises(PromptError, match="a prompt has"):
        encoder.encode(task.render(row), max_tokens=400, truncate="error")


@pytest.mark.parametrize("policy", ["middle", "left", "right"])
def test_huge_texts_are_cut_before_they_are_tokenised(tiny: Path, policy: str) -> None:
    encoder = load_encoder(tiny)
    huge = "start " + "spam eggs " * 40_000 + "stop"
    cut = encoder.encode(prompt(huge), max_tokens=128, truncate=policy)
    assert len(cut.tokens) <= 128
    assert 100_000 < cut.dropped < len(huge)
    text = encoder.decode(cut.tokens)
    assert ("start" in text, "stop" in text) == (policy != "left", policy != "right")


def test_huge_fixed_texts_are_refused_at_once(tiny: Path) -> None:
    encoder = load_encoder(tiny)
    with pytest.raises(PromptError, match="30000000 characters that may not be cut"):
        encoder.encode([Message("user", "x" * 30_000_000)], max_tokens=128, truncate="middle")
    with pytest.raises(PromptError, match="max_tokens is 128"):
        encoder.encode(prompt("x" * 100_000), max_tokens=128, truncate="error")


@pytest.mark.parametrize(
    ("content", "trim", "policy"),
    [(WORDS, (), "middle"), (WORDS, ((0, len(WORDS)),), "error"), ("x" * 10_000_000, (), "middle")],
)
def test_a_refusal_names_the_key_that_sets_the_limit(
    tiny: Path, content: str, trim: tuple[tuple[int, int], ...], policy: str
) -> None:
    encoder, message = load_encoder(tiny), Message("user", content, trim)
    with pytest.raises(PromptError) as caught:
        encoder.encode([message], max_tokens=100, truncate=policy)
    assert caught.value.fix.startswith("raise inference.max_input_tokens, or ")
    with pytest.raises(PromptError) as caught:
        encoder.encode([message], answer="Yes", max_tokens=100, truncate=policy, limit_key="training.max_seq_length")
    assert caught.value.fix.startswith("raise training.max_seq_length, or ")


def test_share_levels_the_longest_down() -> None:
    assert allocate([10, 100, 50], 200) == [10, 100, 50]
    assert allocate([10, 100, 50], 90) == [10, 40, 40]
    assert allocate([10, 100, 50], 12) == [4, 4, 4]
    assert allocate([5, 5], 0) == [0, 0]
    assert allocate([], 7) == []


@given(st.lists(st.integers(0, 50), max_size=6), st.integers(-5, 200))
def test_share_never_gives_more_than_there_is(counts: list[int], keep: int) -> None:
    shared = allocate(counts, keep)
    assert all(0 <= given_ <= count for given_, count in zip(shared, counts, strict=True))
    assert sum(shared) == min(sum(counts), max(keep, 0))


def test_cut_text_and_spans() -> None:
    offsets = [(0, 3), (3, 7), (7, 11), (11, 16)]
    text = "one two six seven"[:16]
    assert truncate_text(text, offsets, 4, "left") == text
    assert truncate_text(text, offsets, 2, "right") == "one two ..."
    assert truncate_text(text, offsets, 2, "middle") == "one ... seve"
    assert truncate_text(text, offsets, 0, "left") == ""
    chat = [Message("user", "a[bb]c[dd]", ((2, 4), (7, 9)))]
    assert span_texts(chat) == ["bb", "dd"]
    (replaced,) = replace_spans(chat, ["", "longer"])
    assert replaced == Message("user", "a[]c[longer]", ((2, 2), (5, 11)))
    for wrong in (((2, 1),), ((0, 11),), ((2, 4), (3, 5)), ((-1, 2),)):
        with pytest.raises(ValueError, match="overlap"):
            span_texts([Message("user", "a[bb]c[dd]", wrong)])
