"""An `Answer` as a line of JSON, a row of CSV cells, or a row of a Parquet table, and back without loss."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Mapping
from typing import Any

import msgspec

from lorica.data.json_table import unique_keys
from lorica.records import Answer

ANSWER_COLUMNS: tuple[str, ...] = Answer.__struct_fields__
"""The columns of a result file, in this order, in CSV and Parquet; a JSON line leaves out what has its default."""

CALIBRATION_COLUMNS = ("calibration", "raw_score", "raw_scores")
"""Those that a file has only where probabilities were calibrated."""

PASSAGE_COLUMNS = ("passages", "dropped_passages")
"""Those that a file has only where passages were looked up."""

_TEXTS = ("id", "answer", "adapter", "route", "stage", "raw", "problem", "calibration")
_NUMBERS = ("score", "choice_mass", "raw_score")
_MAPPINGS = ("scores", "raw_scores")
# What a spreadsheet would run, and what could do harm then: a call, or a link to a program (DDE). "-1/2", "=3" and
# "-sin(x)" are answers. https://owasp.org/www-community/attacks/CSV_Injection
_FORMULA = re.compile(
    r"\s*(?:[=@].*(?:\w\(|\|.*!|://)|[+-].*(?:\|.*!|\b(?:HYPERLINK|WEBSERVICE|IMPORT\w+|IMAGE|DDE|RTD|CALL|EXEC)\())",
    re.IGNORECASE | re.DOTALL,
)

# 90% and 0,9.
_MISWRITTEN = re.compile(r"[-+]?\d*[.,]?\d+\s*%|[-+]?\d+,\d+")

_WHOLE_AS_FLOAT = re.compile(r"(?<=[0-9])\.0+\Z")

# Whatever was guarded in any version: nothing, a text in quotes, a line end or NUL, and all that looks like a formula.
_MAY_BE_GUARDED = re.compile(r"\Z|\"|\s*[-+=@\t]|[^\0\r]*[\0\r]")


def check_answer(answer: Answer) -> None:
    """Raise ValueError for an answer that no format could carry: a score that is not finite, a flag that is no word."""
    numbers = [number for column_name in _NUMBERS if (number := getattr(answer, column_name)) is not None]
    for column_name in _MAPPINGS:
        numbers += (getattr(answer, column_name) or {}).values()
    numbers += [passage.score for passage in answer.passages or ()]
    if not all(map(math.isfinite, numbers)):
        raise ValueError("a score is not a finite number")
    for flag in answer.flags:
        if not flag or any(char.isspace() for char in flag):
            raise ValueError(f"the flag {flag!r} is not one word")


def encode_answer(answer: Answer) -> bytes:
    """One JSON line with its line end. Raises ValueError."""
    check_answer(answer)
    return msgspec.json.encode(answer) + b"\n"


def written_columns(optional_columns: Collection[str]) -> tuple[str, ...]:
    """The columns of a CSV or Parquet file of answers. optional_columns: of those that few files have, the ones of this
    file."""
    absent_columns = {*CALIBRATION_COLUMNS, *PASSAGE_COLUMNS}.difference(optional_columns)
    return tuple(column for column in ANSWER_COLUMNS if column not in absent_columns)


def to_cells(answer: Answer, *, guard: bool = True) -> list[str]:
    """CSV cells in the order of `ANSWER_COLUMNS`. Raises ValueError. See docs/rows.md for the guarded spelling. guard:
    whether what a spreadsheet would run is spelled so."""
    check_answer(answer)
    passages = "" if answer.passages is None else msgspec.json.encode(answer.passages).decode()
    return [
        _guarded(answer.id, formulas=False),
        _guarded(answer.answer, formulas=guard),
        _number_cell(answer.score),
        _mapping_cell(answer.scores),
        _guarded(answer.adapter or None, formulas=guard),
        _guarded(answer.route or None, formulas=guard),
        _guarded(answer.stage or None, formulas=guard),
        str(answer.retries),
        str(answer.dropped_tokens),
        " ".join(answer.flags),
        _guarded(answer.raw, formulas=guard),
        _guarded(answer.problem, formulas=guard),
        _number_cell(answer.choice_mass),
        _guarded(answer.calibration or None, formulas=guard),
        _number_cell(answer.raw_score),
        _mapping_cell(answer.raw_scores),
        passages,
        str(answer.dropped_passages),
    ]


def _number_cell(number: float | None) -> str:
    return "" if number is None else repr(number)


def _mapping_cell(mapping: Mapping[str, float] | None) -> str:
    return "" if mapping is None else json.dumps(mapping, ensure_ascii=False)


def from_cells(cells_by_column: Mapping[str, str]) -> dict[str, Any]:
    """The values of CSV cells by column, ready for `to_answer`. Raises ValueError for a cell that cannot be read."""
    values: dict[str, Any] = {}
    for column_name, cell_text in cells_by_column.items():
        if column_name in _TEXTS:
            unguarded_text = _unguarded(cell_text)
            if unguarded_text is not None:
                values[column_name] = unguarded_text
        elif cell_text == "":
            continue
        elif column_name in _NUMBERS:
            values[column_name] = _number(float, column_name, cell_text)
        elif column_name in ("retries", "dropped_tokens", "dropped_passages"):
            values[column_name] = _number(int, column_name, cell_text)
        elif column_name in (*_MAPPINGS, "passages"):
            values[column_name] = json.loads(cell_text, object_pairs_hook=unique_keys)
        else:
            values[column_name] = cell_text.split(" ")
    return values


def to_values(answer: Answer) -> dict[str, Any]:
    """The columns of a Parquet row, the optional ones included. Raises ValueError."""
    check_answer(answer)
    column_values = {column_name: getattr(answer, column_name) for column_name in ANSWER_COLUMNS}
    for column_name in _MAPPINGS:
        mapping = getattr(answer, column_name)
        column_values[column_name] = None if mapping is None else list(mapping.items())
    column_values["flags"] = list(answer.flags)
    column_values["passages"] = None if answer.passages is None else list(map(msgspec.structs.asdict, answer.passages))
    return column_values


def from_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a Parquet row, ready for `to_answer`: columns that hold null, or NaN as pandas has it, stand at
    their default."""
    present = from_record({name: value for name, value in values.items() if value is not None and value == value})
    for name in _MAPPINGS:
        if isinstance(present.get(name), list):
            present[name] = dict(present[name])
    return present


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
    check_answer(answer)
    return answer


def _guarded(text: str | None, *, formulas: bool) -> str:
    """None is an empty cell. A text that a cell cannot hold as it is, is written as JSON, so it begins with a quote.

    These are: the empty text, one with a NUL or a carriage return (which CSV readers take for a line end), one that
    would be read back as the JSON of such a text, and (`formulas`) one that a spreadsheet would run to some harm.
    """
    if text is None:
        return ""
    if not text or "\0" in text or "\r" in text or _unguarded(text) != text or (formulas and _FORMULA.match(text)):
        return json.dumps(text, ensure_ascii=False)
    return text


def _unguarded(cell_text: str) -> str | None:
    """What `_guarded` wrote, now or in earlier versions, or a cell of any other table as it is: "Hamlet" in quotes is
    a text in quotes."""
    json_text = _json_text(cell_text)
    return json_text if json_text is not None and _MAY_BE_GUARDED.match(json_text) else cell_text or None


def _json_text(cell_text: str) -> str | None:
    """The text that a cell holds as JSON, None for any other cell."""
    if not cell_text.startswith('"'):
        return None
    try:
        decoded_text = json.loads(cell_text)
    except ValueError:
        return None
    return decoded_text if isinstance(decoded_text, str) else None


def _number(number_type: type[int] | type[float], column_name: str, cell_text: str) -> float:
    try:
        if "_" in cell_text:  # Python's own way to write 1_000; in a table it is a slip
            raise ValueError(cell_text)
        # pandas writes a column of whole numbers with gaps as 1.0.
        return number_type(_WHOLE_AS_FLOAT.sub("", cell_text) if number_type is int else cell_text)
    except ValueError as error:
        hint = _MISWRITTEN.fullmatch(cell_text.strip())
        how = "" if hint is None else "; write a percentage as its hundredth part, and decimals with a point"
        raise ValueError(f"the column {column_name!r} holds {cell_text[:40]!r}, which is no number{how}") from error
