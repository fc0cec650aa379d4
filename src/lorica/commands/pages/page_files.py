"""Where a command's page goes, with the table of all rows beside it; and files as pages name them."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from lorica.commands.arguments import as_report, inform
from lorica.commands.run_log import run_file
from lorica.data.digest import file_digest
from lorica.reports.page import Cell, Report
from lorica.reports.write_report import write_report
from lorica.runs.run_folder import RunFolder
from lorica.runs.run_record import REPORT_NAME, REPORT_ROWS_NAME, RunFile


def add_html_option(command: argparse.ArgumentParser, *, beside: str = "") -> None:
    """`--html FILE`. beside: what is written as CSV beside the page."""
    also = f", and {beside} as FILE.csv beside it" if beside else ""
    command.add_argument("--html", type=as_report, metavar="FILE", help=f"write a page (.html or .md){also}")


WriteTable = Callable[[Path], None]
"""Writes all rows of a page to a file of CSV."""


def write_pages(
    make_page: Callable[[], tuple[Report, WriteTable | None]], html_path: Path | None, run_log: RunFolder | None
) -> list[RunFile]:
    """Make the page if it goes anywhere, and write it with its table to the file of `--html` (the table to `FILE.csv`:
    blend.html.csv, for blend.csv may be answers) and into the run's folder; what of it is an output of the run. Raises
    DataError."""
    targets = [] if html_path is None else [(html_path, html_path.with_name(f"{html_path.name}.csv"))]
    if run_log is not None:
        targets.append((run_log.path / REPORT_NAME, run_log.path / REPORT_ROWS_NAME))
    if not targets:
        return []
    page, write_table = make_page()
    outputs = []
    for path, table_path in targets:
        written = [path]
        write_report(page, path)
        if write_table is not None:
            written.append(table_path)
            write_table(table_path)
        if path == html_path:
            outputs += [run_file("report", written_path) for written_path in written]
            inform(f"report: {', its rows: '.join(map(str, written))}")
    return outputs


def file_facts(paths: Sequence[Path]) -> list[tuple[str, Cell]]:
    """Files with their digests."""
    return [(str(path), file_digest(path)) for path in paths]
