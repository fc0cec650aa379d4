"""Tables for a terminal, in plain text."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection

from lorica.reports.page import ReportTable, cell_text, right_aligned
from lorica.reports.short_names import short_names


def plain_table(table: ReportTable, *, max_cell: int = 60, names: Collection[str] = ()) -> str:
    """The table with aligned columns, without a final line break.

    max_cell: columns of the terminal a cell may take; longer ones end in "…". names: headings of columns of names,
    which are cut so that different names stay different.
    """
    is_number = right_aligned(table)
    lines = [[_shorten(heading, max_cell) for heading in table.columns]]
    cells = [[_one_line(cell_text(cell)) for cell in row] for row in table.rows]
    short = [
        short_names((row[column] for row in cells), max_cell, display_width) if heading in names else {}
        for column, heading in enumerate(table.columns)
    ]
    lines += [
        [shorter.get(cell) or _shorten(cell, max_cell) for cell, shorter in zip(row, short, strict=True)]
        for row in cells
    ]
    widths = [max(display_width(line[column]) for line in lines) for column in range(len(table.columns))]
    drawn = [
        "  ".join(_pad(cell, width, end) for cell, width, end in zip(line, widths, is_number, strict=True)).rstrip()
        for line in lines
    ]
    drawn.insert(1, "  ".join("─" * width for width in widths))
    if table.caption:
        drawn.insert(0, cell_text(table.caption))
    return "\n".join(drawn)


def display_width(text: str) -> int:
    """Columns of a terminal that a text takes: wide characters two, combining ones none."""
    return sum(
        0 if unicodedata.combining(character) else 2 if unicodedata.east_asian_width(character) in "WF" else 1
        for character in text
    )


def _pad(text: str, width: int, align_right: bool) -> str:
    space = " " * (width - display_width(text))
    return space + text if align_right else text + space


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _shorten(text: str, limit: int) -> str:
    line = _one_line(cell_text(text))
    if display_width(line) <= limit:
        return line
    shortened = ""
    for character in line:
        if display_width(shortened + character) > limit - 1:
            break
        shortened += character
    return shortened.rstrip() + "…"
