"""Parquet columns of unusual types: read as the same values from memory are, or refused with column and row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from lorica.data.read import read_rows, rows_from_memory
from lorica.errors import DataError
from lorica.records import Row, RowSchema

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

# name -> (the values of the columns id and body, what is read of the first row)
VALUES: dict[str, tuple[Callable[[], Any], Callable[[], Any], str, Any]] = {
    "decimal ids": (lambda: pa.array([Decimal(7), Decimal(8)], pa.decimal128(10, 0)), lambda: ["x", "y"], "7", "x"),
    "decimals": (lambda: ["a", "b"], lambda: pa.array([Decimal("1.50"), None], pa.decimal128(5, 2)), "a", 1.5),
    "dates": (lambda: ["a", "b"], lambda: pa.array([date(2024, 1, 2), None]), "a", "2024-01-02"),
    "timestamps": (
        lambda: ["a", "b"],
        lambda: pa.array([datetime(2024, 1, 2), None], pa.timestamp("us")),
        "a",
        "2024-01-02 00:00:00",
    ),
    "maps": (
        lambda: ["a", "b"],
        lambda: pa.array([[("A", "red"), ("B", "blue")], None], pa.map_(pa.string(), pa.string())),
        "a",
        {"A": "red", "B": "blue"},
    ),
    "objects with dates": (
        lambda: ["a", "b"],
        lambda: pa.array([{"day": date(2024, 1, 2)}, None]),
        "a",
        {"day": "2024-01-02"},
    ),
    "categories": (lambda: ["a", "b"], lambda: pa.array(["x", "y"]).dictionary_encode(), "a", "x"),
    "large strings": (lambda: ["a", "b"], lambda: pa.array(["x", "y"], pa.large_string()), "a", "x"),
}


class Case(msgspec.Struct, frozen=True):
    """The values as the reader handed them over."""

    values: dict[str, Any]


def _row(values: Mapping[str, Any], row_id: str, line: int) -> Row:
    return Row(id=row_id, case=Case(dict(values)))


SCHEMAS = (RowSchema("note", ("id", "rule"), ("body",), "id", _row),)


def written(path: Path, ids: Any, body: Any) -> Path:
    pq.write_table(pa.table({"id": ids, "body": body, "rule": ["r", "r"]}), path)
    return path


@pytest.mark.parametrize("name", VALUES)
def test_values_are_read_as_from_memory(name: str, tmp_path: Path) -> None:
    make_ids, make_body, row_id, body = VALUES[name]
    ids, bodies = make_ids(), make_body()
    rows = list(read_rows(written(tmp_path / "t.parquet", ids, bodies), SCHEMAS))
    assert rows[0].id == row_id
    assert isinstance(rows[0].case, Case)
    assert rows[0].case.values["body"] == body
    if name != "maps":  # which pyarrow itself gives as pairs
        in_memory = rows_from_memory(pa.table({"id": ids, "body": bodies, "rule": ["r", "r"]}), SCHEMAS)
        assert [row.case for row in in_memory] == [row.case for row in rows]


def _not_utf8() -> Any:
    texts = pa.array([b"ok", b"caf\xe9"])
    return pa.StringArray.from_buffers(2, texts.buffers()[1], texts.buffers()[2])


@pytest.mark.parametrize(
    ("body", "part"),
    [
        (lambda: pa.array([0, 2**30], pa.date32()), "'body' (date32[day]) holds a value that cannot be read"),
        (_not_utf8, "'body' (string) holds a value that cannot be read: 'utf-8' codec can't decode byte 0xe9"),
        (
            lambda: pa.array([[("A", "x")], [("A", "x"), ("A", "y")]], pa.map_(pa.string(), pa.string())),
            "'body' holds a map with a key twice",
        ),
    ],
)
def test_a_value_that_cannot_be_read_is_named(body: Callable[[], Any], part: str, tmp_path: Path) -> None:
    path = written(tmp_path / "t.parquet", ["a", "b"], body())
    with pytest.raises(DataError) as caught:
        list(read_rows(path, SCHEMAS))
    assert part in str(caught.value)
    assert caught.value.line == 2
    assert "\n  -> " in str(caught.value)
