from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lorica.errors import DataError, UsageError
from lorica.reports.charts import NARROW, WIDTH, interval_svg, line_svg, log_axis, nice_axis, parallel_svg, scatter_svg
from lorica.reports.html import to_html
from lorica.reports.markdown import MAX_POINTS, escape, markdown_table, points_table, to_markdown
from lorica.reports.page import (
    IntervalPlot,
    IntervalPoint,
    Line,
    LineChart,
    ParallelAxis,
    ParallelLine,
    ParallelPlot,
    Report,
    ReportTable,
    ScatterPlot,
    ScatterPoint,
    Section,
    cell_text,
    right_aligned,
)
from lorica.reports.text_table import display_width, plain_table
from lorica.reports.write_report import write_report

TABLE = ReportTable(
    ("system", "ROC-AUC", "n"),
    (("base", "0.712 [0.68, 0.74]", 1000), ("adapter", 0.98125, 1000), ("TF-IDF", None, 12)),
    "Held-out rows",
)
PLOT = IntervalPlot(
    "ROC-AUC",
    (
        IntervalPoint("base", 0.7, 0.65, 0.75),
        IntervalPoint("adapter", 0.98, 0.97, 0.99),
        IntervalPoint("x", math.nan),
    ),
    "ROC-AUC",
    0.5,
    "chance",
)
LOSS = LineChart(
    "Loss",
    (
        Line("training", tuple((float(n), 3 / (n + 1)) for n in range(100))),
        Line("validation", ((0.0, 2.0), (50.0, math.nan), (99.0, 1.0))),
    ),
    "step",
    "loss",
)
REPORT = Report(
    "A demo",
    "First.\n\nSecond\nline.",
    (
        Section("Results", "Text.", (TABLE,), (PLOT,), ("a note",)),
        Section("Training", "", (), (LOSS,)),
        Section("Rest"),
    ),
    "lorica 0.1.0",
)
EVIL = "</td><script>alert(1)</script>\"'&<svg onload=x>|`*_[x](y)\x1b[31m\u202eevil\ud800\x00"


def evil_report(text: str) -> Report:
    table = ReportTable((text, "b"), ((text, 1), (text, math.nan)), text)
    plot = IntervalPlot(text, (IntervalPoint(text, 0.5, 0.4, 0.6),), text, 0.5, text)
    curve = LineChart(text, (Line(text, ((0.0, 1.0), (1.0, 2.0))),), text, text)
    across = ParallelLine(text, (0.5,), (text,), marked=True)
    parallel = ParallelPlot(text, (ParallelAxis(text, ((0.0, text),)),), (across,))
    return Report(text, text, (Section(text, text, (table,), (plot, curve, parallel), (text,)),) * 3, text)


class Balance(HTMLParser):
    """Collects tags; fails on an element that is closed out of order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "path", "line", "circle"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def parsed(page: str) -> Balance:
    parser = Balance()
    parser.feed(page)
    parser.close()
    assert parser.open == []
    return parser


def test_html_is_well_formed_and_needs_nothing_from_outside() -> None:
    page = to_html(REPORT)
    tags = parsed(page)
    names = [tag for tag, _ in tags.seen]
    assert names.count("table") == 2  # the results, and the numbers of the curve
    assert names.count("svg") == 4, "each for two widths"
    assert names.count("section") == 3
    for tag, attributes in tags.seen:
        assert tag not in ("script", "img", "iframe", "object")
        assert not attributes.keys() & {"src", "srcset", "onload", "style"}
        assert (attributes.get("href") or "#").startswith("#") or attributes == {"rel": "icon", "href": "data:,"}
    assert not re.search(r"url\(|@import|https?://", page)
    policy = next(a for tag, a in tags.seen if tag == "meta" and "http-equiv" in a)
    assert (policy["content"] or "").startswith("default-src 'none'")
    ids = [attributes["id"] for _, attributes in tags.seen if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_html_can_be_read_without_seeing_it() -> None:
    page = parsed(to_html(REPORT))
    for tag, attributes in page.seen:
        if tag == "svg":
            assert attributes["role"] == "img"
            assert attributes["aria-label"]
        if tag == "th":
            assert attributes["scope"] == "col"
    labels = [attributes["aria-label"] for tag, attributes in page.seen if tag == "svg"]
    assert all("adapter: 0.980 [0.970, 0.990]" in (label or "") for label in labels[:2])
    assert all("validation: from 2 to 1" in (label or "") for label in labels[2:])


def test_equal_reports_give_equal_bytes() -> None:
    assert to_html(REPORT) == to_html(REPORT)
    assert '<p class="summary">Second line.</p>' in to_html(REPORT)


def test_hostile_text_is_shown_not_executed() -> None:
    page = to_html(evil_report(EVIL))
    tags = parsed(page)
    assert {tag for tag, _ in tags.seen}.isdisjoint({"script"})
    assert all("onload" not in attributes for _, attributes in tags.seen)
    assert not any(each in page for each in "\x1b\u202e\x00\ud800")
    assert "&lt;script&gt;alert(1)" in page


@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=12).map(lambda text: text + "x"))
def test_any_text_makes_a_page_of_the_same_shape(text: str) -> None:
    shape, expected = (parsed(to_html(evil_report(each))).seen for each in (text, "x"))
    assert [tag for tag, _ in shape] == [tag for tag, _ in expected]


NUMBERS = st.one_of(st.floats(-1e6, 1e6), st.sampled_from([math.nan, math.inf, -math.inf, 0.0]))


@settings(max_examples=100, deadline=None)
@example(points=[(5e-324, 0.0, 0.0)])
@given(points=st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS), max_size=5))
def test_charts_are_valid_xml_within_their_frame(points: list[tuple[float, float, float]]) -> None:
    plot = IntervalPlot("t", tuple(IntervalPoint("p", *each) for each in points))
    lines = LineChart("t", (Line("a", tuple((x, y) for x, y, _ in points)), Line("b", ())))
    scatter = ScatterPlot(
        "t", tuple(ScatterPoint("p", x, y, (x, z), (y, z), joined=True) for x, y, z in points), "x", "y"
    )
    axes = tuple(ParallelAxis(f"axis {number}", ((0.0, "low"), (1.0, "high"))) for number in range(3))
    across = tuple(ParallelLine("p", (0.0, math.nan, 1.0), ("a", "", "c"), marked=x is y) for x, y, _ in points)
    parallel = ParallelPlot("t", axes, across)
    drawings = [
        drawing
        for width in (WIDTH, NARROW)
        for drawing in (
            interval_svg(plot, width),
            line_svg(lines, width),
            scatter_svg(scatter, width),
            parallel_svg(parallel, width),
        )
    ]
    for drawing in drawings:
        root = ET.fromstring(drawing)
        width, height = (float(number) for number in root.attrib["viewBox"].split()[2:])
        for element in root.iter():
            for key in ("x", "x1", "x2", "cx"):
                assert 0 <= float(element.attrib.get(key, 0)) <= width
            for key in ("y", "y1", "y2", "cy"):
                assert 0 <= float(element.attrib.get(key, 0)) <= height
            assert "nan" not in element.attrib.get("d", "")
            assert "inf" not in element.attrib.get("d", "")


@given(values=st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=5))
def test_axes_hold_all_values_between_few_ticks(values: list[float]) -> None:
    ticks, low, high = nice_axis(values)
    slack = 1e-5 * (high - low)
    assert low - slack <= min(values) <= max(values) <= high + slack
    assert 2 <= len(ticks) <= 9
    assert ticks == sorted(ticks)


def test_axis_ticks_are_round() -> None:
    assert nice_axis([0.513, 0.97])[0] == [0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    assert nice_axis([0, 237], tight=True) == ([0, 50, 100, 150, 200], 0, 237)
    assert nice_axis([5, 5])[0] == [4.4, 4.6, 4.8, 5.0, 5.2, 5.4, 5.6]


def test_interval_positions_follow_the_numbers() -> None:
    root = ET.fromstring(interval_svg(PLOT))
    circles = [float(element.attrib["cx"]) for element in root.iter("circle")]
    assert len(circles) == 2  # the undefined point has none
    ticks = {text.text: float(text.attrib["x"]) for text in root.iter("text") if text.attrib["text-anchor"] == "middle"}
    assert circles[0] == pytest.approx(ticks["0.7"], abs=0.1)
    assert ticks["chance"] == pytest.approx(ticks["0.5"], abs=0.1)


def test_a_narrow_screen_has_drawings_of_its_own_that_are_no_wider() -> None:
    page = to_html(Report("t", sections=(Section("s", charts=(PLOT,)),)))
    assert re.findall(r'viewBox="0 0 (\d+) ', page) == [str(WIDTH), str(NARROW)]
    root = ET.fromstring(interval_svg(PLOT, NARROW))
    texts = [text for text in root.iter("text") if text.text]
    for text in texts:
        reach = 7 * len(text.text or "")
        anchored = {"start": (0, reach), "end": (-reach, 0), "middle": (-reach / 2, reach / 2)}
        left, right = anchored[text.attrib["text-anchor"]]
        assert float(text.attrib["x"]) + left >= 0
        assert float(text.attrib["x"]) + right <= NARROW


def test_points_stand_on_a_logarithmic_axis_and_the_front_goes_through_its_own() -> None:
    front = (ScatterPoint("fast", 1, 0.5, joined=True), ScatterPoint("exact", 100, 0.9, joined=True))
    chart = ScatterPlot(
        "Front", (front[1], ScatterPoint("worse", 10, 0.4, (9, 11), (0.3, 0.5)), front[0]), "ms", "accuracy"
    )
    root = ET.fromstring(scatter_svg(chart))
    x = [float(circle.attrib["cx"]) for circle in root.iter("circle")]
    assert x[1] == pytest.approx((x[0] + x[2]) / 2, abs=0.2)
    assert ["hollow" in circle.attrib["class"] for circle in root.iter("circle")] == [False, True, False]
    (line,) = [path.attrib["d"] for path in root.iter("path") if "curve" in path.attrib["class"]]
    assert line.startswith(f"M{x[2]} ")
    assert f"L{x[0]} " in line
    assert "worse" not in line
    assert [row[0] for row in points_table(chart).rows] == ["exact", "worse", "fast"]


def test_ticks_of_a_logarithmic_axis_are_round() -> None:
    assert log_axis([1, 100])[0] == [1, 2, 5, 10, 20, 50, 100]
    assert log_axis([4.2, 6.8])[0] == [4, 5, 6, 7]
    assert log_axis([1e-6, 1e6])[0] == [10.0**power for power in range(-6, 7)]
    ticks, start, end = log_axis([])
    assert start < 1 < end
    assert ticks


def test_plain_table() -> None:
    assert plain_table(TABLE) == (
        "Held-out rows\n"
        "system              ROC-AUC      n\n"
        "───────  ──────────────────  ─────\n"
        "base     0.712 [0.68, 0.74]  1,000\n"
        "adapter              0.9812  1,000\n"
        "TF-IDF                  n/a     12"
    )  # fmt: skip


def test_plain_tables_keep_their_columns_whatever_the_cells_hold() -> None:
    table = ReportTable(("a", "b"), (("東京", 1), ("e\u0301", 2), ("two\nlines\x1b[31m", 3), ("x" * 200, 4), ("", 5)))
    lines = plain_table(table, max_cell=20).split("\n")
    assert len({display_width(line) for line in lines}) == 1
    assert "\x1b" not in plain_table(table)
    assert lines[5].startswith("x" * 19 + "…")


def test_a_table_that_is_wider_than_its_terminal_goes_on_below() -> None:
    table = ReportTable(
        ("fold", "rows", "roc_auc", "f1"), (("fold-1", 12, "0.9812 [0.97, 0.99]", 0.5), ("fold-2", 9, "n/a", 0.25))
    )
    wide = plain_table(table)
    assert plain_table(table, width=80) == wide
    narrow = plain_table(table, width=36)
    assert max(map(display_width, narrow.split("\n"))) <= 36
    first, second = (block.split("\n") for block in narrow.split("\n\n"))
    assert [line.split()[0] for line in first[2:]] == ["fold-1", "fold-2"] == [line.split()[0] for line in second[2:]]
    assert (first[0].split(), second[0].split()) == (["fold", "rows", "roc_auc"], ["fold", "f1"])
    assert "0.9812 [0.97, 0.99]" in first[2], "no figure is cut"
    one_below_the_other = plain_table(table, width=1)
    assert one_below_the_other.count("fold-1") == 3
    ranked = ReportTable(("rank", "answers", "roc_auc", "f1"), ((1, "a.csv", 0.9, 0.8), (1, "b.csv", 0.8, 0.7)))
    assert plain_table(ranked, width=24).count("b.csv") == 2, "a rank alone names no line"


def test_markdown() -> None:
    text = to_markdown(REPORT)
    assert text.startswith("# A demo\n\nFirst.\n\nSecond line.\n\n## Results\n\nText.\n\nHeld-out rows\n\n| system |")
    assert "| adapter | 0.9812 | 1,000 |" in text
    assert "| --- | ---: | ---: |" in text
    assert "| adapter | 0.980 \\[0.970, 0.990\\] |" in text
    assert text.endswith("## Rest\n\n---\n\nlorica 0.1.0\n")


def test_markdown_escapes_markup() -> None:
    text = to_markdown(evil_report(EVIL))
    assert "<script>" not in re.sub(r"\\<", "", text)
    assert all(len(re.findall(r"(?<!\\)\|", line)) == 3 for line in text.split("\n") if line.startswith("| "))
    assert escape("lora_alpha and _this_") == "lora_alpha and \\_this\\_"
    assert to_markdown(Report("t", "# no heading\n\n1. no list\n\n- nor this")).split("\n\n")[1:] == [
        "\\# no heading",
        "1\\. no list",
        "\\- nor this\n",
    ]


def test_markdown_renders_as_meant() -> None:
    markdown = pytest.importorskip("markdown_it", reason="markdown-it-py is not installed")
    page = markdown.MarkdownIt("commonmark").enable("table").render(to_markdown(evil_report("a|b *c* <i> _d_ &amp;")))
    shown = "a|b *c* &lt;i&gt; _d_ &amp;amp;"
    assert page.count(shown) == 1 + 1 + 3 * 16 + 1 + 3  # title, summary, sections, footer, axis names
    assert page.count("<table>") == 12


def test_long_curves_become_short_tables() -> None:
    table = points_table(LOSS)
    assert table.columns == ("step", "training", "validation")
    assert len(table.rows) <= MAX_POINTS
    assert table.rows[-1] == (99.0, 0.03, 1.0)


def test_cells() -> None:
    cells = ("x", 1234567, 0.123456, None, math.nan, True, 1e-9)
    assert [cell_text(cell) for cell in cells] == ["x", "1,234,567", "0.1235", "n/a", "n/a", "yes", "1e-09"]
    table = ReportTable(("text", "number", "mixed", "share"), (("3 cats", 1, "a", "12%"), ("4 dogs", None, 2, "-3.5%")))
    assert right_aligned(table) == [False, True, False, True]
    differences = ReportTable(("difference", "text"), (("+0.012 (-0.004 to 0.020)", "3 to do"), ("undefined", "")))
    assert right_aligned(differences) == [True, False]


def test_ragged_tables_are_refused() -> None:
    with pytest.raises(ValueError, match="row 2 has 1 cells, the table has 2 columns"):
        ReportTable(("a", "b"), (("x", 1), ("y",)))


def test_reports_are_written_by_suffix(tmp_path: Path) -> None:
    write_report(REPORT, tmp_path / "new" / "report.html")
    write_report(REPORT, tmp_path / "report.md")
    assert (tmp_path / "new" / "report.html").read_text(encoding="utf-8") == to_html(REPORT)
    assert (tmp_path / "report.md").read_text(encoding="utf-8") == to_markdown(REPORT)
    assert markdown_table(TABLE) in to_markdown(REPORT)


def test_other_suffixes_and_places_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"ends in \.html, \.htm, \.md, not '\.pdf'"):
        write_report(REPORT, tmp_path / "report.pdf")
    (tmp_path / "folder.md").mkdir()
    with pytest.raises(DataError):
        write_report(REPORT, tmp_path / "folder.md")


def test_parallel_coordinates_draw_the_marked_line_last_and_list_all_in_a_table() -> None:
    axes = (ParallelAxis("rank", ((0.0, "8"), (1.0, "16"))), ParallelAxis("roc_auc", ((0.0, "0.5"), (1.0, "1"))))
    lines = (
        ParallelLine("trial 7", (1.0, 1.0), ("16", "0.950"), marked=True),
        ParallelLine("trial 2", (0.0, 0.5), ("8", "0.750"), strength=0.5),
    )
    chart = ParallelPlot("Parallel coordinates", axes, lines)
    titles = [element.text for element in ET.fromstring(parallel_svg(chart)).iter("title")]
    assert [title for title in titles if title and "trial" in title] == ["trial 2: 8, 0.750", "trial 7: 16, 0.950"]
    assert points_table(chart).rows == (("trial 7", "16", "0.950"), ("trial 2", "8", "0.750"))
    with pytest.raises(ValueError, match="trial 7 has 1 places on 2 axes"):
        ParallelPlot("t", axes, (ParallelLine("trial 7", (1.0,), ("16",)),))
