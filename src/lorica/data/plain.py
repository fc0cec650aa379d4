"""Rows from memory: values and tables of numpy, pandas, polars, pyarrow and datasets as plain Python.

None of these libraries is imported: a value is known by the methods that all versions of them have.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from numbers import Integral, Real
from pathlib import Path
from typing import Any
from uuid import UUID

from lorica.data.column_names import looks_like_id
from lorica.data.pandas_index import range_indexes
from lorica.errors import DataError
from lorica.names import first_repeated

_PLAIN = (str, int, float, bool, type(None), list, dict)
_MISSING = ("NAType", "NaTType")  # pandas.NA, pandas.NaT
_NOT_ROWS = "give a list of dictionaries, a data frame, or anything that yields dictionaries"


def to_plain_value(value: Any) -> Any:
    """A cell as a file of JSON would hold it: None, bool, int, float, str, list or dict.

    Scalars of numpy and pyarrow become Python's, arrays and series lists, what pandas calls missing None, moments and
    UUIDs their text. Anything else stays as it is, for the task to refuse.
    """
    value_type = type(value)
    if value_type is list or value_type is tuple:
        return [to_plain_value(element) for element in value]
    if value_type in _PLAIN and value_type is not dict:
        return value
    if isinstance(value, Mapping):
        return {_key(key): to_plain_value(element) for key, element in value.items()}
    if value_type.__name__ in _MISSING:
        return None
    for method in ("as_py", "tolist", "to_list", "to_pylist"):  # pyarrow scalars; numpy, pandas; polars; pyarrow arrays
        if callable(convert := getattr(value, method, None)):
            return to_plain_value(convert())
    if isinstance(value, (datetime, date, time, timedelta, UUID)):
        return str(value)
    return _plain_scalar(value)


def plain_records(records: Any, source_path: Path) -> list[dict[str, Any]]:
    """The rows of a data frame, a table, or whatever yields mappings, as dictionaries of plain values.

    Raises DataError naming the record (from 1) that is none, and a table whose columns share a name.
    """
    return [_record(record, source_path, number) for number, record in enumerate(_records(records, source_path), 1)]


def _records(records: Any, source_path: Path) -> Iterator[Any]:
    if isinstance(records, (str, bytes, Path)):
        raise DataError(
            f"rows are expected, and this is a {type(records).__name__}",
            path=source_path,
            fix=f"{_NOT_ROWS}; a file is answered by `lorica infer input=FILE output=FILE`",
        )
    if isinstance(records, Mapping):
        raise DataError(
            "one dictionary is not a list of rows",
            path=source_path,
            fix="for one row write [row]; for columns, a data frame",
        )
    columns = getattr(records, "columns", None)  # of a frame; a method or absent elsewhere
    if columns is not None and not callable(columns):
        names = [_key(name) for name in getattr(records, "column_names", columns)]
        if repeated_name := first_repeated(names):
            raise DataError(f"two columns are called {repeated_name!r}", path=source_path, fix="rename or remove one")
        index_names = [_key(name) for name in getattr(getattr(records, "index", None), "names", ()) if name is not None]
        index_names += range_indexes(getattr(getattr(records, "schema", None), "metadata", None))
        if unread_index := next((name for name in index_names if looks_like_id(name) and name not in names), ""):
            raise DataError(
                f"the frame has {unread_index!r} as its index, which is not read",
                path=source_path,
                fix="make it a column: df.reset_index(); or give it up: df.reset_index(drop=True)",
            )
        for method, arguments in (("to_dicts", ()), ("to_pylist", ()), ("to_dict", ("records",))):
            if callable(convert := getattr(records, method, None)):
                return iter(convert(*arguments))
    if not isinstance(records, Iterable):
        raise DataError(f"rows are expected, and this is a {type(records).__name__}", path=source_path, fix=_NOT_ROWS)
    return iter(records)


def _record(record: Any, source_path: Path, number: int) -> dict[str, Any]:
    """A mapping, or what can be made one: a row of a frame as a series or a named tuple."""
    type_name = type(record).__name__
    for method in ("to_dict", "_asdict"):
        if not isinstance(record, Mapping) and callable(convert := getattr(record, method, None)):
            record = convert()
    if not isinstance(record, Mapping) and callable(getattr(record, "keys", None)):
        record = dict(record)  # a row of a database
    if not isinstance(record, Mapping):
        raise DataError(f"a {type_name} where a dictionary is expected", path=source_path, line=number, fix=_NOT_ROWS)
    plain_record = {_key(key): to_plain_value(value) for key, value in record.items()}
    if len(plain_record) != len(record):
        raise DataError("two keys of this record are written alike", path=source_path, line=number, fix="rename one")
    return plain_record


def _key(key: Any) -> str:
    return str(to_plain_value(key))


def _plain_scalar(value: Any) -> Any:
    if isinstance(value, str):
        return str(value)
    if isinstance(value, Decimal) and value.is_finite():
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, Integral):
        return int(value)
    return float(value) if isinstance(value, (Real, Decimal)) else value
