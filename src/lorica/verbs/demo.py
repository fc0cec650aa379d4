"""`lorica demo`: train, look, route, answer and score on the embedded base model and the shipped examples, offline."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import lorica
from lorica.config.schema import Config
from lorica.data.read import read_rows
from lorica.data.split import split
from lorica.data.write import write_answers
from lorica.engines.base import Engine
from lorica.errors import LoricaError
from lorica.metrics.bootstrap import Estimate
from lorica.pipeline.answer import Pipeline
from lorica.pipeline.baseline import baseline_answers
from lorica.pipeline.evaluate import Evaluation, difference, evaluate
from lorica.pipeline.fit import Fit
from lorica.pipeline.plausible import Check, look
from lorica.records import Answer, Row
from lorica.reports.write import write_report
from lorica.tasks.base import Task
from lorica.training.types import TrainResult
from lorica.verbs import build
from lorica.verbs.arguments import emit, parser, resolve
from lorica.verbs.demo_report import demo_dict, demo_report, demo_text
from lorica.verbs.train import by_subject, train_fits
from lorica.verbs.train import listener as training_listener

HELD_OUT = 0.3
BASE, ADAPTER, BASELINE = "base model alone", "with adapter", "TF-IDF baseline"
_TRAINING = (
    "training.batch_size=16",
    "training.gradient_accumulation_steps=1",
    "training.learning_rate=2e-3",
    "training.eval_steps=1000",
    "lora=all_linear",
)


@dataclass(frozen=True)
class DemoTask:
    """One of the demo's tasks: what it asks, where its rows are, and what differs from the common settings."""

    name: str
    question: str
    file: str
    overrides: tuple[str, ...]
    per_subject: bool = False


TASKS = (
    DemoTask("rules", "Does this post break this community rule?", "rules/posts.csv", ("training.epochs=8",)),
    DemoTask("mcq", "Which of A to D is right?", "mcq/questions.jsonl", ("training.epochs=8",)),
    DemoTask("saq", "Answer in a few words.", "saq/questions.jsonl", ("training.epochs=12",), per_subject=True),
)


@dataclass(frozen=True)
class Outcome:
    """What one task of the demo gave. systems: name -> evaluation; gain: adapter minus base on the main metric."""

    demo: DemoTask
    config: Config
    trained: dict[str, TrainResult]
    checks: dict[str, list[Check]]
    systems: dict[str, Evaluation]
    gain: Estimate
    train_rows: int
    routes: dict[str, int]
    rows_per_second: float
    samples: list[tuple[Row, Answer]]


def run(arguments: Sequence[str]) -> int:
    """Run the three tasks and write the report."""
    asked = parser(
        "demo",
        "Train adapters on the embedded base model, look at them, route held-out rows to them, score the answers, and\n"
        "write a report. Needs no network and no GPU; takes a few minutes on two cores.",
        "  lorica demo\n  lorica demo --out /tmp/demo --tasks rules,saq\n  lorica demo model=qwen3_0_6b",
    )
    asked.add_argument("--out", type=Path, default=Path("demo-report"), help="folder of the report (%(default)s)")
    asked.add_argument("--tasks", default="rules,mcq,saq", help="which of the tasks, by name (%(default)s)")
    given = asked.parse_args(list(arguments))
    started = time.perf_counter()
    wanted = [demo for demo in TASKS if demo.name in given.tasks.split(",")]
    if not wanted:
        raise LoricaError(f"--tasks={given.tasks!r} names none of {', '.join(demo.name for demo in TASKS)}")
    outcomes = [run_task(demo, given.out, given.overrides) for demo in wanted]
    seconds = time.perf_counter() - started
    report = given.out / "report.html"
    write_report(demo_report(outcomes, seconds), report)
    emit(
        demo_dict(outcomes, seconds) | {"report": str(report)},
        as_json=given.json,
        text=f"{demo_text(outcomes)}\n\nDone in {seconds:.0f} s. Report: {report.resolve()}",
    )
    return 0


def run_task(demo: DemoTask, out: Path, overrides: Sequence[str]) -> Outcome:
    """One task, from its example file to its evaluation."""
    source = examples_folder() / demo.file
    common = (f"task={demo.name}", f"run_dir={out / 'adapters'}", *_TRAINING, *demo.overrides)
    config = resolve((*common, *overrides)).config
    task = build.build_task(config)
    rows = list(read_rows(source, task.shapes))
    train, held = split(rows, ratio=HELD_OUT, seed=config.training.seed, text=task.text)
    _say(f"\n== {demo.name}: {demo.question} {len(train)} rows to train on, {len(held)} held out")
    root = Path(config.run_dir)
    fits = (
        by_subject(train, str(source), root)
        if demo.per_subject
        else [Fit(task.name, train, str(source), root / task.name)]
    )
    trained = train_fits(config, task, fits, training_listener(config))
    engine = build.build_engine(config, build.model_folder(config))
    base, _ = _answers(config, task, engine, {}, held)
    folders = {name: result.folder for name, result in trained.items()}
    adapted, rate = _answers(config, task, engine, folders, held)
    write_answers(out / f"{demo.name}.answers.jsonl", adapted.values())
    systems = {BASE: base, ADAPTER: adapted, BASELINE: baseline_answers(task, train, held)}
    checks = {}
    for name, result in trained.items():
        own = {row_id: answer for row_id, answer in adapted.items() if answer.adapter == name}
        if own:
            checks[name] = look(result.folder, result, base, own)
            _say("\n".join(f"   {name}: {check.question} {check.seen}" for check in checks[name]))
    return Outcome(
        demo=demo,
        config=config,
        trained=trained,
        checks=checks,
        systems={name: evaluate(task, held, answers) for name, answers in systems.items()},
        gain=difference(task, held, adapted, base),
        train_rows=len(train),
        routes={name: sum(a.adapter == name for a in adapted.values()) for name in sorted(folders)},
        rows_per_second=rate,
        samples=[(row, adapted[row.id]) for row in held[:6]],
    )


def examples_folder() -> Path:
    """The shipped examples: inside the installed package, or at the root of a checkout."""
    package = Path(lorica.__file__).parent
    for place in (package / "examples", package.parents[1] / "examples"):
        if (place / "rules" / "posts.csv").is_file():
            return place
    raise LoricaError(f"the examples are missing from {package}", fix="install lorica again, or run in a checkout")


def _answers(
    config: Config, task: Task, engine: Engine, folders: dict[str, Path], rows: Sequence[Row]
) -> tuple[dict[str, Answer], float]:
    for name, folder in folders.items():
        engine.add_adapter(name, folder)
    encoder = build.build_encoder(config, build.model_folder(config))
    pipeline = Pipeline(task, encoder, engine, folders, build.answer_settings(config))
    started = time.perf_counter()
    answers = {answer.id: answer for answer in pipeline.answer(rows)}
    return answers, len(rows) / (time.perf_counter() - started)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
