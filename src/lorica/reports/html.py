"""A report as one HTML file: no network, everything escaped, and no script but the one that filters tables."""

from __future__ import annotations

import math
from html import escape

from lorica.reports import interactive
from lorica.reports.charts import NARROW, WIDTH, interval_svg, line_svg, parallel_svg, scatter_svg
from lorica.reports.markdown import points_table
from lorica.reports.page import (
    Cell,
    Chart,
    IntervalPlot,
    LineChart,
    ParallelPlot,
    Report,
    ReportTable,
    Section,
    cell_text,
    clean,
    paragraphs,
    right_aligned,
)
from lorica.reports.page_size import fit
from lorica.reports.style import CSS

# Even if something slipped through escaping, the page may run and load nothing.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"

# From this many sections on, a reader wants to jump.
_NAVIGATION = 3


def to_html(report: Report) -> str:
    """The whole page, within `report.max_bytes` where that is set."""
    return fit(report, _render) if report.max_bytes else _render(report)


def _render(report: Report) -> str:
    title = _inline(report.title)
    opening = [f"<h1>{title}</h1>"]
    opening += [f'<p class="summary">{_inline(paragraph)}</p>' for paragraph in paragraphs(report.summary)]
    tables = [table for section in report.sections for table in section.tables]
    is_interactive = any(table.interactive for table in tables)
    is_wide = is_interactive or any(len(table.columns) > _NARROW_COLUMNS for table in tables)
    listed = [(number, section) for number, section in enumerate(report.sections, 1) if not section.folded]
    if len(listed) >= _NAVIGATION:
        section_links = "".join(
            f'<li><a href="#s{number}">{_inline(section.heading)}</a></li>' for number, section in listed
        )
        opening.append(f'<nav aria-label="Sections"><ul>{section_links}</ul></nav>')
    header = "\n".join(opening)
    body = "\n".join(_section(section, number) for number, section in enumerate(report.sections, 1))
    footer = f"<footer>{_inline(report.footer)}</footer>\n" if report.footer else ""
    policy = _POLICY.replace("style-src", interactive.policy() + "style-src") if is_interactive else _POLICY
    style = CSS + interactive.CSS if is_interactive else CSS
    script = f"<script>{interactive.SCRIPT}</script>\n" if is_interactive else ""
    body_class = ' class="wide"' if is_wide else ""
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>{style}</style>
</head>
<body{body_class}>
<header>
{header}
</header>
<main>
{body}
</main>
{footer}{script}</body>
</html>
"""


def _section(section: Section, section_number: int) -> str:
    heading = f'<h2 id="s{section_number}">{_inline(section.heading)}</h2>'
    elements = [f"<p>{_inline(paragraph)}</p>" for paragraph in paragraphs(section.text)]
    elements += [_table(table) for table in section.tables]
    if section.charts:
        elements += ['<div class="figures">', *map(_figure, section.charts), "</div>"]
    if section.notes:
        note_items = "".join(f"<li>{_inline(note)}</li>" for note in section.notes)
        elements.append(f'<ul class="notes">{note_items}</ul>')
    if section.folded:
        return "\n".join([f'<details class="section"><summary>{heading}</summary>', *elements, "</details>"])
    return "\n".join([f'<section aria-labelledby="s{section_number}">', heading, *elements, "</section>"])


def _table(table: ReportTable) -> str:
    css_classes = [' class="number"' if is_number else "" for is_number in right_aligned(table)]
    caption = f"<caption>{_inline(table.heading)}</caption>" if table.heading else ""
    aria_label = _inline(table.caption or ", ".join(table.columns[:_LABELLED]))
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
# Columns that stand beside each other in the width of a text.
_NARROW_COLUMNS = 6
# Columns that name a table which has no caption.
_LABELLED = 6


def _interactive(table: ReportTable, caption: str) -> str:
    """With what the script needs, which gives each cell the classes and the name of its column."""
    header_cells = []
    for column, is_number in enumerate(right_aligned(table)):
        heading, cells = table.columns[column], [row[column] for row in table.rows]
        applicable = {
            "number": is_number,
            "long": any(isinstance(cell, str) and len(cell) >= _LONG for cell in cells),
            "extra": bool(table.narrow) and heading not in table.narrow,
            "detail": heading in table.detail,
        }
        class_names = " ".join(name for name, applies in applicable.items() if applies)
        css_class = f' class="{class_names}"' if class_names else ""
        choose = " data-choose" if heading in table.choose else ""
        header_cells.append(f'<th scope="col"{css_class}{choose}>{_inline(heading)}</th>')
    linked_column = (
        next((index for index, cell in enumerate(table.rows[0]) if isinstance(cell, str)), -1) if table.rows else -1
    )
    mark_names = list(dict.fromkeys(mark for marks in table.marks for mark in marks))
    body_rows = []
    for row_index, row in enumerate(table.rows):
        row_cells = [f"<td{_value(cell)}>{escape(cell_text(cell))}</td>" for cell in row]
        if table.sections and linked_column >= 0:
            link_text = _inline(cell_text(row[linked_column]))
            row_cells[linked_column] = f'<td><a href="#s{table.sections[row_index]}">{link_text}</a></td>'
        marks = table.marks[row_index] if table.marks else ()
        row_class = f' class="{" ".join(f"m{mark_names.index(mark)}" for mark in marks)}"' if marks else ""
        body_rows.append(f"<tr{row_class}>{''.join(row_cells)}</tr>")
    table_body = "\n".join(body_rows)
    data_marks = f' data-marks="{_inline("|".join(mark_names))}"' if mark_names else ""
    note = f"In print: {interactive.PRINTED_ROWS} of the rows that the page shows."
    print_note = f'<p class="print-note">{note}</p>' if len(table.rows) > interactive.PRINTED_ROWS else ""
    return (
        f'{print_note}<table class="interactive"{" data-opens" if table.opens else ""}{data_marks}>{caption}\n'
        f"<thead><tr>{''.join(header_cells)}</tr></thead>\n<tbody>\n{table_body}\n</tbody></table>"
    )


def _value(cell: Cell) -> str:
    """A number for the script to sort by where its text is rounded."""
    is_rounded = isinstance(cell, float) and math.isfinite(cell) and float(cell_text(cell)) != cell
    return f' data-value="{cell!r}"' if is_rounded else ""


def _figure(chart: Chart) -> str:
    """Drawn twice, for a screen and for a narrow one; the style shows what fits."""
    title = _inline(chart.title)
    numbers_table = ""
    if not isinstance(chart, IntervalPlot):
        numbers_table = f"\n<details><summary>The numbers</summary>{_table(points_table(chart))}</details>"
    return (
        f"<figure><figcaption>{title}</figcaption>\n"
        f'<div class="drawn">{_draw(chart, WIDTH)}</div><div class="drawn narrow">{_draw(chart, NARROW)}</div>'
        f"{numbers_table}</figure>"
    )


def _draw(chart: Chart, width: int) -> str:
    if isinstance(chart, IntervalPlot):
        return interval_svg(chart, width)
    if isinstance(chart, LineChart):
        return line_svg(chart, width)
    return parallel_svg(chart, width) if isinstance(chart, ParallelPlot) else scatter_svg(chart, width)


def _inline(plain_text: str) -> str:
    return escape(" ".join(clean(plain_text).split()))
