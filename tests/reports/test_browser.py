"""A page as a browser shows it: wide and narrow, light and dark, by keyboard, without a request or an error."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.reports.browser import needs_browser, open_page
from tests.reports.test_reports import EVIL, LOSS, PLOT, evil_report

from lorica.reports.html import to_html
from lorica.reports.interactive import VALUE_SEPARATOR
from lorica.reports.page import Cell, Report, ReportTable, Section

LONG = "long_name_without_any_place_to_break_" * 6
ROWS: tuple[tuple[Cell, ...], ...] = tuple(
    (
        f"row-{number}" if number else LONG,
        f"{('The cat sat', 'Ein Hund bellt', 'שלום עולם', '東京は晴れ 🙂', EVIL)[number % 5]} {number}",
        ("Yes", "No")[number % 2],
        number / 7,
        VALUE_SEPARATOR.join(("truncated", "retried")[: number % 3]),
        f"raw {number}",
    )
    for number in range(150)
)
READER = Report(
    f"Evaluation of {LONG}",
    f"Nothing tells {LONG} apart.",
    (
        Section("Metrics", "Text.", (ReportTable(("metric", LONG), ((LONG, "0.712 [0.68, 0.74]"),)),), (PLOT,)),
        Section(
            "Rows to read",
            tables=(
                ReportTable(
                    ("id", "row", "gold", "score", "flags", "words"),
                    ROWS,
                    interactive=True,
                    choose=("gold", "flags"),
                    narrow=("id", "row", "gold"),
                    opens=True,
                    detail=("flags", "words"),
                    marks=tuple(("wrong",) if number % 10 == 3 else () for number in range(150)),
                    total=30_000,
                    sampling="a sample, seed 0",
                ),
            ),
            charts=(LOSS,),
        ),
        Section(LONG, tables=(ReportTable(("a",), ((1,),)),), folded=True),
    ),
    "The end.",
)


@needs_browser
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1400])
def test_a_page_fits_any_screen_and_asks_for_nothing(tmp_path: Path, width: int, dark: bool) -> None:
    for number, report in enumerate((READER, evil_report(EVIL))):
        result = open_page(to_html(report), tmp_path / str(number), width=width, dark=dark)
        assert result["dark"] is dark
        assert result["pageWidth"] == result["width"]
        assert result["wide"] == []
        assert result["faint"] == []
        assert result["requests"] == []
        assert result["landmarks"] == [1, 1, 1]
    assert result["ready"] == 0


KEYBOARD = """
(function () {
  var steps = {}, table = page.querySelector("table.interactive"), controls = page.querySelector(".controls");
  function press(key) {
    page.activeElement.dispatchEvent(new frame.KeyboardEvent("keydown", { key: key, bubbles: true, cancelable: true }));
  }
  function shown() { return table.querySelectorAll("tbody tr:not([hidden]):not(.opened)"); }
  function text() { return page.activeElement.textContent; }
  function choose(control, value) {
    if (control.type === "checkbox") { control.checked = value; } else { control.value = value; }
    control.dispatchEvent(new frame.Event("input"));
    return shown().length;
  }
  var search = controls.querySelector("input[type=search]"), selects = controls.querySelectorAll("select");
  steps.all = controls.querySelector("[role=status]").textContent;
  press("/");
  steps.searching = page.activeElement === search;
  press("j");
  steps.typing = page.activeElement === search;
  steps.found = choose(search, "ein hund");
  press("Enter");
  steps.first = text();
  press("j"); press("ArrowDown"); press("k");
  steps.second = text();
  page.activeElement.click();
  steps.expanded = page.activeElement.getAttribute("aria-expanded");
  steps.detail = page.querySelector("tr.opened").textContent;
  steps.tabStops = table.querySelectorAll("button.open[tabindex='0']").length;
  steps.outline = frame.getComputedStyle(page.activeElement).outlineStyle;
  page.activeElement.click();
  steps.closed = page.querySelectorAll("tr.opened").length;
  choose(search, "");
  steps.labels = choose(selects[0], "=No");
  steps.flags = choose(selects[1], "=retried");
  choose(selects[0], "all"); choose(selects[1], "all");
  steps.wrong = choose(controls.querySelector("input[type=checkbox]"), true);
  controls.querySelector("button").click();
  steps.again = shown().length;
  function order() { return Array.from(shown()).slice(0, 3).map(function (row) { return row.cells[3].textContent; }); }
  var score = table.tHead.rows[0].cells[3];
  score.firstElementChild.click();
  steps.up = order();
  score.firstElementChild.click();
  steps.down = order();
  steps.sorted = score.getAttribute("aria-sort");
  score.firstElementChild.click();
  steps.asListed = order();
  return steps;
})()
"""


@needs_browser
@pytest.mark.parametrize("width", [390, 1400])
def test_rows_are_searched_filtered_sorted_and_opened_by_keyboard(tmp_path: Path, width: int) -> None:
    steps = open_page(to_html(READER), tmp_path, width=width, script=KEYBOARD)
    assert steps["all"] == "150 of 150 shown"
    assert steps["searching"]
    assert steps["typing"]
    assert steps["found"] == 30
    assert steps["first"] == "row-1"
    assert steps["second"] == "row-6"
    assert steps["expanded"] == "true"
    assert all(text in steps["detail"] for text in ("row-6", "Ein Hund bellt 6", "raw 6"))
    assert steps["tabStops"] == 1
    assert steps["outline"] == "solid"
    assert steps["closed"] == 0
    assert steps["labels"] == 75
    assert steps["flags"] == 25
    assert steps["wrong"] == 15
    assert steps["again"] == 150
    assert steps["up"] == ["0", "0.1429", "0.2857"]
    assert steps["down"] == ["21.29", "21.14", "21"]
    assert steps["sorted"] == "descending"
    assert steps["asListed"] == steps["up"]
