"""A report as Markdown (CommonMark with tables). Charts become tables of their points."""

from __future__ import annotations

import re

from lorica.reports.page import (
    Cell,
    Chart,
    IntervalPlot,
    ParallelPlot,
    Report,
    ReportTable,
    ScatterPlot,
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
    alignment_row = ["---:" if is_number else "---" for is_number in right_aligned(table)]
    table_rows = [[escape(heading) for heading in table.columns], alignment_row]
    table_rows += [[escape(cell_text(cell)) for cell in row] for row in table.rows]
    table_text = "\n".join(f"| {' | '.join(table_row)} |" for table_row in table_rows)
    return f"{escape(table.heading)}\n\n{table_text}" if table.heading else table_text


def escape(plain_text: str) -> str:
    """One line in which nothing is markup."""
    escaped_line = " ".join(clean(plain_text).split())
    escaped_line = re.sub(r"([\\`*{}\[\]<>|~])", r"\\\1", escaped_line.replace("&", "&amp;"))
    return re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", escaped_line)


def points_table(chart: Chart) -> ReportTable:
    """A chart's points as a table; of long curves MAX_POINTS, evenly chosen."""
    if isinstance(chart, IntervalPlot):
        point_rows = tuple((point.label, interval_text(point)) for point in chart.points)
        return ReportTable(("", chart.axis or "value"), point_rows, chart.title)
    if isinstance(chart, ParallelPlot):
        lines = tuple((line.label, *line.texts) for line in chart.lines)
        return ReportTable(("", *(axis.label for axis in chart.axes)), lines, chart.title)
    if isinstance(chart, ScatterPlot):
        rows = tuple((point.label, point.x, point.y) for point in chart.points)
        return ReportTable(("", chart.x_label, chart.y_label), rows, chart.title)
    x_values = sorted({x_value for curve in chart.lines for x_value, _ in curve.points})
    point_step = max(1, -(-len(x_values) // MAX_POINTS))
    chosen_values = x_values[::-1][::point_step][::-1]
    points_by_curve = [dict(curve.points) for curve in chart.lines]
    value_rows: tuple[tuple[Cell, ...], ...] = tuple(
        (x_value, *(points.get(x_value) for points in points_by_curve)) for x_value in chosen_values
    )
    return ReportTable((chart.x_label or "x", *(curve.label for curve in chart.lines)), value_rows, chart.title)


def _section(section: Section) -> list[str]:
    blocks = [f"## {escape(section.heading)}", *map(_paragraph, paragraphs(section.text))]
    blocks += [markdown_table(table) for table in section.tables]
    blocks += [markdown_table(points_table(chart)) for chart in section.charts]
    if section.notes:
        blocks.append("\n".join(f"- {escape(note)}" for note in section.notes))
    return blocks


def _paragraph(plain_text: str) -> str:
    # What would begin a heading, a list, a quotation or a rule at the start of a line.
    escaped_line = escape(plain_text)
    escaped_line = re.sub(r"^(\d+)([.)])", r"\1\\\2", escaped_line)
    return re.sub(r"^([#+=-])", r"\\\1", escaped_line)
