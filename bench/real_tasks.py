"""Accuracy on data nobody here wrote: sms_spam, HateCheck and OpenStax questions, on the embedded base or a larger one.

    python bench/real_tasks.py --data ../shared/data --out runs/real_tasks [--tasks sms_spam,mcq,mcq_likelihood,saq]
        [--rows 400] [--held 300] [--part validation] [--trl PYTHON [--trl-base FOLDER]] [KEY=VALUE ...]

For each: base model alone, adapter, and TF-IDF + logistic regression on the same held-out rows, with 95% bootstrap
intervals, and the paired gain of the adapter over the base. --trl names an interpreter that has TRL: it trains on the
same encoded rows with the same settings, and its adapter answers through the same engine. --part validation answers a
part of the training rows that no adapter learns from: to choose settings by. `training.resume=true` keeps what is done.
Ends with one line of key=value figures.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorica.adapters.folder import open_adapter
from lorica.commands import build
from lorica.commands.arguments import resolve
from lorica.commands.experiment import ADAPTER, BASE, answer_rows, run_experiment
from lorica.config.schema import Config
from lorica.data.read import read_rows
from lorica.data.split import split
from lorica.metrics.bootstrap import Estimate
from lorica.pipeline.evaluate import Evaluation, evaluate, paired_metric_difference
from lorica.pipeline.train import TrainJob, encode_rows
from lorica.records import Row
from lorica.reports.page import ReportTable
from lorica.reports.text_table import plain_table
from lorica.tasks.base import Task

TRL = "adapter of TRL + PEFT"
VALIDATION_RATIO = 0.2  # of the training rows; never learned from, whichever part answers
_TRL_SCRIPT = Path(__file__).parent / "peers" / "trl_adapter.py"
# Of the embedded model; a larger one starts from the defaults.
COMMON = ("training=tiny", "lora=all_linear", "training.epochs=6")
_LARGER = ("lora=all_linear", "training.gradient_accumulation_steps=1", "training.batch_size=8", "training.val_ratio=0")


@dataclass(frozen=True)
class RealTask:
    """Where the rows are, how their columns map, and which share is held out."""

    file: str
    held_out: float
    overrides: tuple[str, ...]


_LABELLED = ("task=rules", "task.columns.row_id=id", "task.columns.body=text", "task.columns.rule_violation=label")
_QUESTIONS = ("task.columns.group=module",)
TASKS = {
    "sms_spam": RealTask(
        "sms_spam/messages.jsonl",
        0.5,
        (
            *_LABELLED,
            "task.constants.rule=No unsolicited advertising.",
            "task.positive_labels=[spam]",
            "task.negative_labels=[ham]",
        ),
    ),
    "hatecheck": RealTask(
        "hatecheck/cases.jsonl",
        0.33,
        (
            *_LABELLED,
            "task.columns.group=functionality",
            "task.constants.rule=No hateful content.",
            "task.positive_labels=[hateful]",
            "task.negative_labels=[non-hateful]",
        ),
    ),
    "mcq": RealTask("openstax/mcq.jsonl", 0.5, ("task=mcq", *_QUESTIONS)),
    "mcq_likelihood": RealTask("openstax/mcq.jsonl", 0.5, ("task=mcq", "task.method=likelihood", *_QUESTIONS)),
    "saq": RealTask("openstax/saq.jsonl", 0.5, ("task=saq", "inference.max_new_tokens=32", *_QUESTIONS)),
}


@dataclass(frozen=True)
class Result:
    """systems: name -> evaluation. gains: name of a paired difference -> its estimate on the main metric."""

    systems: dict[str, Evaluation]
    gains: dict[str, Estimate]
    training_rows: int
    seconds: float


def trl_job(
    config: Config, task: Task, rows: Sequence[Row], source: str, out: Path, trl_base: Path | None
) -> dict[str, Any]:
    """What TRL is to train: the rows as Lorica encodes them, and its settings under TRL's names."""
    base_model = build.base_folder(config)
    encoder = build.build_encoder(config, base_model)
    examples = encode_rows(task, encoder, rows, source, config.training.max_seq_length, config.task.truncate)
    lora, training = build.adapter_config(config, base_model), config.training
    return {
        "base": str(trl_base or base_model.path),
        "out": str(out),
        "threads": config.engine.threads or 1,
        "rows": [[list(example.encoded.tokens), example.encoded.answer_start] for example in examples],
        "lora": {
            "r": lora.r,
            "lora_alpha": lora.lora_alpha,
            "lora_dropout": lora.lora_dropout,
            "target_modules": lora.target_modules,
        },
        "training": {
            "num_train_epochs": training.epochs,
            "per_device_train_batch_size": training.batch_size,
            "gradient_accumulation_steps": training.gradient_accumulation_steps,
            "learning_rate": training.learning_rate,
            "lr_scheduler_type": training.scheduler,
            "warmup_steps": training.warmup_ratio,  # below 1 it is a share of all steps
            "weight_decay": training.weight_decay,
            "max_grad_norm": training.max_grad_norm,
            "seed": training.seed,
            "bf16": training.bf16,
            "save_steps": 25,
            "logging_steps": training.logging_steps,
        },
    }


def train_with_trl(python: str, job: dict[str, Any]) -> Path:
    """The folder of TRL's adapter, trained unless it is there."""
    out = Path(job["out"])
    if not (out / "adapter_model.safetensors").is_file():
        out.mkdir(parents=True, exist_ok=True)
        (out / "job.json").write_text(json.dumps(job), "utf-8")
        subprocess.run([python, str(_TRL_SCRIPT), str(out / "job.json")], check=True)
    return out


def run_task(name: str, arguments: argparse.Namespace) -> Result:
    """Train and evaluate one task."""
    real, folder = TASKS[name], arguments.out / name
    larger = any(override.startswith(("model=", "model.path=")) for override in arguments.overrides)
    common = _LARGER if larger else COMMON
    config = resolve((*common, *real.overrides, f"run_dir={folder}", *arguments.overrides)).config
    task = build.build_task(config)
    source = arguments.data / real.file
    rows = list(read_rows(source, task.schemas, columns=config.task.columns, constants=config.task.constants))
    pool, held = split(rows, ratio=real.held_out, seed=config.training.seed, text=task.text)
    train, validation = split(pool, ratio=VALIDATION_RATIO, seed=config.training.seed, text=task.text)
    train = train[: arguments.rows or None]
    judged = (validation if arguments.part == "validation" else held)[: arguments.held or None]
    if not config.training.resume:
        shutil.rmtree(folder, ignore_errors=True)
    started = time.perf_counter()
    outcome = run_experiment(config, task, train, judged, [TrainJob(task.name, train, str(source), folder / task.name)])
    seconds = time.perf_counter() - started
    systems, gains = dict(outcome.systems), {"over base": outcome.gain}
    if arguments.trl:
        job = trl_job(config, task, train, str(source), folder / "trl", arguments.trl_base)
        adapters = {task.name: open_adapter(train_with_trl(arguments.trl, job))}
        base_model = build.base_folder(config)
        answers, _ = answer_rows(config, task, build.build_engine(config, base_model), base_model, adapters, judged)
        systems[TRL] = evaluate(task, judged, answers)
        for gain_name, first, second in (
            ("of TRL over base", answers, outcome.answers[BASE]),
            ("over TRL", outcome.answers[ADAPTER], answers),
        ):
            gains[gain_name] = paired_metric_difference(task, judged, first, second)
    return Result(systems, gains, len(train), seconds)


def main() -> None:
    """Run the chosen tasks and print a table and a line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("runs/real_tasks"))
    parser.add_argument("--tasks", default="sms_spam,hatecheck,mcq")
    parser.add_argument("--rows", type=int, default=0, help="training rows at most")
    parser.add_argument("--held", type=int, default=0, help="rows to answer at most")
    parser.add_argument("--part", choices=("result", "validation"), default="result")
    parser.add_argument("--trl", default="", help="an interpreter that has TRL and PEFT")
    parser.add_argument("--trl-base", type=Path, help="the base as safetensors, where model.path is none")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    arguments = parser.parse_intermixed_args()
    if not arguments.data.is_dir():
        print(f"skipped=1 reason=no data at {arguments.data}")
        return
    figures = []
    for name in arguments.tasks.split(","):
        result = run_task(name, arguments)
        main_metric = next(iter(result.systems[ADAPTER].metrics))
        rows = tuple(
            (system, metric, str(evaluation.metrics[metric]), evaluation.n)
            for system, evaluation in result.systems.items()
            for metric in evaluation.metrics
        )
        caption = f"{name}: {result.training_rows} rows to train on, {result.seconds:.0f} s"
        print(plain_table(ReportTable(("system", "metric", "value", "n"), rows, caption=caption)))
        for gain_name, gain in result.gains.items():
            print(f"paired gain in {main_metric} {gain_name}: {gain.value:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}]")
            figures.append(f"{name}.gain_{gain_name.replace(' ', '_')}_low={gain.low:.4f}")
        for system, evaluation in result.systems.items():
            system_key = system.lower().replace("adapter of ", "").split()[0 if system != ADAPTER else -1]
            figures.append(f"{name}.{system_key}.{main_metric}={evaluation.metrics[main_metric].value:.4f}")
    print(" ".join(figures))


if __name__ == "__main__":
    main()
