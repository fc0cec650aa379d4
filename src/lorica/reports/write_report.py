"""Reports to files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from lorica.data.write import atomic_file
from lorica.errors import UsageError
from lorica.reports.html import to_html
from lorica.reports.markdown import to_markdown
from lorica.reports.page import Report

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
