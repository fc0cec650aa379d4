"""A report as one HTML file: no scripts, no network, everything escaped."""

from __future__ import annotations

from html import escape

from lorica.reports.charts import interval_svg, line_svg
from lorica.reports.markdown import points_table
from lorica.reports.page import (
    IntervalPlot,
    LineChart,
    Report,
    Section,
    Table,
    cell_text,
    clean,
    paragraphs,
    right_aligned,
)
from lorica.reports.style import CSS

# Even if something slipped through escaping, the page may run and load nothing.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"

# From this many sections on, a reader wants to jump.
_NAVIGATION = 3


def to_html(report: Report) -> str:
    """The whole page."""
    title = _inline(report.title)
    parts = [
        f"<h1>{title}</h1>",
        *(f'<p class="summary">{_inline(each)}</p>' for each in paragraphs(report.summary)),
    ]
    if len(report.sections) >= _NAVIGATION:
        links = "".join(
            f'<li><a href="#s{number}">{_inline(section.heading)}</a></li>'
            for number, section in enumerate(report.sections, 1)
        )
        parts.append(f'<nav aria-label="Sections"><ul>{links}</ul></nav>')
    parts += [_section(section, number) for number, section in enumerate(report.sections, 1)]
    if report.footer:
        parts.append(f"<footer>{_inline(report.footer)}</footer>")
    body = "\n".join(parts)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{CSS}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""


def _section(section: Section, number: int) -> str:
    parts = [f'<section aria-labelledby="s{number}">', f'<h2 id="s{number}">{_inline(section.heading)}</h2>']
    parts += [f"<p>{_inline(each)}</p>" for each in paragraphs(section.text)]
    parts += [_table(table) for table in section.tables]
    parts += [_figure(chart) for chart in section.charts]
    if section.notes:
        items = "".join(f"<li>{_inline(note)}</li>" for note in section.notes)
        parts.append(f'<ul class="notes">{items}</ul>')
    return "\n".join([*parts, "</section>"])


def _table(table: Table) -> str:
    classes = [' class="number"' if right else "" for right in right_aligned(table)]
    head = "".join(
        f'<th scope="col"{look}>{_inline(heading)}</th>' for heading, look in zip(table.columns, classes, strict=True)
    )
    rows = "\n".join(
        "<tr>"
        + "".join(f"<td{look}>{_inline(cell_text(cell))}</td>" for cell, look in zip(row, classes, strict=True))
        + "</tr>"
        for row in table.rows
    )
    caption = f"<caption>{_inline(table.caption)}</caption>" if table.caption else ""
    label = _inline(table.caption or ", ".join(table.columns))
    return (
        f'<div class="scroll" role="region" aria-label="{label}" tabindex="0"><table>{caption}\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody></table></div>"
    )


def _figure(chart: IntervalPlot | LineChart) -> str:
    title = _inline(chart.title)
    if isinstance(chart, IntervalPlot):
        drawing, data = interval_svg(chart), ""
    else:
        drawing = line_svg(chart)
        data = f"\n<details><summary>The numbers</summary>{_table(points_table(chart))}</details>"
    return (
        f"<figure><figcaption>{title}</figcaption>\n"
        f'<div class="scroll" role="region" aria-label="{title}" tabindex="0">{drawing}</div>{data}</figure>'
    )


def _inline(text: str) -> str:
    return escape(" ".join(clean(text).split()))
