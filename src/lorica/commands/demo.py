"""`lorica demo`: train, look, route, answer and score on the embedded base model and the shipped examples, offline; and
the same figures as a page, as text and as JSON."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lorica
from lorica import signals
from lorica.commands import build
from lorica.commands.arguments import as_path, emit, parser, resolve
from lorica.commands.eval_report import evaluation_dict, metric_title
from lorica.commands.experiment import ADAPTER, Outcome, run_experiment
from lorica.commands.train_plan import by_subject
from lorica.data.read import read_rows
from lorica.data.write import check_place, write_answers
from lorica.errors import LoricaError, UsageError
from lorica.metrics.bootstrap import Estimate
from lorica.pipeline.evaluate import Evaluation
from lorica.pipeline.train import TrainJob
from lorica.reports.page import Cell, IntervalPlot, IntervalPoint, Line, LineChart, Report, ReportTable, Section
from lorica.reports.text_table import plain_table
from lorica.reports.write_report import write_report
from lorica.routing import GENERAL
from lorica.training.checkpoints import RECORD
from lorica.training.loop import lock_run

# What the demo decides itself; everything else may be overridden.
_OWN = ("task", "input", "output", "run_dir", "data", "adapters")
_LORA = "lora=all_linear"
# The tasks' own settings suit the embedded base; a larger one takes smaller steps and learns in fewer passes.
_LARGER_BASE = ("training=quick", "training.epochs=2", "training.learning_rate=5e-4")


@dataclass(frozen=True)
class DemoTask:
    """One of the demo's tasks: what it asks, the file it trains on, the file its figures come from, and what differs
    from the common settings."""

    name: str
    question: str
    file: str
    test_file: str
    overrides: tuple[str, ...] = ()
    per_subject: bool = False


# Chosen on rows of the training files and of the validation files; the test files had no say (examples/README.md).
TASKS = (
    DemoTask(
        "rules",
        "Does this post break this community rule?",
        "rules/posts.csv",
        "rules/test.csv",
        overrides=("training.epochs=6",),
    ),
    DemoTask(
        "mcq",
        "Which form of the verb is right?",
        "mcq/questions.jsonl",
        "mcq/test.jsonl",
        overrides=("task.method=likelihood", "training.batch_size=8"),
    ),
    DemoTask(
        "saq",
        "What does the message say? Answer in a word.",
        "saq/questions.jsonl",
        "saq/test.jsonl",
        overrides=("training.batch_size=8", "training.learning_rate=2e-3"),
        per_subject=True,
    ),
)

Outcomes = Mapping[DemoTask, Outcome]

# What guessing gives, where a metric has such a value.
_CHANCE = {"roc_auc": 0.5}


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
    write_report(_report(outcomes, seconds), report_path)
    emit(
        _dict(outcomes, seconds) | {"report": str(report_path)},
        as_json=options.json,
        text=f"{plain_table(_results(outcomes))}\n\n{plain_table(_ways(outcomes))}\n\n"
        f"Done in {seconds:.0f} s. Report: {report_path.resolve()}",
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


def _report(outcomes: Outcomes, seconds: float) -> Report:
    return Report(
        title="Lorica demo",
        summary=(
            "LoRA adapters trained on the shipped examples, looked at, routed to, and scored on rows they never saw, "
            f"in {seconds:.0f} seconds. Brackets are 95% bootstrap intervals."
        ),
        sections=(
            Section("All results", tables=(_results(outcomes),)),
            *(_section(demo, outcome) for demo, outcome in outcomes.items()),
        ),
        footer="The base model is tiny on purpose: the demo shows the work, not the state of the art.",
    )


def _dict(outcomes: Outcomes, seconds: float) -> dict[str, Any]:
    return {
        "seconds": seconds,
        "tasks": {
            demo.name: {
                "train_rows": len(outcome.train),
                "systems": {
                    system_name: evaluation_dict(evaluation) for system_name, evaluation in outcome.systems.items()
                },
                "gain": outcome.gain,
                "rows_per_second": outcome.rows_per_second,
                "routes": outcome.routes,
                "adapters": outcome.trained,
                "checks": outcome.checks,
            }
            for demo, outcome in outcomes.items()
        },
    }


def _results(outcomes: Outcomes) -> ReportTable:
    table_rows: list[tuple[Cell, ...]] = []
    system_names = tuple(next(iter(outcomes.values())).systems)
    for demo, outcome in outcomes.items():
        for metric_name in outcome.systems[ADAPTER].metrics:
            estimates = [outcome.systems[system_name].metrics[metric_name] for system_name in system_names]
            column_title = metric_title(outcome.systems[ADAPTER], metric_name)
            table_rows.append((demo.name, column_title, *map(str, estimates), estimates[0].n))
    return ReportTable(("task", "metric", *system_names, "n"), tuple(table_rows))


def _ways(outcomes: Outcomes) -> ReportTable:
    rows = tuple(
        (
            demo.name,
            _gain_text(outcome.gain),
            f"{outcome.rows_per_second:.0f}",
            ", ".join(f"{adapter_name} {row_count}" for adapter_name, row_count in outcome.routes.items()),
            _counts(outcome.systems[ADAPTER]),
        )
        for demo, outcome in outcomes.items()
    )
    return ReportTable(("task", "adapter - base", "rows/s", "rows by adapter", "rows by parse stage and flag"), rows)


def _section(demo: DemoTask, outcome: Outcome) -> Section:
    main_metric = next(iter(outcome.systems[ADAPTER].metrics))
    gain, estimates = outcome.gain, {name: system.metrics[main_metric] for name, system in outcome.systems.items()}
    return Section(
        heading=f"{demo.name}: {demo.question}",
        text=(
            f"{len(outcome.train)} rows to train on, {gain.n} to test. The adapter changes {main_metric} by "
            f"{_gain_text(gain)} over the base model on the same rows. "
            f"{outcome.rows_per_second:.0f} rows per second."
        ),
        tables=(_adapters(outcome), _stages(outcome), _samples(outcome)),
        charts=(
            IntervalPlot(
                title=metric_title(outcome.systems[ADAPTER], main_metric),
                points=tuple(IntervalPoint(name, item.value, item.low, item.high) for name, item in estimates.items()),
                reference=_CHANCE.get(main_metric),
                reference_label="chance",
            ),
            _losses(outcome),
        ),
        notes=tuple(
            f"{system_name}: {check.question} {'yes' if check.passed else 'NO'} ({check.figures})"
            for system_name, checks in outcome.checks.items()
            for check in checks
        ),
    )


def _adapters(outcome: Outcome) -> ReportTable:
    table_rows = tuple(
        (
            adapter_name,
            train_result.steps,
            train_result.base_loss,
            train_result.trained_loss,
            train_result.tokens,
            train_result.seconds,
            outcome.routes[adapter_name],
        )
        for adapter_name, train_result in outcome.trained.items()
    )
    columns = ("adapter", "updates", "loss before", "loss after", "tokens", "seconds", "rows routed to it")
    return ReportTable(columns, table_rows, caption="Adapters (loss in nats per answer token on validation rows)")


def _stages(outcome: Outcome) -> ReportTable:
    rows = tuple((system_name, _counts(evaluation)) for system_name, evaluation in outcome.systems.items())
    return ReportTable(("system", "rows by parse stage and flag"), rows)


def _gain_text(gain: Estimate) -> str:
    return f"{gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]"


def _counts(evaluation: Evaluation) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted({**evaluation.stages, **evaluation.flags}.items()))


def _samples(outcome: Outcome) -> ReportTable:
    answers = [outcome.answers[ADAPTER][row.id] for row in outcome.held[:8]]
    rows = tuple(
        (answer.id, outcome.texts[answer.id], outcome.gold[answer.id], answer.answer, answer.score, answer.adapter)
        for answer in answers
    )
    return ReportTable(("row", "text", "gold", "answer", "score", "adapter"), rows, caption="The first test rows")


def _losses(outcome: Outcome) -> LineChart:
    chart_lines = []
    for adapter_name, train_result in outcome.trained.items():
        entries = [json.loads(line) for line in (train_result.folder / "log.jsonl").read_text("utf-8").splitlines()]
        loss_points = tuple((float(entry["step"]), float(entry["loss"])) for entry in entries if "loss" in entry)
        chart_lines.append(Line(adapter_name, loss_points))
    return LineChart("Training loss", tuple(chart_lines), x_label="update", y_label="nats per answer token")
