"""`lorica check`: do adapters prove themselves, on disk and, with a base model, on it and in its engine?"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from lorica.commands.arguments import as_base, as_output, as_path, as_report, emit, inform, parser
from lorica.commands.progress import row_progress
from lorica.errors import UsageError
from lorica.vetting.findings import EXIT_CODES, LEVELS

if TYPE_CHECKING:
    from lorica.reports.page import Cell
    from lorica.vetting.base_checks import BaseCheckResult
    from lorica.vetting.levels import Examination
    from lorica.vetting.ranking import RankedAdapter

_EXAMPLES = """\
  lorica check runs/rules/rules                         files, structure and numbers: no base needed
  lorica check runs/rules/rules --base embedded:lorica_tiny
  lorica check ADAPTER --base DIR --rows held_out.csv --task rules
  lorica check adapters/ --html compare.html --keep-working working.yaml
  lorica check --scores answers.csv --gold rows.csv"""
_ABOUT = """\
Vet adapters: folders, checkpoints, single files, archives, cache entries, or a folder of many.
L0 safe to read, L1 structure and claims, L2 numbers; with --base also L3 (is it this base?) and
L4 (what does it do?). Exit code: 0 trusted, 10 warned, 11 rejected, 12 could not check; 2 for a
mistaken command line."""


def run(arguments: Sequence[str]) -> int:
    """Check, print, and return the exit code for CI."""
    return _run(_parse(arguments))


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    asked = parser("check", _ABOUT, _EXAMPLES, overrides=False)
    asked.add_argument("paths", nargs="*", metavar="PATH|key=value", help="adapters; configuration for L4 as key=value")
    asked.add_argument(
        "--base",
        type=as_base,
        default="",
        help="base model: a folder, embedded:NAME, or a Hugging Face id in the cache",
    )
    asked.add_argument("--rows", type=as_path, help="rows to ask; with gold answers the effect is measured")
    asked.add_argument("--task", default="", help="the task of the rows: rules, mcq, saq, qa")
    asked.add_argument("--level", type=int, choices=sorted(LEVELS), help="the highest level to carry out")
    asked.add_argument("--scores", type=as_path, help="judge the health of a column of scores instead")
    asked.add_argument("--column", default="", help="the column of --scores, where its name does not tell")
    asked.add_argument("--gold", type=as_path, help="rows with gold labels for --scores, by id")
    asked.add_argument("--gold-column", default="", metavar="NAME", help="the column of --scores that holds the labels")
    asked.add_argument("--html", type=as_report, metavar="FILE", help="write the comparison as a page")
    asked.add_argument("--csv", type=as_output, metavar="FILE", help="write the comparison as a table")
    kept = "write the adapters that are not rejected, as adapters.paths that config=FILE reads"
    asked.add_argument("--keep-working", type=as_output, metavar="FILE", help=kept)
    asked.add_argument("--jobs", type=int, default=0, help="processes; 0 for one a core")
    given = asked.parse_args(list(arguments))
    given.overrides = [each for each in given.paths if _is_override(each)]
    given.paths = [as_path(each) for each in given.paths if not _is_override(each)]
    if given.scores is None and not given.paths:
        raise UsageError("lorica check: no adapter is named", fix="lorica check DIR ..., or --scores FILE")
    _refuse_idle(given)
    return given


def _refuse_idle(given: argparse.Namespace) -> None:
    """Raises UsageError for an option that would change nothing: whoever gave it believes that it did."""
    scores = given.scores is not None
    idle = [
        ("--base", bool(given.base) and scores, "without --scores"),
        ("--level", (given.level or 0) > 2 and not given.base, "with --base, above level 2"),
        ("--rows", given.rows is not None and not given.base, "with --base"),
        ("--task", bool(given.task) and not given.base, "with --base"),
        ("key=value", bool(given.overrides) and not given.base and given.gold is None, "with --base, or with --gold"),
        ("--column", bool(given.column) and not scores, "with --scores"),
        ("--gold", given.gold is not None and not scores, "with --scores"),
        ("--gold-column", bool(given.gold_column) and not scores, "with --scores"),
        ("--html", given.html is not None and scores, "without --scores"),
        ("--csv", given.csv is not None and scores, "without --scores"),
        ("--keep-working", given.keep_working is not None and scores, "without --scores"),
        ("--jobs", given.jobs < 0, "with 0 or more"),
        *(
            (option, str(path) == "-", "with a file's name; --json writes to the standard output")
            for option, path in (
                ("--html -", given.html),
                ("--csv -", given.csv),
                ("--keep-working -", given.keep_working),
            )
        ),
    ]
    for option, wrong, meant in idle:
        if wrong:
            raise UsageError(f"lorica check: {option} has no effect here", fix=f"use it {meant}")


def _is_override(argument: str) -> bool:
    """A key=value, unless a file of that very name is there."""
    key, equals, _ = argument.partition("=")
    return bool(equals) and "/" not in key and not Path(argument).exists()


def _run(given: argparse.Namespace) -> int:
    if given.scores is not None:
        from lorica.commands.check_scores import check

        return check(given)
    # The matrices are small: threads would only wait for one another. It counts when numpy is imported, which is here,
    # so that a mistaken command line is answered at once.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from lorica.vetting.batch import examine_all
    from lorica.vetting.files.sources import search_sources
    from lorica.vetting.levels import require_unchanged

    sources, passed = search_sources(given.paths)
    top = 4 if given.level is None else given.level
    with ExitStack() as stack:
        with row_progress(len(sources), "adapters") as advance:
            found = examine_all(
                sources, stack, max_level=min(top, 2), jobs=given.jobs, keep_details=bool(given.base), on_done=advance
            )
        tried: list[BaseCheckResult | None] = [None] * len(found)
        if given.base and top > 2:
            from lorica.commands.check_base import try_on_base

            found, tried = try_on_base(found, given, top)
            found = [require_unchanged(each) for each in found]
    return _tell(given, found, tried, passed)


def _tell(
    given: argparse.Namespace,
    found: Sequence[Examination],
    tried: Sequence[BaseCheckResult | None],
    passed: Sequence[Path],
) -> int:
    """Print and write the result; returns the worst adapter's exit code. passed: folders that were not looked at."""
    from lorica.commands import check_text
    from lorica.vetting.ranking import Standing, rank

    standings = [
        Standing(
            verdict=each.verdict,
            gain=None if trial is None else trial.gain,
            metric=None if trial is None else trial.metric,
        )
        for each, trial in zip(found, tried, strict=True)
    ]
    places = rank(standings)
    code = max(EXIT_CODES[each.verdict.status] for each in standings)
    text = check_text.one(found[0], tried[0]) if len(found) == 1 else check_text.several(found, tried, places)
    text += check_text.passed_over(passed)
    result = {
        "exit_code": code,
        "adapters": [check_text.plain(*both) for both in zip(found, tried, strict=True)] if given.json else [],
        "ranking": [{"place": each.position, "name": each.name, "above": each.above} for each in places],
        "runs": [{"run": run, "members": names} for run, names in check_text.runs_of(found)],
        "not_looked_at": [str(each) for each in passed],
    }
    emit(result, as_json=given.json, text=text)
    _write(given, found, tried, places)
    return code


def _write(
    given: argparse.Namespace,
    found: Sequence[Examination],
    tried: Sequence[BaseCheckResult | None],
    places: Sequence[RankedAdapter],
) -> None:
    """The files that were asked for, each whole or not at all."""
    from lorica.commands import check_text
    from lorica.data.write import atomic_file
    from lorica.reports.write_report import write_report

    if given.html is not None:
        write_report(check_text.page(found, tried, places), given.html)
    if given.csv is not None:
        table = check_text.comparison(found, tried, places)
        text = io.StringIO()
        rows = [[_tame(cell, column) for cell, column in zip(row, table.columns, strict=True)] for row in table.rows]
        csv.writer(text, lineterminator="\n").writerows([table.columns, *rows])
        with atomic_file(given.csv) as file:
            file.write(text.getvalue().encode("utf-8"))
    if given.keep_working is not None:
        kept = _kept(found, places)
        if not kept:
            # A file without adapters would be read as "ask the base model alone".
            inform(f"no adapter is left to keep: {given.keep_working} was not written")
            return
        with atomic_file(given.keep_working) as file:
            file.write(_working(kept).encode("utf-8"))


def _tame(cell: Cell, column: str) -> Cell:
    """A cell that no spreadsheet takes for a formula; the marks of the levels are ours and stay."""
    risky = isinstance(cell, str) and column != "levels" and cell.startswith(("=", "+", "-", "@", "\t", "\r"))
    return f"'{cell}" if risky else cell


def _kept(found: Sequence[Examination], places: Sequence[RankedAdapter]) -> list[Examination]:
    """The adapters that are not rejected, best first."""
    by_name = {each.source.name: each for each in found}
    ranked = [by_name[place.name] for place in places]
    return [each for each in ranked if EXIT_CODES[each.verdict.status] < EXIT_CODES["rejected"]]


def _working(kept: Sequence[Examination]) -> str:
    """A configuration file with their paths: names and paths in JSON's quoting, which is YAML's, too.

    One that only engine=transformers applies is a comment: it would stop the native engine, and with it all others.
    """
    lines = []
    for each in kept:
        config = None if each.specimen is None else each.specimen.config
        more = config is not None and bool(config.unsupported())
        entry = f"{json.dumps(each.source.name)}: {json.dumps(str(each.source.path.resolve()))}"
        lines.append(f"    # {entry}  # needs engine=transformers" if more else f"    {entry}  # {each.verdict.status}")
    usable = any(not line.startswith("    #") for line in lines)
    return "\n".join(["adapters:", "  paths:" + ("" if usable else " {}"), *lines, ""])
