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
    is_interactive = any(table.interactive for section in report.sections for table in section.tables)
    listed = [(number, section) for number, section in enumerate(report.sections, 1) if not section.folded]
    if len(listed) >= _NAVIGATION:
        section_links = "".join(
            f'<li><a href="#s{number}">{_inline(section.heading)}</a></li>' for number, section in listed
        )
        elements.append(f'<nav aria-label="Sections"><ul>{section_links}</ul></nav>')
    elements += [_section(section, number) for number, section in enumerate(report.sections, 1)]
    if report.footer:
        elements.append(f"<footer>{_inline(report.footer)}</footer>")
    body = "\n".join(elements)
    policy = _POLICY.replace("style-src", interactive.policy() + "style-src") if is_interactive else _POLICY
    style = CSS + interactive.CSS if is_interactive else CSS
    script = f"<script>{interactive.SCRIPT}</script>\n" if is_interactive else ""
    main = '<main class="wide">' if is_interactive else "<main>"
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


def _section(section: Section, section_number: int) -> str:
    heading = f'<h2 id="s{section_number}">{_inline(section.heading)}</h2>'
    elements = [f"<p>{_inline(paragraph)}</p>" for paragraph in paragraphs(section.text)]
    elements += [_table(table) for table in section.tables]
    elements += [_figure(chart) for chart in section.charts]
    if section.notes:
        note_items = "".join(f"<li>{_inline(note)}</li>" for note in section.notes)
        elements.append(f'<ul class="notes">{note_items}</ul>')
    if section.folded:
        return "\n".join([f'<details class="section"><summary>{heading}</summary>', *elements, "</details>"])
    return "\n".join([f'<section aria-labelledby="s{section_number}">', heading, *elements, "</section>"])


def _table(table: ReportTable) -> str:
    css_classes = [' class="number"' if is_number else "" for is_number in right_aligned(table)]
    caption = f"<caption>{_inline(table.caption)}</caption>" if table.caption else ""
    aria_label = _inline(table.caption or ", ".join(table.columns))
    opening = f'<div class="scroll" role="region" aria-label="{aria_label}" tabindex="0">'
    if table.interactive:
        return f"{opening}{_interactive(table, caption)}</div>"
    header = "".join(
        f'<th scope="col"{css_class}>{_inline(heading)}</th>'
        for heading, css_class in zip(table.columns, css_classes, strict=True)
    )
    body_rows = "\n".join(
        "<tr>"
        + "".join(
            f"<td{css_class}>{_inline(cell_text(cell))}</td>" for cell, css_class in zip(row, css_classes, strict=True)
        )
        + "</tr>"
        for row in table.rows
    )
    return f"{opening}<table>{caption}\n<thead><tr>{header}</tr></thead>\n<tbody>\n{body_rows}\n</tbody></table></div>"


# A cell as long as this needs some width to be read.
_LONG = 48


def _interactive(table: ReportTable, caption: str) -> str:
    """With what the script and a narrow screen need. The roles are those of a table, which loses them where its rows
    are shown as blocks."""
    is_number = right_aligned(table)
    header_cells, cell_attributes = [], []
    for column, heading in enumerate(table.columns):
        is_long = any(len(cell_text(row[column])) >= _LONG for row in table.rows)
        is_extra = table.narrow and heading not in table.narrow
        class_names = [
            name for name, applies in (("number", is_number[column]), ("long", is_long), ("extra", is_extra)) if applies
        ]
        css_class = f' class="{" ".join(class_names)}"' if class_names else ""
        choose = " data-choose" if heading in table.choose else ""
        header_cells.append(f'<th scope="col" role="columnheader"{css_class}{choose}>{_inline(heading)}</th>')
        cell_attributes.append(f'{css_class} role="cell" data-label="{_inline(heading)}"')
    linked_column = (
        next((index for index, cell in enumerate(table.rows[0]) if isinstance(cell, str)), -1) if table.rows else -1
    )
    body_rows = []
    for row_index, row in enumerate(table.rows):
        row_cells = [
            f"<td{css_class}{_value(cell)}>{_inline(cell_text(cell))}</td>"
            for cell, css_class in zip(row, cell_attributes, strict=True)
        ]
        if table.sections and linked_column >= 0:
            link_text = _inline(cell_text(row[linked_column]))
            row_cells[linked_column] = (
                f'<td{cell_attributes[linked_column]}><a href="#s{table.sections[row_index]}">{link_text}</a></td>'
            )
        body_rows.append(f'<tr role="row">{"".join(row_cells)}</tr>')
    table_body = "\n".join(body_rows)
    return (
        f'<table class="interactive" role="table">{caption}\n'
        f'<thead role="rowgroup"><tr role="row">{"".join(header_cells)}</tr></thead>\n'
        f'<tbody role="rowgroup">\n{table_body}\n</tbody></table>'
    )


def _value(cell: Cell) -> str:
    """A number for the script to sort by: its text is rounded."""
    is_sortable = isinstance(cell, int | float) and not isinstance(cell, bool) and math.isfinite(cell)
    return f' data-value="{cell!r}"' if is_sortable else ""


def _figure(chart: IntervalPlot | LineChart) -> str:
    title = _inline(chart.title)
    if isinstance(chart, IntervalPlot):
        drawing, numbers_table = interval_svg(chart), ""
    else:
        drawing = line_svg(chart)
        numbers_table = f"\n<details><summary>The numbers</summary>{_table(points_table(chart))}</details>"
    return (
        f"<figure><figcaption>{title}</figcaption>\n"
        f'<div class="scroll" role="region" aria-label="{title}" tabindex="0">{drawing}</div>{numbers_table}</figure>'
    )


def _inline(plain_text: str) -> str:
    return escape(" ".join(clean(plain_text).split()))
