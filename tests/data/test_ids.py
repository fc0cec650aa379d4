"""Duplicate ids: found exactly, even where two ids share a hash, in little memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorica.data.ids import HashedIds, refuse_duplicates
from lorica.errors import DataError


@given(st.lists(st.text(max_size=3)))
def test_hash_set_agrees_with_a_set(texts: list[str]) -> None:
    ours, theirs = HashedIds(), set[str]()
    for text in texts:
        assert ours.add(text) == (text not in theirs)
        theirs.add(text)
    assert len(ours) == len(theirs)


def test_hash_set_grows_and_stays_below_twenty_bytes_an_id() -> None:
    ids = HashedIds()
    assert all(ids.add(f"row-{i}") for i in range(60_000))
    assert not any(ids.add(f"row-{i}") for i in range(0, 60_000, 7))
    assert ids.nbytes <= 20 * len(ids)


class _SameHash(str):
    def __hash__(self) -> int:
        return 42

    __eq__ = str.__eq__


def _pass_over(texts: list[str]) -> list[tuple[str, int]]:
    def items() -> Iterator[tuple[str, int]]:
        return ((text, line) for line, text in enumerate(texts, 2))

    return list(refuse_duplicates(items(), key=lambda item: item, again=items, path=Path("f.csv")))


def test_ids_that_share_a_hash_are_not_duplicates() -> None:
    texts: list[str] = [_SameHash("a"), _SameHash("b"), _SameHash("c")]
    assert [text for text, _ in _pass_over(texts)] == ["a", "b", "c"]
    with pytest.raises(DataError, match=r"f.csv:5 \(row 'b'\): the id was already used on line 3"):
        _pass_over([*texts, _SameHash("b")])
