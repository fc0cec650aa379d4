"""Rows from memory as numpy, pandas, polars, pyarrow and datasets hold them."""

from __future__ import annotations

import sqlite3
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
import numpy as np
import pytest

from lorica.data.formats import open_table
from lorica.data.plain import plain_records, to_plain_value
from lorica.data.read import read_rows, rows_from_memory
from lorica.errors import DataError
from lorica.records import Row, RowSchema
from lorica.tasks import load_task


def _row(values: Mapping[str, Any], row_id: str, line: int) -> Row:
    return Row(id=row_id, case=Case(dict(values)), line=line)


class Case(msgspec.Struct, frozen=True):
    """The values as the reader handed them over."""

    values: dict[str, Any]


SHAPES = (RowSchema("note", ("text",), ("id", "more"), "id", _row),)


def read(records: Any) -> list[tuple[str, dict[str, Any]]]:
    """(id, values without the id) of each row."""
    rows = rows_from_memory(records, SHAPES)
    assert all(isinstance(row.case, Case) for row in rows)
    kept = [{k: v for k, v in msgspec.structs.asdict(row.case)["values"].items() if k != "id"} for row in rows]
    return [(row.id, values) for row, values in zip(rows, kept, strict=True)]


class NAType:
    """As pandas.NA: a value of its own kind, whose truth is an error."""

    def __bool__(self) -> bool:
        raise TypeError("boolean value of NA is ambiguous")


class Frame:
    """As a data frame of pandas: named columns, an index, `to_dict("records")`; iterating it gives names."""

    def __init__(self, records: list[dict[Any, Any]], columns: list[Any]) -> None:
        self.columns = columns
        self.index = [7 + i for i in range(len(records))]
        self._records = records

    def __iter__(self) -> Iterator[Any]:
        return iter(self.columns)

    def to_dict(self, orient: str = "dict") -> Any:
        assert orient == "records"
        return self._records


class PolarsFrame:
    """As a data frame of polars: `columns` and `to_dicts`, no `to_dict("records")`."""

    columns = ("id", "text")

    def to_dicts(self) -> list[dict[str, Any]]:
        return [{"id": 1, "text": "x"}, {"id": 2, "text": "y"}]

    def to_dict(self) -> Any:
        raise AssertionError("of columns, not of rows")


class Dataset:
    """As a dataset of Hugging Face: yields dictionaries, and its `to_dict` is of columns."""

    column_names = ("id", "text")

    def __iter__(self) -> Iterator[dict[str, Any]]:
        yield {"id": 1, "text": "x"}
        yield {"id": 2, "text": "y"}

    def to_dict(self) -> Any:
        raise AssertionError("of columns, not of rows")


class Series:
    """As a row of a data frame (`df.iloc[0]`): no Mapping, but `to_dict`."""

    def __init__(self, **values: Any) -> None:
        self._values = values

    def to_dict(self) -> dict[str, Any]:
        return self._values


class Tuple(NamedTuple):
    """As `df.itertuples()` yields."""

    Index: int
    id: int
    text: str


class Scalar:
    """As a scalar of pyarrow."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def as_py(self) -> Any:
        return self._value


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (np.int64(3), 3),
        (np.float32(0.5), 0.5),
        (np.bool_(True), True),
        (np.str_("x"), "x"),
        (np.array(["a", "b"], dtype=object), ["a", "b"]),
        (np.array([[1, 2]]), [[1, 2]]),
        (np.array("a"), "a"),
        (np.datetime64("NaT"), None),
        (np.ma.masked, None),
        (NAType(), None),
        (("a", np.int8(1)), ["a", 1]),
        ({"k": np.array([1.5]), 2: (NAType(),)}, {"k": [1.5], "2": [None]}),
        (OrderedDict(a=np.int64(1)), {"a": 1}),
        (Scalar([Scalar(1)]), [1]),
        (Decimal("4.0"), 4),
        (Decimal("4.5"), 4.5),
        (UUID(int=7), "00000000-0000-0000-0000-000000000007"),
        (datetime(2024, 1, 2, 3, 4), "2024-01-02 03:04:00"),
        (None, None),
        ("x", "x"),
    ],
)
def test_values_of_other_libraries_are_plain(value: object, plain: object) -> None:
    made = to_plain_value(value)
    assert (made, type(made)) == (plain, type(plain))


def test_numbers_keep_their_kind_and_digits() -> None:
    assert type(to_plain_value(np.int64(2**62 + 1))) is int
    assert to_plain_value(np.int64(2**62 + 1)) == 2**62 + 1
    assert type(to_plain_value(np.bool_(False))) is bool
    assert str(to_plain_value(np.float64("nan"))) == "nan"


@pytest.mark.parametrize(
    "records",
    [
        [{"id": 1, "text": "x"}, {"id": 2, "text": "y"}],
        ({"id": n, "text": t} for n, t in ((1, "x"), (2, "y"))),
        iter([{"id": np.int64(1), "text": "x"}, {"id": np.int64(2), "text": np.str_("y")}]),
        np.array([{"id": 1, "text": "x"}, {"id": 2, "text": "y"}], dtype=object),
        Frame([{"id": 1, "text": "x"}, {"id": 2, "text": "y"}], ["id", "text"]),
        PolarsFrame(),
        Dataset(),
        [Series(id=np.int64(1), text="x"), Series(id=np.int64(2), text="y")],
        (Tuple(*values) for values in ((7, 1, "x"), (8, 2, "y"))),
    ],
    ids=lambda value: type(value).__name__,
)
def test_rows_in_many_vessels(records: Any) -> None:
    assert read(records) == [("1", {"text": "x"}), ("2", {"text": "y"})]


def test_rows_of_a_database() -> None:
    connection = sqlite3.connect(":memory:")
    connection.row_factory = sqlite3.Row
    rows = connection.execute("select 1 as id, 'x' as text union all select 2, 'y'")
    assert read(rows) == [("1", {"text": "x"}), ("2", {"text": "y"})]
    connection.close()


def test_the_index_of_a_frame_is_no_id_and_its_order_stays() -> None:
    frame = Frame([{"text": "b"}, {"text": "a"}], ["text"])
    assert read(frame) == [("row-1", {"text": "b"}), ("row-2", {"text": "a"})]


@pytest.mark.parametrize("missing", [None, float("nan"), np.float64("nan"), NAType(), np.datetime64("NaT")])
def test_what_is_missing_is_missing(missing: object) -> None:
    assert read([{"text": "x", "more": missing}]) == [("row-1", {"text": "x"})]
    with pytest.raises(DataError, match="'text' is empty"):
        read([{"text": missing}])


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ("rows.csv", r"a str\n  -> .*lorica infer input=FILE"),
        (Path("rows.csv"), "rows are expected"),
        ({"text": ["x", "y"]}, r"one dictionary is not a list of rows\n  -> for one row write \[row\]"),
        (5, "rows are expected, and this is a int"),
        (["x"], r"<memory>:1: a str where a dictionary is expected\n  -> give a list of dictionaries"),
        ([{"text": "x"}, ("y",)], "<memory>:2: a tuple where"),
        ([{"1": "x", 1: "y", "text": "z"}], "two keys of this record are written alike"),
        (Frame([{"text": "x"}], ["text", "text"]), "two columns are called 'text'"),
    ],
)
def test_what_holds_no_rows_is_refused(records: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(records)


def test_rows_of_pandas() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(
        {
            "id": pandas.array([1, 2], dtype="Int64"),
            "text": pandas.Categorical(["x", "y"]),
            "more": [pandas.NA, pandas.Timestamp("2024-01-02")],
        },
        index=[7, 8],
    )
    expected = [("1", {"text": "x"}), ("2", {"text": "y", "more": "2024-01-02 00:00:00"})]
    assert read(frame) == expected
    assert read([frame.iloc[0], frame.iloc[1]]) == expected
    assert read(frame.itertuples()) == expected


def test_rows_of_polars() -> None:
    polars = pytest.importorskip("polars")
    assert read(polars.DataFrame({"id": [1, 2], "text": ["x", "y"], "more": [None, [1]]})) == [
        ("1", {"text": "x"}),
        ("2", {"text": "y", "more": [1]}),
    ]


def test_tables_of_pyarrow() -> None:
    pyarrow = pytest.importorskip("pyarrow")
    table = pyarrow.table({"id": [1, 2], "text": ["x", "y"]})
    for records in (table, table.to_batches()[0], table.to_pylist()):
        assert read(records) == [("1", {"text": "x"}), ("2", {"text": "y"})]


def test_ids_in_the_index_of_a_frame_are_not_lost_without_a_word() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"id": [17], "body": ["a"]}).set_index("id")
    with pytest.raises(DataError, match="has 'id' as its index") as caught:
        plain_records(frame, Path("<memory>"))
    assert "df.reset_index()" in str(caught.value)
    assert plain_records(frame.reset_index(), Path("<memory>")) == [{"id": 17, "body": "a"}]
    assert plain_records(frame.reset_index(drop=True), Path("<memory>")) == [{"body": "a"}]


@pytest.mark.parametrize("ids", [[17, 18, 19], [30, 20, 10], ["u", "v", "w"], [5, 9, 2]])
def test_ids_that_pandas_stored_as_the_index_are_read_from_parquet(ids: list[Any], tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    arrow = pytest.importorskip("pyarrow")
    qa = load_task("qa")
    frame = pandas.DataFrame({"id": ids, "question": ["a", "b", "c"]}).set_index("id")
    frame.to_parquet(tmp_path / "p.parquet")
    rows = list(read_rows(tmp_path / "p.parquet", qa.schemas))
    assert [(row.id, qa.text(row)) for row in rows] == list(zip(map(str, ids), "abc", strict=True))
    table = arrow.Table.from_pandas(frame)
    if "id" in table.column_names:
        assert len(rows_from_memory(table, qa.schemas)) == 3
    else:
        with pytest.raises(DataError, match="has 'id' as its index"):
            rows_from_memory(table, qa.schemas)


def test_an_index_without_a_name_and_one_of_other_rows_are_no_columns(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    parquet = pytest.importorskip("pyarrow.parquet")
    frame = pandas.DataFrame({"body": ["a", "b", "c"]})
    frame.to_parquet(tmp_path / "p.parquet")
    assert open_table(tmp_path / "p.parquet").names == ("body",)
    frame.index.name = "id"
    frame.to_parquet(tmp_path / "p.parquet")
    parquet.write_table(parquet.read_table(tmp_path / "p.parquet").slice(1), tmp_path / "p.parquet")
    assert open_table(tmp_path / "p.parquet").names == ("body",)
