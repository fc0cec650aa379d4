"""An `Answer` as a line of JSON, a row of CSV cells, or a row of a Parquet table, and back without loss."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from lorica.records import Answer

ANSWER_COLUMNS: tuple[str, ...] = Answer.__struct_fields__
"""The columns of a result file, in this order, in CSV and Parquet; a JSON line leaves out what has its
default."""

_TEXTS = ("id", "answer", "adapter", "route", "stage", "raw", "problem")
_NUMBER = re.compile(r"[+-]?\d+([.,]\d+)*")


def check(answer: Answer) -> None:
    """Raise ValueError for an answer that no format could carry: a score that is not finite, a flag that is
    no word."""
    numbers = [each for each in (answer.score, answer.choice_mass) if each is not None]
    numbers += (answer.scores or {}).values()
    if not all(map(math.isfinite, numbers)):
        raise ValueError("a score is not a finite number")
    for flag in answer.flags:
        if not flag or any(c.isspace() for c in flag):
            raise ValueError(f"the flag {flag!r} is not one word")


def to_line(answer: Answer) -> bytes:
    """One JSON line with its line end. Raises ValueError."""
    check(answer)
    return msgspec.json.encode(answer) + b"\n"


def to_cells(answer: Answer) -> list[str]:
    """CSV cells in the order of ANSWER_COLUMNS. Raises ValueError. See docs/rows.md for the guarded
    spelling."""
    check(answer)
    return [
        _guarded(answer.id, formulas=False),
        _guarded(answer.answer, formulas=True),
        "" if answer.score is None else repr(answer.score),
        "" if answer.scores is None else json.dumps(answer.scores, ensure_ascii=False),
        _guarded(answer.adapter or None, formulas=True),
        _guarded(answer.route or None, formulas=True),
        _guarded(answer.stage or None, formulas=True),
        str(answer.retries),
        str(answer.dropped_tokens),
        " ".join(answer.flags),
        _guarded(answer.raw, formulas=True),
        _guarded(answer.problem, formulas=True),
        "" if answer.choice_mass is None else repr(answer.choice_mass),
    ]


def from_cells(cells: Mapping[str, str]) -> dict[str, Any]:
    """The values of CSV cells by column, ready for `to_answer`. Raises ValueError for a cell that cannot be
    read."""
    values: dict[str, Any] = {}
    for name, cell in cells.items():
        if name in _TEXTS:
            text = _unguarded(cell)
            if text is not None:
                values[name] = text
        elif cell == "":
            continue
        elif name in ("score", "choice_mass"):
            values[name] = _number(float, name, cell)
        elif name in ("retries", "dropped_tokens"):
            values[name] = _number(int, name, cell)
        elif name == "scores":
            values[name] = json.loads(cell)
        else:
            values[name] = cell.split(" ")
    return values


def to_values(answer: Answer) -> dict[str, Any]:
    """The columns of a Parquet row. Raises ValueError."""
    check(answer)
    values = {name: getattr(answer, name) for name in ANSWER_COLUMNS}
    values["scores"] = None if answer.scores is None else list(answer.scores.items())
    values["flags"] = list(answer.flags)
    return values


def from_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a Parquet row, ready for `to_answer`: columns that hold null, or NaN as pandas has it, stand at
    their default."""
    kept = from_record({name: value for name, value in values.items() if value is not None and value == value})
    if isinstance(kept.get("scores"), list):
        kept["scores"] = dict(kept["scores"])
    return kept


def from_record(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a JSON object, ready for `to_answer`: an answer that is a number or true/false becomes its text."""
    answer = values.get("answer")
    if isinstance(answer, bool):
        return {**values, "answer": str(answer).lower()}
    return {**values, "answer": str(answer)} if isinstance(answer, (int, float)) else dict(values)


def to_answer(values: Mapping[str, Any]) -> Answer:
    """A checked `Answer`. Raises ValueError naming the column that does not fit."""
    try:
        answer = msgspec.convert(dict(values), Answer)
    except msgspec.ValidationError as error:
        raise ValueError(str(error).replace(" - at `$.", " in column `")) from error
    check(answer)
    return answer


def _guarded(text: str | None, *, formulas: bool) -> str:
    """None is an empty cell. A text that a cell cannot hold as it is, is written as JSON, so it begins with a
    quote.

    These are: the empty text, a text that itself begins with a quote, one with a NUL or a carriage return
    (which CSV readers take for a line end), and (`formulas`) one that a spreadsheet would run: = + - @ or tab
    first, and not a plain number.
    """
    if text is None:
        return ""
    runs = formulas and text[:1] in ("=", "+", "-", "@", "\t") and not _NUMBER.fullmatch(text)
    if runs or not text or text[0] == '"' or "\0" in text or "\r" in text:
        return json.dumps(text, ensure_ascii=False)
    return text


def _unguarded(cell: str) -> str | None:
    if not cell:
        return None
    if not cell.startswith('"'):
        return cell
    try:
        value = json.loads(cell)
    except ValueError as error:
        raise ValueError(f"a cell that begins with a quote must be a JSON text, got {cell[:40]!r}") from error
    return str(value)


def _number(kind: type[int] | type[float], name: str, cell: str) -> float:
    try:
        return kind(cell)
    except ValueError as error:
        raise ValueError(f"the column {name!r} holds {cell[:40]!r}, which is no number") from error
