"""Reports and their tables to files."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path

from lorica.data.write import atomic_file
from lorica.errors import UsageError
from lorica.reports.html import to_html
from lorica.reports.markdown import to_markdown
from lorica.reports.page import Cell, Report

FORMATS: dict[str, Callable[[Report], str]] = {".html": to_html, ".htm": to_html, ".md": to_markdown}


def write_report(report: Report, report_path: Path) -> None:
    """Write the report in the format that the suffix names, whole or not at all.

    Raises UsageError for another suffix and DataError when the place cannot be written.
    """
    report_path = Path(report_path)
    render = FORMATS.get(report_path.suffix.lower())
    if render is None:
        raise UsageError(
            f"{report_path}: a report ends in {', '.join(FORMATS)}, not {report_path.suffix or 'nothing'!r}"
        )
    content = render(report).encode("utf-8")
    with atomic_file(report_path) as report_file:
        report_file.write(content)


def write_csv(
    csv_path: Path, columns: Sequence[str], rows: Iterable[Sequence[Cell]], *, unguarded: Collection[str] = ()
) -> None:
    """Write a table as CSV, whole or not at all; None and nan are empty, and what a spreadsheet would run is spelled so
    that it shows it. unguarded: columns of marks of ours, which stay as they are. Raises DataError."""
    with atomic_file(csv_path) as csv_file:
        lines = io.TextIOWrapper(csv_file, "utf-8", newline="", write_through=True)
        writer = csv.writer(lines, lineterminator="\n")
        writer.writerow(columns)
        is_guarded = [column not in unguarded for column in columns]
        writer.writerows(map(_csv_cell, row, is_guarded) for row in rows)
        lines.detach()


def _csv_cell(cell: Cell, is_guarded: bool) -> Cell:
    if isinstance(cell, float) and math.isnan(cell):
        return None
    is_formula = is_guarded and isinstance(cell, str) and cell.startswith(("=", "+", "-", "@", "\t", "\r"))
    return f"'{cell}" if is_formula else cell
