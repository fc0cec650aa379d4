"""Tables for a terminal, in plain text."""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Collection, Sequence

from lorica.reports.page import ReportTable, cell_text, right_aligned
from lorica.reports.short_names import short_names
from lorica.streams import terminal_columns


def plain_table(
    table: ReportTable, *, max_cell: int = 60, names: Collection[str] = (), width: int | None = None
) -> str:
    """The table with aligned columns, without a final line break.

    max_cell: columns of the terminal a cell may take; longer ones end in "…". names: headings of columns of names,
    which are cut so that different names stay different. width: columns of the terminal, None for those of standard
    output, which has any number where it is no terminal: a table that is wider is continued below, beside its first
    column of texts and those before it.
    """
    terminal_width = terminal_columns(sys.stdout) if width is None else width
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
    drawn_blocks = []
    naming = is_number.index(False) + 1 if False in is_number else min(1, len(is_number))
    for columns in _blocks(column_widths, naming, terminal_width):
        drawn_lines = [
            "  ".join(_pad(line[column], column_widths[column], is_number[column]) for column in columns).rstrip()
            for line in table_lines
        ]
        drawn_lines.insert(1, "  ".join("─" * column_widths[column] for column in columns))
        drawn_blocks.append("\n".join(drawn_lines))
    if table.heading:
        drawn_blocks[0] = f"{cell_text(table.heading)}\n{drawn_blocks[0]}"
    return "\n\n".join(drawn_blocks)


def _blocks(column_widths: Sequence[int], naming: int, terminal_width: int | None) -> list[list[int]]:
    """The columns of a table in blocks that fit a terminal one below the other, each beginning with the first `naming`
    columns, which say what a line is of."""
    blocks = [list(range(naming))]
    for column in range(naming, len(column_widths)):
        line_width = sum(column_widths[index] + 2 for index in blocks[-1]) + column_widths[column]
        if terminal_width is not None and line_width > terminal_width and len(blocks[-1]) > naming:
            blocks.append(list(range(naming)))
        blocks[-1].append(column)
    return blocks


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
