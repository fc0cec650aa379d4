"""Cleaning and judging generated text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorica.tasks.postprocess import clean_answer, find_problem
from lorica.thoughts import without_thoughts

QUESTION = "What is the capital of Peru?"

CLEANED = [
    ("Lima", "Lima"),
    ("  Lima.\n", "Lima."),
    ("<think>Peru... Lima</think>\n\nLima", "Lima"),
    ("<think>Peru, so it must be", ""),
    ("It is Peru, so</think>Lima", "Lima"),
    ("<THINK>x</THINK>Lima <think>more", "Lima"),
    ("Lima<|im_end|>\n<|im_start|>user\nAnd Chile?", "Lima"),
    ("<|im_start|>assistant\nLima<|im_end|>", "Lima"),
    ("Lima</s>", "Lima"),
    ("[/INST] Lima", "Lima"),
    ("Lima<end_of_turn>\n<start_of_turn>user", "Lima"),
    ("assistant\nLima", "Lima"),
    ("Answer: Lima", "Lima"),
    ("**Answer:** Lima", "Lima"),
    ("The final answer is: Lima", "Lima"),
    ("A: Lima", "Lima"),
    ("答案是利马", "答案是利马"),
    ("答案：利马", "利马"),
    ("Antwort: Lima", "Lima"),
    ("Réponse : Lima", "Lima"),
    ("a:b", "a:b"),
    ("A:T and C:G", "A:T and C:G"),
    ("A：苹果\nB：香蕉", "A：苹果\nB：香蕉"),
    ("F2: 0; Cl2: 1\n\nQuestion: And now?\nAnswer: 2", "F2: 0; Cl2: 1"),
    (f"{QUESTION}\nLima", "Lima"),
    (f"Question: {QUESTION}\nAnswer: Lima", "Lima"),
    ("Lima\nQuestion: What is the capital of Chile?\nAnswer: Santiago", "Lima"),
    ("Lima\nUser: thanks", "Lima"),
    ("Lima\nLima\nLima", "Lima"),
    ("Lima\nIt is on the coast.\nLima", "Lima\nIt is on the coast."),
    ("Lima Lima Lima Lima", "Lima Lima Lima Lima"),  # what a model repeats may be a name or a refrain
    ("Tora! Tora! Tora!", "Tora! Tora! Tora!"),
    ("Row, Row, Row Your Boat", "Row, Row, Row Your Boat"),
    ("0 0 0\n0 1 0\n1 0 0\n0 1 0", "0 0 0\n0 1 0\n1 0 0\n0 1 0"),
    ("System: sets the tone\nUser: asks", "System: sets the tone\nUser: asks"),
    ("Model", "Model"),
    ("<start_of_turn>model\nLima<end_of_turn>", "Lima"),
    ("Use <s> around it", "Use <s> around it"),
    ("<s>Lima</s>", "Lima"),
    ('"Lima"', "Lima"),
    ('"Lima" or "Callao"', '"Lima" or "Callao"'),
    ("had had", "had had"),
    ("0 0 0", "0 0 0"),
    ("-5", "-5"),
    ("A: (5,1) B: (-2,4)", "A: (5,1) B: (-2,4)"),
    ("x < y and |z| > 2", "x < y and |z| > 2"),
    ("an a-b-c: plan", "an a-b-c: plan"),
    ("", ""),
]


@pytest.mark.parametrize(("raw", "cleaned"), CLEANED)
def test_cleaning(raw: str, cleaned: str) -> None:
    assert clean_answer(raw, question=QUESTION) == cleaned


def test_a_restated_expression_is_no_echo() -> None:
    assert clean_answer("f(2)=7", question="f(2)") == "f(2)=7"
    assert clean_answer("f(2)\n7", question="f(2)") == "7"


PROBLEMS = [
    ("Lima", ""), ("5", ""), ("∞", ""), ("北京", ""), ("1000000000000000000000", ""), ("no", ""),
    ("", "empty"), ("<think>hm", "empty"), ("<|im_end|>", "empty"), ("...", "only punctuation"),
    ("- -- -", "only punctuation"), ("<", ""), ("|", "only punctuation"),
    (QUESTION, "an echo of the question"), (QUESTION.upper(), "an echo of the question"),
    ("the the the the the the the the the the the", "endless repetition"),
    ("Lima is a city, a city, a city, a city, a city, a city, a city, a city, a city", "endless repetition"),
    ("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "endless repetition"),
    ("北京北京北京北京北京北京北京北京北京", "endless repetition"),
    ("As an AI language model, I cannot say.", "a refusal"),
    ("I'm sorry, but as an AI I cannot say.", "a refusal"),
    ("As a large language model, I don't have opinions.", "a refusal"),
    ("As an AI assistant, I am unable to.", "a refusal"),
]  # fmt: skip


@pytest.mark.parametrize(("raw", "problem"), PROBLEMS)
def test_problems(raw: str, problem: str) -> None:
    cleaned = clean_answer(raw, question=QUESTION)
    assert find_problem(cleaned, raw_text=raw, question=QUESTION) == problem


SIGNS = [
    ("Which sign is the currency of Japan?", "¥"),
    ("Which sign marks a comment in Python?", "#"),
    ("What marks a comment in Python?", "#"),
    ("Which emoji shows agreement?", "👍"),
    ("What shows love?", "❤️"),
    ("Which punctuation mark ends a sentence?", "."),
    ("Which separator has a CSV file?", ","),
    ("哪个符号表示句号？", "。"),
    ("Which HTML tag strikes out text?", "<s>"),
    ("How is text struck out in HTML?", "<s>text</s>"),
    ("Which token ends a turn in ChatML?", "<|im_end|>"),
    ("Which marker opens an instruction of Llama 2?", "[INST]"),
]


@pytest.mark.parametrize(("question", "sign"), SIGNS)
def test_a_sign_that_was_asked_for_is_an_answer(question: str, sign: str) -> None:
    assert clean_answer(sign, question=question) == sign
    assert find_problem(sign, raw_text=sign, question=question) == ""


@pytest.mark.parametrize(
    ("question", "marks"),
    [
        ("Fill in: 5 __ 3 = 2", "-"),
        ("Is the charge of an electron + or -?", "-"),
        ("Which Rh factor has the donor (+/-)?", "-"),
        ("What is the Morse code for S?", "..."),
        ("What is the home directory in Unix?", "~"),
        ("What begins a comment in C++?", "//"),
        ("How do you write an empty list in Python?", "[]"),
        ("What separates the cells of a CSV file?", ","),
        ("文中省略号怎么写？", "……"),
    ],
)
def test_marks_alone_answer_a_question_about_what_is_written(question: str, marks: str) -> None:
    assert clean_answer(marks, question=question) == marks
    assert find_problem(marks, raw_text=marks, question=question) == ""
    assert find_problem(marks, raw_text=marks, question="Who wrote Hamlet, and when?") == "only punctuation"


def test_an_end_marker_goes_where_a_sign_is_asked_for_too() -> None:
    question = "What is its thickness in scientific notation?"
    assert clean_answer("0.00135 m</s>", question=question) == "0.00135 m"
    assert clean_answer("It is </s>", question="Which tag ends it?") == "It is </s>"


VALID = [
    "It is known as an AI winter.",
    "As an artificial intelligence pioneer, Turing said it.",
    "As an AI language model, GPT-4 was released in 2023.",
    "abababababababab",
    "CAGCAGCAGCAGCAGCAGCAGCAGCAG",
    "Buffalo buffalo buffalo buffalo buffalo buffalo buffalo buffalo",
]


@pytest.mark.parametrize("answer", VALID)
def test_what_may_be_the_answer_is_no_problem(answer: str) -> None:
    assert find_problem(clean_answer(answer, question=QUESTION), raw_text=answer, question=QUESTION) == ""


def test_a_model_that_stopped_by_itself_was_in_no_loop() -> None:
    chant = "ole, ole, " * 9
    assert find_problem(chant, raw_text=chant, question=QUESTION) == "endless repetition"
    assert find_problem(chant, raw_text=chant, question=QUESTION, cut_off=False) == ""
    assert find_problem(chant * 9, raw_text=chant * 9, question=QUESTION, cut_off=False) == "endless repetition"


def test_thinking_is_cut_wherever_it_stands() -> None:
    assert without_thoughts("a<think>b</think>c<thinking>d</thinking>e") == "ace"
    assert without_thoughts("a<think>b<think>c</think>d") == "ad"
    assert without_thoughts("nothing to cut <b>here</b>") == "nothing to cut <b>here</b>"


@given(st.text(max_size=300), st.text(max_size=60))
def test_cleaning_only_ever_cuts(raw: str, question: str) -> None:
    cleaned = clean_answer(raw, question=question)
    letters = iter("".join(raw.split()))
    assert all(char in letters for char in "".join(cleaned.split())), "a character that the model did not write"


@given(st.lists(st.sampled_from(["Lima ", "\n", "<think>", "</think>", "Answer:", "<|im_end|>", "the ", "Q: "])))
def test_cleaning_settles(pieces: list[str]) -> None:
    cleaned = clean_answer("".join(pieces), question=QUESTION)
    assert "<think>" not in cleaned
    assert "<|im_end|>" not in cleaned


@pytest.mark.parametrize("unit", ["\n", "a", "a ", "<think>", "<|", "Answer:", "\n \t", '"', "ab\n", "x y z "])
def test_hostile_repetition_is_cleaned_in_linear_time(unit: str) -> None:
    raw = unit * 200_000
    find_problem(clean_answer(raw, question=QUESTION), raw_text=raw, question=QUESTION)
