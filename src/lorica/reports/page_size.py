"""A page within a number of bytes, whatever it is of: long cells are cut first, then fewer rows listed."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from lorica.reports.page import Cell, Report, ReportTable, Section
from lorica.reports.short_names import short_names

MAX_PAGE = 1_450_000
"""Bytes of a page that mail and a telephone still take."""

# (characters of a cell, rows of a table): what is tried in turn until the page fits.
_LIMITS = (
    (2000, 4000),
    (600, 2000),
    (300, 2000),
    (160, 2000),
    (160, 1000),
    (160, 500),
    (80, 500),
    (80, 250),
    (40, 125),
    (40, 60),
    (40, 20),
    (20, 5),
)


def fit(report: Report, render: Callable[[Report], str]) -> str:
    """The page by `render`, within `report.max_bytes` of UTF-8. What was cut ends in "…", what is listed of more rows
    says so in its table's caption, and the footer says why."""
    fitting = [limits for limits in _LIMITS if _least_bytes(report, *limits) <= report.max_bytes] or [_LIMITS[-1]]
    for max_characters, max_rows in fitting:
        shortened = msgspec.structs.replace(
            report, sections=tuple(_shorten_section(section, max_characters, max_rows) for section in report.sections)
        )
        if shortened.sections != report.sections:
            reason = (
                f"So that the page stays small, it shows {max_characters:,} characters of a text (… where more follow) "
                f"and {max_rows:,} rows of a table."
            )
            shortened = msgspec.structs.replace(shortened, footer=f"{report.footer} {reason}".strip())
        page = render(shortened)
        if len(page.encode("utf-8")) <= report.max_bytes:
            break
    return page


def _least_bytes(report: Report, max_characters: int, max_rows: int) -> int:
    """Bytes that the cells take at least, which is quickly counted."""
    tables = [table for section in report.sections for table in section.tables]
    rows = (row for table in tables for row in table.rows[:max_rows])
    cell_tags = len("<td></td>")
    return sum(
        cell_tags + (min(len(cell), max_characters) if isinstance(cell, str) else 1) for row in rows for cell in row
    )


def shorten(text: str, max_characters: int) -> str:
    """The text, ending in "…" where it is cut."""
    return text if len(text) <= max_characters else text[: max_characters - 1] + "…"


def _shorten_section(section: Section, max_characters: int, max_rows: int) -> Section:
    return msgspec.structs.replace(
        section, tables=tuple(_shorten_table(table, max_characters, max_rows) for table in section.tables)
    )


def _shorten_table(table: ReportTable, max_characters: int, max_rows: int) -> ReportTable:
    shown = short_names(table.columns, max_characters)

    def short(headings: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(shown[heading] for heading in headings if heading in shown)

    return msgspec.structs.replace(
        table,
        columns=short(table.columns),
        rows=tuple(tuple(_shorten_cell(cell, max_characters) for cell in row) for row in table.rows[:max_rows]),
        caption=shorten(table.caption, max_characters),
        sections=table.sections[:max_rows],
        choose=short(table.choose),
        narrow=short(table.narrow),
        detail=short(table.detail),
        marks=table.marks[:max_rows],
        total=max(table.total, len(table.rows)) if len(table.rows) > max_rows else table.total,
    )


def _shorten_cell(cell: Cell, max_characters: int) -> Cell:
    return shorten(cell, max_characters) if isinstance(cell, str) else cell
