"""Table shapes to read with: the tasks' own are tested beside the tasks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from lorica.records import Row, RowSchema


class Case(msgspec.Struct, frozen=True):
    """The values exactly as the reader handed them over."""

    values: dict[str, Any]


def _post(values: Mapping[str, Any], row_id: str, line: int) -> Row:
    label = values.get("label")
    if label not in (None, "0", "1", 0, 1):
        raise ValueError(f"label must be 0 or 1, got {label!r}")
    return Row(id=row_id, case=Case(dict(values)), gold=None if label is None else int(label), line=line)


def _pair(values: Mapping[str, Any], row_id: str, line: int) -> Row:
    return Row(id=row_id, case=Case(dict(values)), line=line)


@pytest.fixture(scope="session")
def shapes() -> tuple[RowSchema, ...]:
    """`post`: id, body, rule[, label, note]; `pair`: question, answer, rows numbered."""
    return (
        RowSchema("post", ("id", "body", "rule"), ("label", "note"), "id", _post),
        RowSchema("pair", ("question", "answer"), (), "", _pair),
    )
