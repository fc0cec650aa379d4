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
    ("", "qa", ("algebra",), "general"): Route(None, "base"),
    ("general", "qa", SUBJECTS, "general"): Route("general", "subject"),
    ("physics", "qa", (), "general"): Route(None, "base"),
    ("", "qa", (), "base"): Route(None, "base"),
    ("algebra", "qa", SUBJECTS, "error"): Route("algebra", "subject"),
}


@pytest.mark.parametrize("case", CASES)
def test_order_of_choice(case: tuple[str, str, tuple[str, ...], str]) -> None:
    subject, task, adapters, fallback = case
    assert route(subject=subject, task=task, adapters=adapters, fallback=fallback) == CASES[case]


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
