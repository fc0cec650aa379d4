"""The keys of how files of rows are read: `data.bad_rows`, `data.quoting`, ..."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Quoting = Literal["auto", "standard", "none", "backslash", "spaced"]
Delimiter = Literal["auto", "comma", "tab", "semicolon", "pipe"]
BadRows = Literal["error", "skip"]


@dataclass(frozen=True)
class ReadingConfig:
    """How files of rows are read, by every command that takes one. Entries of `data` with other names are training
    files (see `data` below), so no subject can be called like one of these keys."""

    bad_rows: BadRows = "error"
    """What happens to a row that cannot be used (an empty question, no accepted answer in training, an unreadable
    label, too many cells): `error` stops at the first; `skip` leaves such rows out, counts them, and lists them with
    line, id and reason in `OUTPUT.skipped.jsonl` (training: `RUN_DIR/TASK.skipped.jsonl`; eval:
    `ANSWERS.gold-skipped.jsonl`)."""

    quoting: Quoting = "auto"
    """How CSV and TSV files are quoted. `standard`: a `"` at the beginning of a cell opens a text that may hold
    delimiters, line breaks and doubled quotes; `none`: every `"` is text, as in many TSV files; `backslash`: a quote
    inside a quoted text is written `\\"`; `spaced`: spaces before an opening quote do not count. `auto`: `standard`, or
    for tabs `none` if only that gives a table; a file that can be read in two ways is refused."""

    delimiter: Delimiter = "auto"
    """What separates the cells of CSV and TSV files; `auto`: commas in `.csv`, tabs in `.tsv`."""

    sheet: str = ""
    """The sheet of a workbook (.xlsx) that holds the rows; empty for the only sheet that is not empty."""
