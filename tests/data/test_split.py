"""Splits: nothing lost or doubled, components whole, classes balanced, the same for the same seed."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lorica.data.split import components_of, split
from lorica.errors import ConfigError, DataError
from lorica.records import Row

SHARED = Path(__file__).resolve().parents[2] / ".." / "shared" / "data"


class Case(msgspec.Struct, frozen=True):
    text: str


def _text(row: Row) -> str:
    assert isinstance(row.case, Case)
    return row.case.text


def _unlike(number: int) -> str:
    """A text that is near no other number's."""
    return hashlib.sha256(str(number).encode()).hexdigest()


def _rows(specification: Sequence[tuple[str, str, int | None]]) -> list[Row]:
    return [
        Row(id=str(i), case=Case(text), group=group, gold=gold) for i, (text, group, gold) in enumerate(specification)
    ]


ROWS = st.lists(
    st.tuples(
        st.text("ab c", max_size=8) | st.integers(0, 10**6).map(_unlike),
        st.sampled_from(["", "", "", "g1", "g2", "g3"]),
        st.none() | st.integers(0, 2),
    ),
    min_size=2,
    max_size=40,
).map(_rows)


def _crosses(rows: list[Row], held: list[Row]) -> bool:
    ids = {row.id for row in held}
    return any(0 < sum(rows[i].id in ids for i in part) < len(part) for part in components_of(rows, _text))


@settings(max_examples=80, deadline=None)
@given(rows=ROWS, ratio=st.floats(0.05, 0.95), seed=st.integers(0, 3))
def test_split_keeps_rows_and_components_whole(rows: list[Row], ratio: float, seed: int) -> None:
    assume(len(components_of(rows, _text)) > 1)
    train, held = split(rows, ratio=ratio, seed=seed, text=_text)
    assert train
    assert held
    assert sorted(map(int, (row.id for row in train + held))) == list(range(len(rows)))
    for side in (train, held):  # each in the order of the rows
        assert [int(row.id) for row in side] == sorted(int(row.id) for row in side)
    assert not _crosses(rows, held)
    assert split(rows, ratio=ratio, seed=seed, text=_text) == (train, held)


def test_groups_and_near_duplicates_join_across_steps() -> None:
    rows = _rows(
        [
            ("the quick brown fox jumps over the lazy dog", "a", 0),
            ("The quick brown fox jumps over the lazy dogs!", "b", 0),
            ("something else entirely", "b", 1),
            ("nothing like the others", "", 1),
        ]
    )
    assert components_of(rows, _text) == [[0, 1, 2], [3]]


def test_ratio_and_classes_are_met_when_rows_stand_alone() -> None:
    rows = _rows([(_unlike(i), "", int(i % 10 == 0)) for i in range(1000)])
    train, held = split(rows, ratio=0.15, seed=0, text=_text)
    assert Counter(row.gold for row in held) == {0: 135, 1: 15}
    assert split(rows, ratio=0.15, seed=1, text=_text) != (train, held)


def test_large_groups_still_come_near_the_ratio() -> None:
    rows = _rows([(_unlike(i), f"g{i % 30}", i % 2) for i in range(3000)])
    for seed in range(5):
        _, held = split(rows, ratio=0.15, seed=seed, text=_text)
        assert 0.12 <= len(held) / len(rows) <= 0.18


def test_one_large_and_one_small_component_hold_out_the_small_one() -> None:
    rows = _rows([(_unlike(i), "big", 0) for i in range(50)] + [("alone", "", 0)])
    train, held = split(rows, ratio=0.15, seed=0, text=_text)
    assert [row.id for row in held] == ["50"]
    assert len(train) == 50


def test_what_cannot_be_divided_is_explained() -> None:
    rows = _rows([("x", "g", 0), ("y", "g", 1), ("z", "g", 1)])
    with pytest.raises(DataError, match=r"3 rows in 1 groups .* leaves 1 that can be told apart"):
        split(rows, ratio=0.5, seed=0, text=_text)
    with pytest.raises(DataError, match="cannot be divided into a training"):
        split([], ratio=0.5, seed=0, text=_text)
    with pytest.raises(ConfigError, match="between 0 and 1"):
        split(rows, ratio=1.0, seed=0, text=_text)


def test_a_refusal_names_the_rows_and_the_way_without_a_split() -> None:
    rows = _rows([("one thing", "g", 0), ("another", "g", 1)])
    with pytest.raises(
        DataError, match=r"^posts\.csv: 2 rows(.|\n)*training\.val_ratio=0 trains on all rows"
    ) as caught:
        split(rows, ratio=0.5, seed=0, text=_text, source="posts.csv")
    assert caught.value.path == Path("posts.csv")
    with pytest.raises(DataError, match=r"^<rows>: 2 rows"):
        split(rows, ratio=0.5, seed=0, text=_text)


def _shared_rows(name: str, group: str) -> list[Row]:
    path = SHARED / name
    if not path.is_file():
        pytest.skip(f"needs shared/data/{name} beside the repository")
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    labels = sorted({record["label"] for record in records})
    return [
        Row(id=r["id"], case=Case(r["text"]), gold=labels.index(r["label"]), group=r.get(group, "")) for r in records
    ]


@pytest.mark.parametrize(
    ("name", "group"), [("sms_spam/messages.jsonl", ""), ("hatecheck/cases.jsonl", "functionality")]
)
def test_real_data(name: str, group: str) -> None:
    rows = _shared_rows(name, group)
    train, held = split(rows, ratio=0.15, seed=7, text=_text)
    assert len(train) + len(held) == len(rows)
    assert not {row.group for row in held if row.group} & {row.group for row in train}
    assert not {_text(row).casefold() for row in held} & {_text(row).casefold() for row in train}
    assert 0.10 <= len(held) / len(rows) <= 0.20
    if not group:
        shares = [sum(row.gold == 1 for row in side) / len(side) for side in (train, held)]
        assert abs(shares[0] - shares[1]) < 0.01
