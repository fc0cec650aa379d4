"""Names in little room: different ones never look alike, and what tells them apart stays."""

from __future__ import annotations

import re

from hypothesis import given, settings
from hypothesis import strategies as st

from lorica.reports.page import ReportTable
from lorica.reports.short_names import short_names
from lorica.reports.text_table import display_width, plain_table

LONG = "an-organisation-with-a-long-name/a-model-that-was-trained-for-long"


def test_short_names_stay_as_they_are() -> None:
    assert short_names(["b", "a", "a"], 36) == {"b": "b", "a": "a"}


def test_ends_tell_checkpoints_apart() -> None:
    names = [f"{LONG}/checkpoint-{step}" for step in range(100, 2000, 100)]
    shown = short_names(names, 36)
    assert all(shown[name].endswith(name.rpartition("-")[2]) for name in names)
    assert all(text.startswith("an-organisation") for text in shown.values())


def test_what_differs_in_the_middle_stays() -> None:
    names = [f"{LONG}-seed{seed}-{LONG}" for seed in range(30)]
    shown = short_names(names, 36)
    assert all(re.search(rf"seed{seed}\b", shown[name]) for seed, name in enumerate(names))
    assert len(set(shown.values())) == 30


def test_names_that_differ_at_two_places() -> None:
    names = [f"{LONG}-lr{rate}-{LONG}-seed{seed}-{LONG}" for rate in range(5) for seed in range(5)]
    shown = short_names(names, 36)
    assert len(set(shown.values())) == 25
    assert all(len(text) <= 36 for text in shown.values())
    for number, name in enumerate(names):
        assert f"lr{number // 5}" in shown[name]
        assert f"seed{number % 5}" in shown[name]


def test_where_nothing_else_is_left_a_number_tells_names_apart() -> None:
    names = [f"{LONG}{''.join('xy'[number >> bit & 1] + LONG for bit in range(8))}" for number in range(256)]
    shown = short_names(names, 36)
    assert len(set(shown.values())) == 256
    assert all(len(text) <= 36 for text in shown.values())


def test_a_name_that_looks_like_a_cut_one() -> None:
    name = LONG * 2
    shown = short_names([name, short_names([name], 36)[name], "…#1"], 36)
    assert len(set(shown.values())) == 3


@settings(max_examples=200, deadline=None)
@given(
    names=st.lists(st.text("ab…#1東e\u0301-", max_size=60), max_size=12),
    most=st.integers(16, 40),
)
def test_any_names_stay_different_and_short(names: list[str], most: int) -> None:
    shown = short_names(names, most, display_width)
    assert set(shown) == set(names)
    assert len(set(shown.values())) == len(set(names))
    assert all(display_width(text) <= most for text in shown.values())


def test_a_table_never_shows_two_rows_alike() -> None:
    names = [f"{LONG}/checkpoint-{step}" for step in (100, 200)]
    table = ReportTable(("adapter", "reasons"), tuple((name, "x" * 50) for name in names))
    lines = plain_table(table, max_cell=36, names=("adapter",)).split("\n")[2:]
    assert lines[0] != lines[1]
    assert all("checkpoint-" in line for line in lines)
    assert plain_table(table, max_cell=36).split("\n")[2] == plain_table(table, max_cell=36).split("\n")[3]
