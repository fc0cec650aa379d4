from __future__ import annotations

import pytest

from lorica.errors import AdapterError, ConfigError
from lorica.records import Route
from lorica.routing import route

SUBJECTS = ("algebra", "general", "history")

CASES = {
    # (subject, task, adapters, fallback) -> route
    ("algebra", "qa", SUBJECTS, "general"): Route("algebra", "subject"),
    ("algebra", "qa", (*SUBJECTS, "qa"), "general"): Route("qa", "task"),
    ("physics", "qa", SUBJECTS, "general"): Route("general", "general", fallback=True),
    ("physics", "qa", SUBJECTS, "base"): Route(None, "base", fallback=True),
    ("physics", "qa", ("algebra",), "general"): Route(None, "base", fallback=True),
    ("", "qa", SUBJECTS, "general"): Route("general", "general"),
    ("", "qa", SUBJECTS, "base"): Route("general", "general"),
    ("", "qa", ("algebra",), "general"): Route(None, "base", fallback=True),
    ("", "qa", ("algebra",), "base"): Route(None, "base", fallback=True),
    ("general", "qa", SUBJECTS, "general"): Route("general", "subject"),
    ("physics", "qa", (), "general"): Route(None, "base"),
    ("", "qa", (), "base"): Route(None, "base"),
    ("algebra", "qa", SUBJECTS, "error"): Route("algebra", "subject"),
}


@pytest.mark.parametrize("case", CASES)
def test_order_of_choice(case: tuple[str, str, tuple[str, ...], str]) -> None:
    subject, task, adapters, fallback = case
    assert route(subject=subject, task=task, adapters=adapters, fallback=fallback) == CASES[case]


@pytest.mark.parametrize(
    ("subject", "adapter"),
    [
        ("World History", "world_history"),
        ("WORLD-HISTORY", "world_history"),
        ("world -- history", "world_history"),
        ("world_history", "World History"),
        ("STRASSE 1", "straße 1"),
        ("Cafe\u0301", "café"),
        ("C++", "c++"),
        ("हिन्दी कविता", "हिन्दी_कविता"),
    ],
)
def test_a_subject_meets_its_adapter_in_another_spelling(subject: str, adapter: str) -> None:
    assert route(subject=subject, task="qa", adapters=(adapter, "general", "art")) == Route(adapter, "subject")


@pytest.mark.parametrize(
    ("subject", "adapter"),
    [("C++", "c"), ("C", "c#"), ("का", "की"), ("???", "!!!"), ("worldhistory", "world_history"), ("x²", "x")],
)
def test_other_subjects_do_not_meet(subject: str, adapter: str) -> None:
    found = route(subject=subject, task="qa", adapters=(adapter, "general"))
    assert found == Route("general", "general", fallback=True)


def test_the_exact_name_goes_before_another_spelling() -> None:
    both = ("World History", "world_history", "WORLD.HISTORY")
    for name in both:
        assert route(subject=name, task="qa", adapters=both) == Route(name, "subject")


def test_two_spellings_of_one_adapter_are_an_error_naming_both() -> None:
    both = ("world_history", "World History", "art")
    with pytest.raises(AdapterError, match=r"'world history' .* 'World History' and 'world_history'"):
        route(subject="world history", task="qa", adapters=both)
    assert route(subject="Art", task="qa", adapters=both) == Route("art", "subject")


def test_a_task_or_fixed_adapter_is_named_exactly() -> None:
    assert route(subject="", task="qa", adapters=("QA",)) == Route(None, "base", fallback=True)
    with pytest.raises(AdapterError, match="does not exist"):
        route(subject="", task="qa", adapters=("world_history",), fixed="World History")


def test_a_fixed_adapter_wins() -> None:
    assert route(subject="algebra", task="qa", adapters=SUBJECTS, fixed="history") == Route("history", "fixed")


def test_a_missing_fixed_adapter_is_an_error_with_a_suggestion() -> None:
    with pytest.raises(AdapterError, match="did you mean 'history'"):
        route(subject="algebra", task="qa", adapters=SUBJECTS, fixed="histroy")


@pytest.mark.parametrize(("subject", "adapters"), [("physics", SUBJECTS), ("", ("algebra",)), ("algebra", ())])
def test_error_means_no_row_without_its_adapter(subject: str, adapters: tuple[str, ...]) -> None:
    with pytest.raises(AdapterError, match="there is no adapter for"):
        route(subject=subject, task="qa", adapters=adapters, fallback="error")


def test_unknown_fallback() -> None:
    with pytest.raises(ConfigError, match="allowed: general, base, error"):
        route(subject="", task="qa", adapters=(), fallback="none")
