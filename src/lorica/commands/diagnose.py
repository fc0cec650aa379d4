"""`lorica diagnose`: why does this adapter misbehave?"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from lorica.commands import base_trial
from lorica.commands.arguments import as_base, as_path, as_report, emit, parser, resolve
from lorica.errors import UsageError
from lorica.reports.write_report import write_report
from lorica.vetting.diagnosis import DiagnosisInputs, diagnose, to_plain, to_report, to_text
from lorica.vetting.diagnosis.diagnose import the_one

_ABOUT = """\
Rank the causes for which an adapter may misbehave, each with the evidence for and against it, and run the experiments
that decide between the best. More is told with the base, and more again with labelled rows.
Exit code: 0 diagnosed, whatever the cause; 12 could not diagnose; 2 for a mistaken command line."""
_EXAMPLES = """\
  lorica diagnose runs/rules/rules
  lorica diagnose adapter --base models/qwen3-4b
  lorica diagnose adapter --base embedded:lorica_tiny --rows examples/rules/posts.csv --task rules --html why.html
  lorica diagnose adapter --base models/a --expected-base models/b models/c
  lorica diagnose adapter --base models/a --rows posts.csv --task rules task.style=structured --answers answers.csv"""


def run(arguments: Sequence[str]) -> int:
    """Diagnose one adapter; the exit code is 0 whatever the cause is."""
    return _run(_parser().parse_args(list(arguments)))


def _run(given: argparse.Namespace) -> int:
    _take_back(given)
    if given.adapter is None:
        raise UsageError("lorica diagnose needs an adapter", fix="lorica diagnose DIR --base B")
    source = the_one(given.adapter)
    inputs = _inputs(given)
    on_step = None if given.json or not sys.stderr.isatty() else lambda asks: print(f"... {asks}", file=sys.stderr)
    found = diagnose(source, inputs, on_step=on_step)
    emit(to_plain(found), as_json=given.json, text=to_text(found))
    if given.html is not None:
        write_report(to_report(found), given.html)
    return 0


def _parser() -> argparse.ArgumentParser:
    asked = parser("diagnose", _ABOUT, _EXAMPLES, overrides=False)
    asked.add_argument(
        "adapter", type=as_path, nargs="?", metavar="DIR", help="the adapter: a folder, a file, an archive"
    )
    asked.add_argument(
        "--base", type=as_base, metavar="B", default="", help="the base it is used with: a folder, embedded:NAME or id"
    )
    asked.add_argument("--rows", type=as_path, metavar="F", help="rows with their gold answers")
    asked.add_argument("--task", default="", metavar="TASK", help="the task of these rows: rules, mcq, saq, qa")
    asked.add_argument("--answers", type=as_path, metavar="F", help="answers or scores that are doubted")
    asked.add_argument(
        "--expected-base",
        type=as_base,
        action="extend",
        nargs="+",
        default=[],
        metavar="OTHER",
        help="bases it may belong to",
    )
    asked.add_argument("--html", type=as_report, metavar="F", help="write the whole diagnosis as a page (.html, .md)")
    asked.add_argument(
        "overrides", nargs="*", metavar="key=value", help="configuration: how the rows are read and asked"
    )
    return asked


def _take_back(given: argparse.Namespace) -> None:
    """`--expected-base A B DIR` takes the adapter, too: give it back, the last one that is no base model."""
    if given.adapter is not None:
        return
    others = [each for each in given.expected_base if "=" not in each and not (Path(each) / "config.json").is_file()]
    there = [each for each in others if Path(each).exists()]
    if there and len(given.expected_base) > 1:
        given.adapter = Path(there[-1])
        given.expected_base.remove(there[-1])


def _inputs(given: argparse.Namespace) -> DiagnosisInputs:
    overrides = [f"task={given.task}"] if given.task else []
    expected = list(given.expected_base)
    more = list(given.overrides)
    # `--expected-base A B key=value` takes all that follows; no base model's name holds an equals sign.
    more += [each for each in expected if "=" in each]
    expected = [each for each in expected if "=" not in each]
    if given.rows is not None and not any(each.split("=")[0] == "task" for each in (*overrides, *more)):
        raise UsageError("--rows needs the task they belong to", fix="add --task rules (or mcq, saq, qa)")
    config = resolve([*overrides, *more]).config
    base = base_trial.locate(given.base, config) if given.base else None
    return DiagnosisInputs(
        base=None if base is None else base.path,
        rows=base_trial.some_rows(given.rows, config) if given.rows is not None else (),
        expected=tuple(base_trial.locate(each, config).path for each in expected),
        answers=given.answers,
        setting=None if base is None else base_trial.setting(config, base, named=given.rows is not None),
        rows_file=str(given.rows) if given.rows is not None else "",
    )
