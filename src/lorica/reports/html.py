"""A report as one HTML file: no network, everything escaped, and no script but the one that sorts tables."""

from __future__ import annotations

import math
from html import escape

from lorica.reports import interactive
from lorica.reports.charts import interval_svg, line_svg
from lorica.reports.markdown import points_table
from lorica.reports.page import (
    Cell,
    IntervalPlot,
    LineChart,
    Report,
    ReportTable,
    Section,
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
    elements = [
        f"<h1>{title}</h1>",
        *(f'<p class="summary">{_inline(paragraph)}</p>' for paragraph in paragraphs(report.summary)),
    ]
    lively = any(table.interactive for section in report.sections for table in section.tables)
    listed = [(number, section) for number, section in enumerate(report.sections, 1) if not section.folded]
    if len(listed) >= _NAVIGATION:
        links = "".join(f'<li><a href="#s{number}">{_inline(section.heading)}</a></li>' for number, section in listed)
        elements.append(f'<nav aria-label="Sections"><ul>{links}</ul></nav>')
    elements += [_section(section, number) for number, section in enumerate(report.sections, 1)]
    if report.footer:
        elements.append(f"<footer>{_inline(report.footer)}</footer>")
    body = "\n".join(elements)
    policy = _POLICY.replace("style-src", interactive.policy() + "style-src") if lively else _POLICY
    style = CSS + interactive.CSS if lively else CSS
    script = f"<script>{interactive.SCRIPT}</script>\n" if lively else ""
    main = '<main class="wide">' if lively else "<main>"
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{main}
{body}
</main>
{script}</body>
</html>
"""


def _section(section: Section, number: int) -> str:
    heading = f'<h2 id="s{number}">{_inline(section.heading)}</h2>'
    elements = [f"<p>{_inline(paragraph)}</p>" for paragraph in paragraphs(section.text)]
    elements += [_table(table) for table in section.tables]
    elements += [_figure(chart) for chart in section.charts]
    if section.notes:
        items = "".join(f"<li>{_inline(note)}</li>" for note in section.notes)
        elements.append(f'<ul class="notes">{items}</ul>')
    if section.folded:
        return "\n".join([f'<details class="section"><summary>{heading}</summary>', *elements, "</details>"])
    return "\n".join([f'<section aria-labelledby="s{number}">', heading, *elements, "</section>"])


def _table(table: ReportTable) -> str:
    classes = [' class="number"' if is_number else "" for is_number in right_aligned(table)]
    caption = f"<caption>{_inline(table.caption)}</caption>" if table.caption else ""
    label = _inline(table.caption or ", ".join(table.columns))
    opening = f'<div class="scroll" role="region" aria-label="{label}" tabindex="0">'
    if table.interactive:
        return f"{opening}{_interactive(table, caption)}</div>"
    head = "".join(
        f'<th scope="col"{look}>{_inline(heading)}</th>' for heading, look in zip(table.columns, classes, strict=True)
    )
    rows = "\n".join(
        "<tr>"
        + "".join(f"<td{look}>{_inline(cell_text(cell))}</td>" for cell, look in zip(row, classes, strict=True))
        + "</tr>"
        for row in table.rows
    )
    return f"{opening}<table>{caption}\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody></table></div>"


# A cell as long as this needs some width to be read.
_LONG = 48


def _interactive(table: ReportTable, caption: str) -> str:
    """With what the script and a narrow screen need. The roles are those of a table, which loses them where its rows
    are shown as blocks."""
    is_number = right_aligned(table)
    heads, looks = [], []
    for column, heading in enumerate(table.columns):
        long = any(len(cell_text(row[column])) >= _LONG for row in table.rows)
        extra = table.narrow and heading not in table.narrow
        names = [name for name, on in (("number", is_number[column]), ("long", long), ("extra", extra)) if on]
        look = f' class="{" ".join(names)}"' if names else ""
        choose = " data-choose" if heading in table.choose else ""
        heads.append(f'<th scope="col" role="columnheader"{look}{choose}>{_inline(heading)}</th>')
        looks.append(f'{look} role="cell" data-label="{_inline(heading)}"')
    linked = next((i for i, cell in enumerate(table.rows[0]) if isinstance(cell, str)), -1) if table.rows else -1
    rows = []
    for number, row in enumerate(table.rows):
        cells = [
            f"<td{look}{_value(cell)}>{_inline(cell_text(cell))}</td>" for cell, look in zip(row, looks, strict=True)
        ]
        if table.sections and linked >= 0:
            text = _inline(cell_text(row[linked]))
            cells[linked] = f'<td{looks[linked]}><a href="#s{table.sections[number]}">{text}</a></td>'
        rows.append(f'<tr role="row">{"".join(cells)}</tr>')
    drawn = "\n".join(rows)
    return (
        f'<table class="interactive" role="table">{caption}\n'
        f'<thead role="rowgroup"><tr role="row">{"".join(heads)}</tr></thead>\n'
        f'<tbody role="rowgroup">\n{drawn}\n</tbody></table>'
    )


def _value(cell: Cell) -> str:
    """A number for the script to sort by: its text is rounded."""
    plain = isinstance(cell, int | float) and not isinstance(cell, bool) and math.isfinite(cell)
    return f' data-value="{cell!r}"' if plain else ""


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
