"""`lorica demo`: train, look, route, answer and score on the embedded base model and the shipped examples, offline."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import lorica
from lorica import signals
from lorica.commands import build
from lorica.commands.arguments import as_path, emit, parser, resolve
from lorica.commands.demo_report import demo_dict, demo_report, demo_text
from lorica.commands.demo_tasks import TASKS, DemoTask
from lorica.commands.experiment import ADAPTER, Outcome, run_experiment
from lorica.commands.train_plan import by_subject
from lorica.data.read import read_rows
from lorica.data.write import check_place, write_answers
from lorica.errors import LoricaError, UsageError
from lorica.pipeline.train import TrainJob
from lorica.reports.write_report import write_report
from lorica.routing import GENERAL
from lorica.training.checkpoints import RECORD
from lorica.training.loop import lock_run

# What the demo decides itself; everything else may be overridden.
_OWN = ("task", "input", "output", "run_dir", "data", "adapters")
_LORA = "lora=all_linear"
# The tasks' own settings suit the embedded base; a larger one takes smaller steps and learns in fewer passes.
_LARGER_BASE = ("training=quick", "training.epochs=2", "training.learning_rate=5e-4")


def run(arguments: Sequence[str]) -> int:
    """Run the three tasks and write the report."""
    command = parser(
        "demo",
        "Train adapters on the embedded base model, look at them, route test rows to them, score the answers, and\n"
        "write a report. Needs no network and no GPU; takes a few minutes on two cores.",
        "  lorica demo\n  lorica demo --out /tmp/demo --tasks rules,saq\n  lorica demo model=qwen3_0_6b",
    )
    command.add_argument("--out", type=as_path, default=Path("demo-report"), help="folder of the report (%(default)s)")
    command.add_argument("--tasks", default="rules,mcq,saq", help="which of the tasks, by name (%(default)s)")
    options = command.parse_args(list(arguments))
    for override in options.overrides:
        if override.partition("=")[0].split(".")[0] in _OWN and not override.startswith("task."):
            raise UsageError(f"{override}: the demo decides {', '.join(_OWN)} itself", fix="use --out and --tasks")
    report_path = options.out / "report.html"
    check_place(report_path)
    started = time.perf_counter()
    try:
        outcomes = {demo: run_task(demo, options.out, options.overrides) for demo in choose(options.tasks)}
    except KeyboardInterrupt as stop:
        signals.say(stop, f"what was made is in {options.out}; the same command begins anew", finished=True)
        raise
    seconds = time.perf_counter() - started
    write_report(demo_report(outcomes, seconds), report_path)
    emit(
        demo_dict(outcomes, seconds) | {"report": str(report_path)},
        as_json=options.json,
        text=f"{demo_text(outcomes)}\n\nDone in {seconds:.0f} s. Report: {report_path.resolve()}",
    )
    return 0


def choose(names: str) -> list[DemoTask]:
    """The tasks of a comma-separated list. Raises UsageError for a name that is none."""
    tasks_by_name = {demo_task.name: demo_task for demo_task in TASKS}
    wanted_names = [task_name.strip() for task_name in names.split(",") if task_name.strip()]
    unknown_names = [task_name for task_name in wanted_names if task_name not in tasks_by_name]
    if unknown_names or not wanted_names:
        raise UsageError(f"--tasks={names!r}; allowed: {', '.join(tasks_by_name)}", fix="for example --tasks rules,saq")
    return [tasks_by_name[task_name] for task_name in wanted_names]


def run_task(demo: DemoTask, out: Path, overrides: Sequence[str]) -> Outcome:
    """One task, from its example files to its evaluation; the answers are kept in `out`."""
    examples_file, test_file = (examples_folder() / file_name for file_name in (demo.file, demo.test_file))
    config = resolve((*demo_overrides(demo, overrides), *overrides)).config
    task = build.build_task(config)
    training_rows, test_rows = (list(read_rows(file, task.schemas)) for file in (examples_file, test_file))
    heading = f"== {demo.name}: {demo.question} {len(training_rows)} rows to train on, {len(test_rows)} to test"
    print(f"\n{heading}", file=sys.stderr, flush=True)
    adapters_folder = out / "adapters" / demo.name
    for earlier_record in adapters_folder.glob(f"*/{RECORD}"):  # the demo shows training every time
        with lock_run(earlier_record.parent):
            shutil.rmtree(earlier_record.parent)
    if demo.per_subject:
        # Every test row has the adapter of its subject: `general` would cost as much as all of them and answer nothing.
        subject_jobs = by_subject(training_rows, str(examples_file), adapters_folder)
        train_jobs = [job for job in subject_jobs if job.name != GENERAL]
    else:
        train_jobs = [TrainJob(task.name, training_rows, str(examples_file), adapters_folder / task.name)]
    outcome = run_experiment(config, task, training_rows, test_rows, train_jobs)
    write_answers(out / f"{demo.name}.answers.jsonl", outcome.answers[ADAPTER].values())
    return outcome


def demo_overrides(demo: DemoTask, overrides: Sequence[str]) -> tuple[str, ...]:
    """A task's settings for the base that `overrides` choose."""
    base_name = resolve((f"task={demo.name}", *overrides)).config.model.path
    if base_name.startswith("embedded:"):
        return (f"task={demo.name}", "training=tiny", _LORA, *demo.overrides)
    of_task = (override for override in demo.overrides if override.startswith("task."))
    return (f"task={demo.name}", *_LARGER_BASE, _LORA, *of_task)


def examples_folder() -> Path:
    """The shipped examples: inside the installed package, or at the root of a checkout."""
    package = Path(lorica.__file__).parent
    for candidate_folder in (package / "examples", package.parents[1] / "examples"):
        if (candidate_folder / "rules" / "posts.csv").is_file():
            return candidate_folder
    raise LoricaError(f"the examples are missing from {package}", fix="install lorica again, or run in a checkout")
