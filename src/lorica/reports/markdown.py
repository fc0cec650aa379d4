"""A report as Markdown (CommonMark with tables). Charts become tables of their points."""

from __future__ import annotations

import re

from lorica.reports.page import (
    Cell,
    IntervalPlot,
    LineChart,
    Report,
    ReportTable,
    Section,
    cell_text,
    clean,
    interval_text,
    paragraphs,
    right_aligned,
)

# Points of a curve that a table shows, evenly chosen; the last is always among them.
MAX_POINTS = 12


def to_markdown(report: Report) -> str:
    """The whole report, ending in a line break."""
    blocks = [f"# {escape(report.title)}", *map(_paragraph, paragraphs(report.summary))]
    for section in report.sections:
        blocks += _section(section)
    if report.footer:
        blocks += ["---", _paragraph(" ".join(clean(report.footer).split()))]
    return "\n\n".join(blocks) + "\n"


def markdown_table(table: ReportTable) -> str:
    """The table alone, without a final line break."""
    rules = ["---:" if is_number else "---" for is_number in right_aligned(table)]
    lines = [[escape(heading) for heading in table.columns], rules]
    lines += [[escape(cell_text(cell)) for cell in row] for row in table.rows]
    drawn = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{escape(table.caption)}\n\n{drawn}" if table.caption else drawn


def escape(text: str) -> str:
    """One line in which nothing is markup."""
    line = " ".join(clean(text).split())
    line = re.sub(r"([\\`*{}\[\]<>|~])", r"\\\1", line.replace("&", "&amp;"))
    return re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", line)


def points_table(chart: IntervalPlot | LineChart) -> ReportTable:
    """A chart's points as a table; of long curves MAX_POINTS, evenly chosen."""
    if isinstance(chart, IntervalPlot):
        rows = tuple((point.label, interval_text(point)) for point in chart.points)
        return ReportTable(("", chart.axis or "value"), rows, chart.title)
    places = sorted({x for line in chart.lines for x, _ in line.points})
    step = max(1, -(-len(places) // MAX_POINTS))
    chosen = places[::-1][::step][::-1]
    values = [dict(line.points) for line in chart.lines]
    numbers: tuple[tuple[Cell, ...], ...] = tuple((x, *(points.get(x) for points in values)) for x in chosen)
    return ReportTable((chart.x_label or "x", *(line.label for line in chart.lines)), numbers, chart.title)


def _section(section: Section) -> list[str]:
    blocks = [f"## {escape(section.heading)}", *map(_paragraph, paragraphs(section.text))]
    blocks += [markdown_table(table) for table in section.tables]
    blocks += [markdown_table(points_table(chart)) for chart in section.charts]
    if section.notes:
        blocks.append("\n".join(f"- {escape(note)}" for note in section.notes))
    return blocks


def _paragraph(text: str) -> str:
    # What would begin a heading, a list, a quotation or a rule at the start of a line.
    line = escape(text)
    line = re.sub(r"^(\d+)([.)])", r"\1\\\2", line)
    return re.sub(r"^([#+=-])", r"\\\1", line)
