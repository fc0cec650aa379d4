"""`lorica adapt`: training at test time, from the labelled examples of the rows to answer and from confident scores."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lorica.commands.adapt_plan import AdaptPlan, check_former, make_plan
from lorica.commands.adapt_result import AdaptResult, adapt_dict, adapt_text
from lorica.commands.adapt_run import AdaptRun
from lorica.commands.adapt_stages import STAGES, folder_bytes
from lorica.commands.arguments import emit, going_on, inform, parser, resolve
from lorica.commands.infer import infer_file
from lorica.commands.pages.adapt_page import adapt_page
from lorica.commands.pages.page_files import add_html_option, write_pages
from lorica.commands.run_log import logged_messages, recorded_configuration, run_file
from lorica.config.compose import Resolved
from lorica.data.write import atomic_file
from lorica.errors import NoGainError
from lorica.runs.run_folder import RunFolder
from lorica.runs.run_record import RunRecord, record_json

RESULT_NAME = "adapt.json"
_EXAMPLES = """  lorica adapt task=rules input=test.csv train=train.csv run_dir=runs/adapt output=answers.csv
  lorica adapt task=rules input=test.csv adapt.rounds=0 training=tiny lora=all_linear
  lorica adapt task=rules input=test.csv train=train.csv adapt.estimate=require --html adapt.html
  lorica adapt task=rules input=test.csv train=train.csv adapt.drill=flip_1 run_dir=runs/drill"""


def run(arguments: Sequence[str]) -> int:
    """Adapt, and say what came of it."""
    options = _parse(arguments)
    result = adapt_rows(
        resolve(options.overrides),
        words=arguments,
        resume_command=going_on("adapt", arguments, "training.resume=true"),
        html_path=options.html,
    )
    emit(adapt_dict(result), as_json=options.json, text=adapt_text(result, options.overrides))
    return 0


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    command = parser(
        "adapt",
        "Train at test time. The labelled examples that the rows of `input` bring along become training rows, beside\n"
        "those of `train`; then confident scores become labels, for some rounds, each of which guards may roll back.\n"
        "With `train` the gain is estimated first, by leaving out one rule after the other. The adapter ends in\n"
        "run_dir/TASK, with a ledger of every label; docs/adapt.md says what all that means. Interrupted? Add\n"
        "training.resume=true to the same command.",
        _EXAMPLES,
    )
    add_html_option(command)
    namespace: argparse.Namespace = command.parse_args(list(arguments))
    return namespace


def adapt_rows(
    resolved: Resolved, *, words: Sequence[str] = (), resume_command: str, html_path: Path | None = None
) -> AdaptResult:
    """Adapt to the rows of the configured `input`, and record the run in its folder.

    words: of the command line; () from Python. resume_command: what goes on after an interruption; whatever raises once
    something is saved carries it as a note. Raises DataError for rows that teach nothing, ResumeError for a folder with
    another run, TrainingError where adapt.estimate=require and no gain is expected, and what training raises.
    """
    started = time.perf_counter()
    plan = make_plan(resolved)
    record = RunRecord(
        command="adapt",
        **recorded_configuration(resolved),
        manifest=plan.manifest,
        inputs=[run_file(role, path, rows=count) for role, path, count in plan.inputs],
    )
    resume = check_former(plan)
    with (
        RunFolder.create(plan.folder, record, words=words, resume=resume) as run_log,
        logged_messages(run_log),
    ):
        try:
            adapt_run = AdaptRun(plan, run_log)
            result = adapt_run.run()
            result = _answered(plan, result, resume_command)
        except BaseException as error:
            if any(plan.folder.glob("stages/*")) and not isinstance(error, NoGainError):
                error.add_note(f"what was trained is kept in {plan.folder}; go on: {resume_command}")
            raise
        result = replace(
            result,
            seconds=round(time.perf_counter() - started, 3),
            disk_bytes=folder_bytes(plan.folder),
            stages_bytes=folder_bytes(plan.folder / STAGES),
        )
        _record(run_log, result, html_path)
    inform(f"run: {plan.folder}")
    return result


def _answered(plan: AdaptPlan, result: AdaptResult, resume_command: str) -> AdaptResult:
    """The rows of the input, answered with the adapted model where an `output` is named."""
    config = plan.resolved.config
    if not config.output:
        return result
    answering = replace(
        config,
        run_dir="",
        train="",
        adapters=replace(config.adapters, dir="", paths={plan.task.name: str(result.adapter)}, use=plan.task.name),
        inference=replace(config.inference, resume=config.training.resume),
    )
    answers = infer_file(replace(plan.resolved, config=answering), resume_command=resume_command)
    return replace(result, output=answers.output)


def _record(run_log: RunFolder, result: AdaptResult, html_path: Path | None) -> None:
    """Metrics, the result as JSON, and the page."""
    with atomic_file(run_log.path / RESULT_NAME) as result_file:
        result_file.write(record_json(adapt_dict(result)))
    estimate = result.estimate
    metrics = {} if estimate is None else {"expected gain": estimate.gain, "gain by shuffled labels": estimate.control}
    metrics |= {} if result.measured is None else {"measured gain": result.measured}
    main = next((name for name in ("measured gain", "expected gain") if name in metrics), "")
    run_log.write_metrics(metrics, main=main)
    reports = write_pages(lambda: (adapt_page(result), None), html_path, run_log)
    outputs = [] if result.output is None else [run_file("answers", result.output, rows=result.rows)]
    run_log.update(rows=result.rows, outputs=[*outputs, *reports], summary={"stopped": result.stopped})
