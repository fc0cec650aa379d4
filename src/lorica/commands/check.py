"""`lorica check`: do adapters prove themselves, on disk and, with a base model, on it and in its engine?"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from lorica.commands.arguments import (
    Overrides,
    as_base,
    as_output,
    as_path,
    as_report,
    check_not_read,
    emit,
    inform,
    parser,
)
from lorica.commands.row_progress import row_progress
from lorica.errors import UsageError
from lorica.vetting.findings import LEVELS

if TYPE_CHECKING:
    from lorica.commands.check_result import AdapterCheck, CheckResult
    from lorica.vetting.base_checks import BaseCheckResult

_EXAMPLES = """\
  lorica check runs/rules/rules                         files, structure and numbers: no base needed
  lorica check runs/rules/rules --base embedded:lorica_tiny
  lorica check ADAPTER --base DIR --rows held_out.csv --task rules
  lorica check adapters/ --html compare.html --keep-working working.yaml
  lorica check --scores answers.csv --gold rows.csv"""
_ABOUT = """\
Vet adapters: folders, checkpoints, single files, archives, cache entries, or a folder of many.
L0 safe to read, L1 structure and claims, L2 numbers; with --base also L3 (is it this base?) and
L4 (what does it do?). Exit code: 0 trusted, 10 warnings, 11 rejected, 12 unchecked; 2 for a
mistaken command line."""


def run(arguments: Sequence[str]) -> int:
    """Check, print, and return the exit code for CI."""
    options = _parse(arguments)
    if options.scores is not None:
        from lorica.commands.check_scores import check

        return check(options)
    # The matrices are small: threads would only wait for one another. It counts when numpy is imported, which is here,
    # so that a mistaken command line is answered at once.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from lorica.commands import check_result

    result = check_adapters(
        options.paths,
        base=options.base,
        rows_file=options.rows,
        level=options.level,
        process_count=options.jobs,
        deep=options.deep,
        overrides=[*([f"task={options.task}"] if options.task else []), *options.overrides],
    )
    is_single = len(result.adapters) == 1
    text = check_result.one_text(result.adapters[0]) if is_single else check_result.comparison_text(result)
    text += check_result.not_checked_text(result.not_checked)
    if options.base and not options.deep and options.level not in (0, 1, 2):
        inform("the base model itself was not examined (its tokenizer, precision and loss on text): --deep does")
    emit(check_result.check_dict(result) if options.json else None, as_json=options.json, text=text)
    _write(options, result)
    return result.exit_code


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    command = parser("check", _ABOUT, _EXAMPLES, overrides=False)
    command.add_argument(
        "paths", nargs="*", metavar="PATH|key=value", help="adapters; configuration for L4 as key=value"
    )
    base_help = "base model: a folder, embedded:NAME, or a Hugging Face id in the cache"
    command.add_argument("--base", type=as_base, default="", help=base_help)
    command.add_argument("--rows", type=as_path, help="rows to ask; with gold answers the effect is measured")
    command.add_argument("--task", default="", help="the task of the rows: rules, mcq, saq, qa")
    command.add_argument("--level", type=int, choices=sorted(LEVELS), help="the highest level to carry out")
    command.add_argument("--deep", action="store_true", help="examine the base model itself, too: once for each base")
    command.add_argument("--scores", type=as_path, help="judge the health of a column of scores instead")
    command.add_argument("--column", default="", help="the column of --scores, where its name does not tell")
    command.add_argument("--gold", type=as_path, help="rows with gold labels for --scores, by id")
    command.add_argument(
        "--gold-column", default="", metavar="NAME", help="the column of --scores that holds the labels"
    )
    command.add_argument("--html", type=as_report, metavar="FILE", help="write the comparison as a page")
    command.add_argument("--csv", type=as_output, metavar="FILE", help="write the comparison as a table")
    keep_working = "write the adapters that are not rejected, as adapters.paths that config=FILE reads"
    command.add_argument("--keep-working", type=as_output, metavar="FILE", help=keep_working)
    command.add_argument("--jobs", type=int, default=0, help="processes; 0 for one a core")
    options = command.parse_args(list(arguments))
    options.overrides = [argument for argument in options.paths if _is_override(argument)]
    options.paths = [as_path(argument) for argument in options.paths if not _is_override(argument)]
    if options.scores is None and not options.paths:
        raise UsageError("lorica check: no adapter is named", fix="lorica check DIR ..., or --scores FILE")
    _refuse_idle(options)
    return options


def _refuse_idle(options: argparse.Namespace) -> None:
    """Raises UsageError for an option that would change nothing: whoever gave it believes that it did."""
    judges_scores = options.scores is not None
    pages = {"--html": options.html, "--csv": options.csv, "--keep-working": options.keep_working}
    without_effect = [
        ("--base", bool(options.base) and judges_scores, "without --scores"),
        ("--level", (options.level or 0) > 2 and not options.base, "with --base, above level 2"),
        ("--deep", options.deep and (not options.base or (options.level or 4) < 3), "with --base, from level 3 on"),
        ("--rows", options.rows is not None and not options.base, "with --base"),
        ("--task", bool(options.task) and not options.base, "with --base"),
        (
            "key=value",
            bool(options.overrides) and not options.base and options.gold is None,
            "with --base, or with --gold",
        ),
        ("--column", bool(options.column) and not judges_scores, "with --scores"),
        ("--gold", options.gold is not None and not judges_scores, "with --scores"),
        ("--gold-column", bool(options.gold_column) and not judges_scores, "with --scores"),
        *((name, path is not None and judges_scores, "without --scores") for name, path in pages.items()),
        ("--jobs", options.jobs < 0, "with 0 or more"),
        *(
            (f"{name} -", str(path) == "-", "with a file's name; --json writes to the standard output")
            for name, path in pages.items()
        ),
    ]
    outputs = {name: path for name, path in pages.items() if name != "--html"}
    check_not_read(outputs, [options.rows, options.scores, options.gold])
    for option_name, is_idle, proper_use in without_effect:
        if is_idle:
            raise UsageError(f"lorica check: {option_name} has no effect here", fix=f"use it {proper_use}")


def _is_override(argument: str) -> bool:
    """A key=value, unless a file of that very name is there."""
    config_key, equals_sign, _ = argument.partition("=")
    return bool(equals_sign) and "/" not in config_key and not Path(argument).exists()


def check_adapters(
    adapter_paths: Sequence[Path],
    *,
    base: str = "",
    rows_file: Path | None = None,
    level: int | None = None,
    process_count: int = 0,
    deep: bool = False,
    overrides: Overrides = (),
) -> CheckResult:
    """Examine all adapters at these paths and, with a base, try them on it. overrides: how the base is asked.

    level: the highest to carry out. process_count: 0 for one a core. deep: examine the base itself, too. Raises
    AdapterError for a path without an adapter, UsageError for what has no effect without a base, and what finding the
    base and reading the rows raises.
    """
    if not base and (rows_file is not None or overrides or deep or (level or 0) > 2):
        raise UsageError("rows, task, settings and levels above 2 have no effect without a base", fix="name the base")
    from lorica.commands.check_result import rank_adapters
    from lorica.vetting.batch import examine_all
    from lorica.vetting.files.sources import search_sources
    from lorica.vetting.levels import require_unchanged

    sources, not_checked = search_sources(adapter_paths)
    top = 4 if level is None else level
    with ExitStack() as stack:
        with row_progress(len(sources), "adapters") as advance:
            examinations = examine_all(
                sources, stack, max_level=min(top, 2), jobs=process_count, keep_details=bool(base), on_done=advance
            )
        on_base: Sequence[BaseCheckResult | None] = [None] * len(examinations)
        if base and top > 2:
            from lorica.commands.base_trial import check_on_base

            examinations, on_base = check_on_base(
                examinations, base, rows_file, overrides, highest_level=top, deep=deep
            )
            examinations = [require_unchanged(examination) for examination in examinations]
    return rank_adapters(examinations, on_base, not_checked)


def _write(options: argparse.Namespace, result: CheckResult) -> None:
    """The files that were asked for, each whole or not at all."""
    from lorica.commands import check_result
    from lorica.data.write import atomic_file
    from lorica.reports.write_report import write_csv, write_report

    if options.html is not None:
        write_report(check_result.page(result), options.html)
    if options.csv is not None:
        table = check_result.comparison(result)
        write_csv(options.csv, table.columns, table.rows, unguarded=("levels",))
    if options.keep_working is not None:
        working = [adapter for adapter in result.ranked if adapter.status in ("trusted", "warnings")]
        if not working:
            # A file without adapters would be read as "ask the base model alone".
            inform(f"no adapter is left to keep: {options.keep_working} was not written")
            return
        with atomic_file(options.keep_working) as output_file:
            output_file.write(_as_config(working).encode("utf-8"))


def _as_config(adapters: Sequence[AdapterCheck]) -> str:
    """A configuration file with their paths: names and paths in JSON's quoting, which is YAML's, too.

    One that only engine=transformers applies is a comment: it would stop the native engine, and with it all others. One
    that answers on an engine of its own says which model to name for it.
    """
    config_lines = []
    for adapter in adapters:
        specimen, name = adapter.examination.specimen, json.dumps(adapter.name)
        adapter_config = None if specimen is None else specimen.config
        path_entry = f"{name}: {json.dumps(str(adapter.examination.source.path.resolve()))}"
        classifies = adapter_config is not None and adapter_config.task_type == "SEQ_CLS"  # on engine=encoder
        if adapter_config is not None and adapter_config.unsupported() and not classifies:
            config_lines.append(f"    # {path_entry}  # needs engine=transformers")
            continue
        own_engine = "" if specimen is None else specimen.engine_name
        by_model = f", answers with model={own_engine} adapters.use={name}" if own_engine else ""
        config_lines.append(f"    {path_entry}  # {adapter.status}{by_model}")
    any_usable = any(not config_line.startswith("    #") for config_line in config_lines)
    return "\n".join(["adapters:", "  paths:" + ("" if any_usable else " {}"), *config_lines, ""])
