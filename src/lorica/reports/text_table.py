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
    table_lines = [[_shorten(heading, max_cell) for heading in table.columns]]
    cell_texts = [[_one_line(cell_text(cell)) for cell in row] for row in table.rows]
    shortened = [
        short_names((row[column] for row in cell_texts), max_cell, display_width) if heading in names else {}
        for column, heading in enumerate(table.columns)
    ]
    table_lines += [
        [shorter.get(cell) or _shorten(cell, max_cell) for cell, shorter in zip(row, shortened, strict=True)]
        for row in cell_texts
    ]
    column_widths = [max(display_width(line[column]) for line in table_lines) for column in range(len(table.columns))]
    drawn_lines = [
        "  ".join(
            _pad(cell, width, align_right)
            for cell, width, align_right in zip(line, column_widths, is_number, strict=True)
        ).rstrip()
        for line in table_lines
    ]
    drawn_lines.insert(1, "  ".join("─" * width for width in column_widths))
    if table.heading:
        drawn_lines.insert(0, cell_text(table.heading))
    return "\n".join(drawn_lines)


def display_width(plain_text: str) -> int:
    """Columns of a terminal that a text takes: wide characters two, combining ones none."""
    return sum(
        0 if unicodedata.combining(character) else 2 if unicodedata.east_asian_width(character) in "WF" else 1
        for character in plain_text
    )


def _pad(plain_text: str, column_width: int, align_right: bool) -> str:
    padding = " " * (column_width - display_width(plain_text))
    return padding + plain_text if align_right else plain_text + padding


def _one_line(plain_text: str) -> str:
    return " ".join(plain_text.split())


def _shorten(plain_text: str, max_width: int) -> str:
    one_line = _one_line(cell_text(plain_text))
    if display_width(one_line) <= max_width:
        return one_line
    shortened = ""
    for character in one_line:
        if display_width(shortened + character) > max_width - 1:
            break
        shortened += character
    return shortened.rstrip() + "…"
