"""`lorica diagnose`: why does this adapter misbehave?"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from lorica.commands import base_trial
from lorica.commands.arguments import (
    Overrides,
    as_base,
    as_path,
    as_report,
    emit,
    names_task,
    parser,
    resolve,
    with_base,
)
from lorica.errors import UsageError
from lorica.gguf.file_header import is_gguf
from lorica.reports.write_report import write_report
from lorica.vetting.diagnosis import Diagnosis, DiagnosisInputs, diagnose, to_plain, to_report, to_text
from lorica.vetting.diagnosis.diagnose import find_adapter
from lorica.vetting.measure.model_session import ModelSession

_ABOUT = """\
Rank the causes for which an adapter may misbehave, each with the evidence for and against it, and run the experiments
that decide between the best. More is told with the base, and more again with labelled rows.
Exit code: 0 diagnosed, whatever the cause; 12 could not diagnose; 2 for a mistaken command line."""
_EXAMPLES = """\
  lorica diagnose runs/rules/rules
  lorica diagnose adapter --base models/qwen3-4b
  lorica diagnose adapter --base embedded:lorica_tiny --rows examples/rules/test.csv --task rules --html why.html
  lorica diagnose adapter --base models/a --expected-base models/b models/c
  lorica diagnose adapter --base models/a --rows posts.csv --task rules task.style=structured --answers answers.csv"""


def run(arguments: Sequence[str]) -> int:
    """Diagnose one adapter; the exit code is 0 whatever the cause is."""
    options = _parse(arguments)
    on_step = None if options.json or not sys.stderr.isatty() else lambda step: print(f"... {step}", file=sys.stderr)
    diagnosis = diagnose_adapter(
        options.adapter,
        base=options.base,
        rows_file=options.rows,
        expected_bases=options.expected_base,
        answers=options.answers,
        overrides=options.overrides,
        on_step=on_step,
    )
    emit(to_plain(diagnosis), as_json=options.json, text=to_text(diagnosis))
    if options.html is not None:
        write_report(to_report(diagnosis), options.html)
    return 0


def diagnose_adapter(
    adapter: Path,
    *,
    base: str = "",
    rows_file: Path | None = None,
    expected_bases: Sequence[str] = (),
    answers: Path | None = None,
    overrides: Overrides = (),
    on_step: Callable[[str], None] | None = None,
) -> Diagnosis:
    """Diagnose one adapter with what is given. overrides: how the rows are read and asked.

    Raises AdapterError for a path without an adapter, with several, or with a model of its own, UsageError for rows
    that nothing would read, and what finding a base and reading the rows raises.
    """
    if rows_file is not None and not base and answers is None:
        raise UsageError(f"{rows_file}: rows have no effect without a base or answers", fix="name the base")
    adapter_source = find_adapter(adapter)
    task_named = names_task(overrides, rows_file) and rows_file is not None
    config = resolve(with_base(overrides, base) if base else overrides).config
    base_model = base_trial.locate(base, config) if base else None
    diagnosis_inputs = DiagnosisInputs(
        base=None if base_model is None else base_model.path,
        rows=base_trial.some_rows(rows_file, config) if rows_file is not None else (),
        expected=tuple(base_trial.locate(expected_base, config).path for expected_base in expected_bases),
        answers=answers,
        session=None
        if base_model is None
        else ModelSession(base_trial.setting(config, base_model, task_named=task_named)),
        rows_file=str(rows_file) if rows_file is not None else "",
    )
    return diagnose(adapter_source, diagnosis_inputs, on_step=on_step)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    command = parser("diagnose", _ABOUT, _EXAMPLES, overrides=False)
    command.add_argument(
        "adapter", type=as_path, nargs="?", metavar="DIR", help="the adapter: a folder, a file, an archive"
    )
    command.add_argument(
        "--base", type=as_base, metavar="B", default="", help="the base it is used with: a folder, embedded:NAME or id"
    )
    command.add_argument("--rows", type=as_path, metavar="F", help="rows with their gold answers")
    command.add_argument("--task", default="", metavar="TASK", help="the task of these rows: rules, mcq, saq, qa")
    command.add_argument("--answers", type=as_path, metavar="F", help="answers or scores that are doubted")
    command.add_argument(
        "--expected-base",
        type=as_base,
        action="extend",
        nargs="+",
        default=[],
        metavar="OTHER",
        help="bases it may belong to",
    )
    command.add_argument("--html", type=as_report, metavar="F", help="write the whole diagnosis as a page (.html, .md)")
    command.add_argument(
        "overrides", nargs="*", metavar="key=value", help="configuration: how the rows are read and asked"
    )
    options = command.parse_args(list(arguments))
    _take_back(options)
    if options.adapter is None:
        raise UsageError("lorica diagnose needs an adapter", fix="lorica diagnose DIR --base B")
    return options


def _take_back(options: argparse.Namespace) -> None:
    """`--expected-base A B` takes all words that follow: give back what is no base model."""
    expected_words, task_overrides = options.expected_base, [f"task={options.task}"] if options.task else []
    # No base model's name holds an equals sign.
    options.overrides = [*task_overrides, *options.overrides, *(word for word in expected_words if "=" in word)]
    options.expected_base = [word for word in expected_words if "=" not in word]
    if options.adapter is None and len(expected_words) > 1:
        no_base = [
            word
            for word in options.expected_base
            if not (Path(word) / "config.json").is_file() and not is_gguf(Path(word))
        ]
        existing_paths = [word for word in no_base if Path(word).exists()]
        if existing_paths:
            options.adapter = Path(existing_paths[-1])
            options.expected_base.remove(existing_paths[-1])
