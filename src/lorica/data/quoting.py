"""Detecting how a CSV or TSV file is quoted: where two quotings both make a table, none of them is chosen.

Files separated by commas follow the standard's quotes unless something speaks against it. Files separated by tabs are
as often written without any: there, a quote that opens a cell is text or a mark, and only the whole file tells which.
"""

from __future__ import annotations

import csv
import re
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import msgspec

QUOTINGS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "standard": {"strict": True},
        "none": {"strict": True, "quoting": csv.QUOTE_NONE},
        "backslash": {"strict": True, "escapechar": "\\"},
        "spaced": {"strict": True, "skipinitialspace": True},
    }
)
SETTINGS: Mapping[str, str] = MappingProxyType(
    {
        "standard": 'data.quoting=standard (a " at the beginning of a cell opens a quoted text)',
        "none": 'data.quoting=none (every " is text)',
        "backslash": 'data.quoting=backslash (\\" is a quote inside a quoted text)',
        "spaced": "data.quoting=spaced (spaces before an opening quote do not count)",
    }
)
_TWO_WAYS = "the file can be read in two ways: "
_MOST_LINES = 2000  # of one cell, by which is judged whether they are rows
_CONTEXT = 30  # rows that others are compared with
_ENOUGH = 5  # rows without which nothing is known about the columns
_MOSTLY = 0.8
_NUMBER = re.compile(r"[+-]?\d+([.,]\d+)?")


class Ambiguity(msgspec.Struct, frozen=True):
    """Why a record may be read in two ways. line: where it starts. quotings: names in `QUOTINGS`, which it fits."""

    line: int
    message: str
    quotings: tuple[str, ...]

    @property
    def fix(self) -> str:
        """The settings that decide."""
        return "say which one is meant: " + " or ".join(SETTINGS[quoting_name] for quoting_name in self.quotings)


def parse_lines(record_lines: Sequence[str], quoting: str, delimiter: str) -> list[list[str]] | None:
    """The records of some lines that hold whole ones, read under one quoting; None where that fails."""
    try:
        return list(csv.reader(record_lines, delimiter=delimiter, **QUOTINGS[quoting]))
    except csv.Error:
        return None


def opens_quote(line_text: str, delimiter: str) -> bool:
    """Whether a cell of the line begins with a quote."""
    return line_text.startswith('"') or f'{delimiter}"' in line_text


def alternative_quotings(record_lines: Sequence[str], delimiter: str, column_count: int) -> list[str]:
    """The quotings beside the standard that make whole rows of lines which the standard cannot read."""
    record_lines = record_lines[:_MOST_LINES]
    fitting_quotings = []
    for quoting in ("none", "backslash", "spaced"):
        record_rows = parse_lines(record_lines, quoting, delimiter)
        if record_rows and all(len(row) == column_count for row in record_rows if row):
            fitting_quotings.append(quoting)
    # Without an escaped quote or a space before one, backslash and spaced read what the standard reads.
    needed_marks = {"none": "", "backslash": '\\"', "spaced": f'{delimiter} "'}
    return [quoting for quoting in fitting_quotings if needed_marks[quoting] in "".join(record_lines)]


class AmbiguityFinder:
    """Finds the records of a file that is read by the standard which could be meant otherwise.

    header: the lines of the header. column_names: its cells.
    """

    def __init__(self, delimiter: str, header: Sequence[str], column_names: Sequence[str]) -> None:
        self._delimiter = delimiter
        self._width = len(column_names)
        self._spaced = f'{delimiter} "'
        # Whoever quotes a whole header quotes every text: there a raw quote is an error of its own.
        quoted_header = delimiter.join('"' + column_name.replace('"', '""') + '"' for column_name in column_names)
        self._all_quoted = "".join(header).rstrip("\r\n") == quoted_header
        self._context: list[list[str]] = []
        self._waiting: list[tuple[int, list[str]]] = []

    @property
    def learns(self) -> bool:
        """Whether records without quotes are needed, too: to know what the columns hold."""
        return len(self._context) < _CONTEXT

    def check(self, line_number: int, record_lines: Sequence[str], row_cells: list[str]) -> Ambiguity | None:
        """What is doubtful about a record, the lines that hold it and its cells; or about one before it."""
        if self._all_quoted or len(row_cells) != self._width:
            return None
        record_text = record_lines[0] if len(record_lines) == 1 else "".join(record_lines)
        if '\\"' in record_text and opens_quote(record_lines[0], self._delimiter):
            record_rows = parse_lines(record_lines, "backslash", self._delimiter)
            if record_rows and all(len(row) == self._width for row in record_rows) and record_rows != [row_cells]:
                message = f'{_TWO_WAYS}a \\" may be an escaped quote, or two characters'
                return Ambiguity(line_number, message, ("backslash", "standard"))
        if len(record_lines) > 1:
            if self._width == 1 and self._delimiter != "\t":
                return None  # without a second column nothing tells rows from lines of a text
            if len(self._context) >= _ENOUGH:
                return self._swallowed(line_number, record_lines)
            self._waiting.append((line_number, list(record_lines[:_MOST_LINES])))
            return self.finish() if len(self._waiting) == _CONTEXT else None
        if self.learns:
            self._context.append(row_cells)
            if len(self._context) == _ENOUGH and (ambiguity := self.finish()):
                return ambiguity
        if self._spaced in record_text:
            for cell_text in row_cells:
                if cell_text.startswith(" ") and cell_text.strip(" ")[:1] == '"' == cell_text.strip(" ")[-1:]:
                    message = f"{_TWO_WAYS}the cell {cell_text[:40]!r} begins with a space and a quote"
                    return Ambiguity(line_number, message, ("spaced", "standard"))
        return None

    def finish(self) -> Ambiguity | None:
        """The first ambiguity about records that were met before enough was known about the columns."""
        waiting, self._waiting = self._waiting, []
        return next(filter(None, (self._swallowed(line, lines) for line, lines in waiting)), None)

    def _swallowed(self, line_number: int, record_lines: Sequence[str]) -> Ambiguity | None:
        """A cell whose lines are themselves rows: a quote opened by chance, and closed by another one."""
        line_rows = [text.rstrip("\r\n").split(self._delimiter) for text in record_lines[:_MOST_LINES] if text.strip()]
        row_like = self._row_likeness(line_rows)
        inner_rows = row_like[1:-1]
        if sum(inner_rows) < _MOSTLY * len(inner_rows):
            return None
        all_rows = (row_like[0] and row_like[-1]) or (len(inner_rows) > 2 and len(self._context) >= _ENOUGH)
        return _merged(line_number, len(record_lines)) if all_rows else None

    def _row_likeness(self, rows: list[list[str]]) -> list[bool]:
        """Whether each line is as wide as the header and, between commas, its cells are such as the columns hold."""
        full_width = [len(row) == self._width for row in rows]
        if self._delimiter == "\t":  # texts hold no tabs
            return full_width
        samples = self._context or [row for row, fits_width in zip(rows, full_width, strict=True) if fits_width]
        columns = [[row[column_index] for row in samples] for column_index in range(self._width)]
        spaced = [sum(cell_text.startswith(" ") for cell_text in column) > len(column) / 2 for column in columns]
        number_shares = [_share_of_numbers(column) for column in columns]
        if not self._context and any(1 - _MOSTLY < number_share < _MOSTLY for number_share in number_shares):
            return [False] * len(rows)
        return [width and self._alike(row, spaced, number_shares) for row, width in zip(rows, full_width, strict=True)]

    def _alike(self, row: list[str], spaced: list[bool], number_shares: list[float]) -> bool:
        for cell_text, is_spaced, number_share in zip(row, spaced, number_shares, strict=True):
            if cell_text.startswith(" ") and not is_spaced:
                return False  # a comma of a sentence is followed by a space
            if cell_text and number_share >= _MOSTLY and not _NUMBER.fullmatch(cell_text):
                return False
            if cell_text and number_share <= 1 - _MOSTLY and _NUMBER.fullmatch(cell_text):
                return False
        return True


def _merged(line_number: int, count: int) -> Ambiguity:
    last_line = line_number + count - 1
    message = f"{_TWO_WAYS}a quote opened here holds {count} lines, to line {last_line}, that are rows by themselves"
    return Ambiguity(line_number, message, ("none", "standard"))


def _share_of_numbers(column: Sequence[str]) -> float:
    filled = [cell for cell in column if cell]
    return sum(bool(_NUMBER.fullmatch(cell)) for cell in filled) / len(filled) if filled else 0.5


class QuotingChoice(msgspec.Struct, frozen=True):
    """How a whole file is quoted, or why that cannot be told. note: what a person should know of it."""

    quoting: str = "standard"
    note: str = ""
    ambiguity: Ambiguity | None = None


class _LineCounter:
    """Hands lines on to a reader, and counts those that are no whole rows without quotes."""

    def __init__(self, source_lines: Iterator[str], delimiter: str) -> None:
        self._lines = source_lines
        self._delimiter = delimiter
        self.number = 0
        self.width = 0
        self.ragged = 0
        self.first_ragged = (0, 0)
        self.first_quoted = 0
        self.marked = False  # quoted texts hold what only a quoting writer writes

    def __iter__(self) -> Iterator[str]:
        for line_text in self._lines:
            self.number += 1
            if line_text.strip("\r\n"):
                cell_count = line_text.count(self._delimiter) + 1
                self.width = self.width or cell_count
                if cell_count != self.width:
                    self.ragged += 1
                    self.first_ragged = self.first_ragged if self.ragged > 1 else (self.number, cell_count)
                if '"' in line_text and opens_quote(line_text, self._delimiter):
                    self.first_quoted = self.first_quoted or self.number
                    self.marked = self.marked or self.number == 1 or _doubled(line_text, self._delimiter)
            yield line_text


def _doubled(line_text: str, delimiter: str) -> bool:
    """Whether a quoted cell of the line holds a doubled quote, and none that is not."""
    quoted_cells = [
        cell for cell in line_text.rstrip("\r\n").split(delimiter) if cell[:1] == '"' == cell[-1:] and len(cell) > 2
    ]
    return any('""' in cell[1:-1] and '"' not in cell[1:-1].replace('""', "") for cell in quoted_cells)


def choose_quoting(source_lines: Iterator[str], delimiter: str) -> QuotingChoice:
    """Which of the standard's quotes and none makes a table of a whole file. Reads it once, in both ways."""
    unquoted = _LineCounter(source_lines, delimiter)
    quoted = _parse_standard(unquoted, delimiter)
    if quoted.broken or quoted.ragged > unquoted.ragged:
        problem = quoted.broken or quoted.first_ragged
        if not unquoted.ragged:
            return QuotingChoice("none", f'read without quoting (every " is text), since with quotes {problem}')
        number, cells = unquoted.first_ragged
        message = f"with quotes {problem}; without them line {number} has {cells} cells, the header {unquoted.width}"
        return QuotingChoice(ambiguity=Ambiguity(quoted.line, message, ("none", "standard")))
    if quoted.ragged < unquoted.ragged:
        return QuotingChoice("standard")
    if quoted.merged:
        return QuotingChoice(ambiguity=_merged(*quoted.merged))
    if unquoted.marked:
        return QuotingChoice("standard")
    message = f"{_TWO_WAYS}a cell stands in quotes that need not be there, and may be part of the text"
    return QuotingChoice(ambiguity=Ambiguity(unquoted.first_quoted, message, ("none", "standard")))


class _StandardParse(msgspec.Struct):
    """A file read with quotes: how many rows are not as wide as the header, and what stands in the way."""

    ragged: int = 0
    first_ragged: str = ""
    merged: tuple[int, int] | None = None  # the first row that is several lines: where it starts, and how many
    broken: str = ""
    line: int = 0  # of what stands in the way


def _parse_standard(source: _LineCounter, delimiter: str) -> _StandardParse:
    result = _StandardParse()
    reader = csv.reader(source, delimiter=delimiter, **QUOTINGS["standard"])
    column_count, start_line = 0, 1
    try:
        for row in reader:
            column_count = column_count or len(row)
            if row and len(row) != column_count:
                result.ragged += 1
                if result.ragged == 1:
                    result.first_ragged = f"line {start_line} has {len(row)} cells, the header {column_count}"
                    result.line = start_line
            if source.number > start_line and result.merged is None:
                result.merged = (start_line, source.number - start_line + 1)
            start_line = source.number + 1
    except csv.Error as error:
        result.broken, result.line = f"line {start_line} cannot be read ({error})", start_line
    deque(source, maxlen=0)  # to its end, where reading stopped before
    return result
