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


def write_report(report: Report, path: Path) -> None:
    """Write the report in the format that the suffix names, whole or not at all.

    Raises UsageError for another suffix and DataError when the place cannot be written.
    """
    path = Path(path)
    render = FORMATS.get(path.suffix.lower())
    if render is None:
        raise UsageError(f"{path}: a report ends in {', '.join(FORMATS)}, not {path.suffix or 'nothing'!r}")
    content = render(report).encode("utf-8")
    with atomic_file(path) as file:
        file.write(content)
