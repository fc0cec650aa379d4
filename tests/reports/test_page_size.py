"""A page stays within its bytes whatever it is of, and says what it does not show."""

from __future__ import annotations

import pytest
from tests.reports.test_reports import EVIL, parsed

from lorica.reports.html import to_html
from lorica.reports.page import Cell, Report, ReportTable, Section
from lorica.reports.page_size import MAX_PAGE, shorten

WORST = {
    "long texts": ("x" * 100_000, 2000, 6),
    "many rows": ("text", 100_000, 6),
    "many columns": ("0.843 [0.812, 0.871]", 500, 120),
    "markup": ("\"'&<>" * 200, 1000, 6),
    "wide characters": ("東京🙂" * 300, 1000, 6),
    "hostile": (EVIL * 100, 1000, 6),
}


@pytest.mark.parametrize("name", WORST)
def test_a_page_of_anything_stays_small(name: str) -> None:
    text, row_count, column_count = WORST[name]
    columns = tuple(f"{text[:300]} {number}" for number in range(column_count))
    rows: tuple[tuple[Cell, ...], ...] = tuple((number, *(text,) * (column_count - 1)) for number in range(row_count))
    table = ReportTable(columns, rows, interactive=True, choose=columns[:2], detail=columns[-2:])
    page = to_html(Report("Any", "", (Section("Rows", tables=(table, table)),), "End.", max_bytes=MAX_PAGE))
    assert len(page.encode()) <= MAX_PAGE
    tags = parsed(page).seen
    assert "So that the page stays small" in page
    listed = sum(tag == "tr" for tag, _ in tags) // 2 - 1
    assert listed == row_count or f"{listed:,} of {row_count:,} rows listed" in page
    assert sum("data-choose" in attributes for _, attributes in tags) == 4
    assert sum("detail" in (attributes.get("class") or "") for tag, attributes in tags if tag == "th") == 4


def test_what_fits_is_left_alone() -> None:
    report = Report("Few", "", (Section("Rows", tables=(ReportTable(("a",), (("b" * 1000,),)),)),), max_bytes=MAX_PAGE)
    assert "b" * 1000 in to_html(report)
    assert "stays small" not in to_html(report)
    assert shorten("abc", 3) == "abc"
    assert shorten("abcd", 3) == "ab…"
