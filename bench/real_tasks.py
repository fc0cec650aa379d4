"""Accuracy on data nobody here wrote: sms_spam, HateCheck and OpenStax questions, on the embedded base model.

    python bench/real_tasks.py --data ../shared/data --out runs/real_tasks [--tasks sms_spam,hatecheck,openstax]

For each: base model alone, adapter, and TF-IDF + logistic regression on the same held-out rows, with 95% bootstrap
intervals, and the paired gain of the adapter over the base. Ends with one line of key=value figures.
"""

from __future__ import annotations

import argparse
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from lorica.commands import build
from lorica.commands.arguments import resolve
from lorica.commands.experiment import ADAPTER, Outcome, run_experiment
from lorica.data.read import read_rows
from lorica.data.split import split
from lorica.pipeline.train import TrainJob
from lorica.reports.page import ReportTable
from lorica.reports.text_table import plain_table

COMMON = ("training=tiny", "lora=all_linear")


@dataclass(frozen=True)
class RealTask:
    """Where the rows are, how their columns map, and which share is held out."""

    file: str
    held_out: float
    overrides: tuple[str, ...]


TASKS = {
    "sms_spam": RealTask(
        "sms_spam/messages.jsonl",
        0.5,
        (
            "task=rules",
            "task.columns.row_id=id",
            "task.columns.body=text",
            "task.columns.rule_violation=label",
            "task.constants.rule=No unsolicited advertising.",
            "task.positive_labels=[spam]",
            "task.negative_labels=[ham]",
            "training.epochs=6",
        ),
    ),
    "hatecheck": RealTask(
        "hatecheck/cases.jsonl",
        0.33,
        (
            "task=rules",
            "task.columns.row_id=id",
            "task.columns.body=text",
            "task.columns.rule_violation=label",
            "task.columns.group=functionality",
            "task.constants.rule=No hateful content.",
            "task.positive_labels=[hateful]",
            "task.negative_labels=[non-hateful]",
            "training.epochs=6",
        ),
    ),
    "openstax": RealTask("openstax/mcq.jsonl", 0.5, ("task=mcq", "task.columns.group=module", "training.epochs=4")),
}


def run_task(name: str, data: Path, out: Path) -> tuple[Outcome, float]:
    """Train and evaluate one task; the outcome and the seconds it took."""
    real = TASKS[name]
    config = resolve((*COMMON, *real.overrides, f"run_dir={out / name}")).config
    task = build.build_task(config)
    source = data / real.file
    rows = list(read_rows(source, task.schemas, columns=config.task.columns, constants=config.task.constants))
    train, held = split(rows, ratio=real.held_out, seed=config.training.seed, text=task.text)
    shutil.rmtree(out / name, ignore_errors=True)
    started = time.perf_counter()
    outcome = run_experiment(
        config, task, train, held, [TrainJob(task.name, train, str(source), out / name / task.name)]
    )
    return outcome, time.perf_counter() - started


def main() -> None:
    """Run the chosen tasks and print a table and a line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("runs/real_tasks"))
    parser.add_argument("--tasks", default=",".join(TASKS))
    arguments = parser.parse_args()
    if not arguments.data.is_dir():
        print(f"skipped=1 reason=no data at {arguments.data}")
        return
    figures = []
    for name in arguments.tasks.split(","):
        outcome, seconds = run_task(name, arguments.data, arguments.out)
        main_metric = next(iter(outcome.systems[ADAPTER].metrics))
        rows = tuple(
            (system, metric, str(found.metrics[metric]), found.n)
            for system, found in outcome.systems.items()
            for metric in found.metrics
        )
        print(
            plain_table(
                ReportTable(("system", "metric", "value", "n"), rows, caption=f"{name}: {len(outcome.train)} train")
            )
        )
        gain = outcome.gain
        print(f"paired gain in {main_metric}: {gain.value:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}], {seconds:.0f} s\n")
        for system, found in outcome.systems.items():
            figures.append(f"{name}.{system.split()[0].lower()}.{main_metric}={found.metrics[main_metric].value:.4f}")
        figures.append(f"{name}.gain_low={gain.low:.4f}")
    print(" ".join(figures))


if __name__ == "__main__":
    main()
