"""`lorica train`: one adapter for a task, or one per subject and `general` over all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from lorica.commands import build
from lorica.commands.arguments import emit, going_on, parser, resolve
from lorica.commands.fold_report import folds_dict, folds_text
from lorica.commands.next_command import after_training
from lorica.commands.rows import list_skipped, reading_log, tell
from lorica.commands.train_folds import show_audit, train_fold_files
from lorica.commands.train_jobs import SKIPPED_SUFFIX, TrainingRun, listener, locked, nothing_lost, train_locked
from lorica.commands.train_log import RecordedTraining
from lorica.commands.train_plan import plan_jobs
from lorica.config.compose import Resolved
from lorica.errors import TrainingError
from lorica.names import count_of
from lorica.pipeline.train import LossExample
from lorica.training.types import TrainResult


def run(arguments: Sequence[str]) -> int:
    """Train, and say where the adapters are."""
    command = parser(
        "train",
        "Train LoRA adapters: one named after the task from input=FILE, or one per subject and `general` from\n"
        "data.SUBJECT=FILE. Each ends in run_dir/NAME in PEFT's folder format. With folds=5 one adapter is trained\n"
        "for each fold of input=FILE, after an audit of the folds, and answers the rows that it did not see.\n"
        "On an encoder (model=minilm, deberta_v3_base, ...) a classifier is trained: all its weights, or LoRA and its\n"
        "head with training.method=lora. model=tfidf and model=centroids train shallow models, in\n"
        "seconds. docs/training.md.",
        "  lorica train task=rules training=tiny input=examples/rules/posts.csv run_dir=runs/rules\n"
        "  lorica train task=saq data.algebra=algebra.jsonl data.history=history.jsonl run_dir=runs/saq\n"
        "  lorica train task=mcq input=mcq.jsonl model=qwen3_0_6b training.resume=true\n"
        "  lorica train task=rules input=posts.csv model=minilm training.method=lora run_dir=runs/minilm\n"
        "  lorica train task=rules input=posts.csv model=tfidf run_dir=runs/tfidf\n"
        "  lorica train --audit task=rules input=posts.csv folds=5 folds.group_column=community\n"
        "  lorica train task=rules input=posts.csv folds=5 run_dir=runs/folds",
    )
    command.add_argument(
        "--audit", action="store_true", help="show duplicates, contradictions and leaks of the folds; train nothing"
    )
    options = command.parse_args(list(arguments))
    resolved = resolve(options.overrides)
    if options.audit:
        return show_audit(resolved.config, as_json=options.json)
    trained = train_files(
        resolved, words=arguments, resume_command=going_on("train", arguments, "training.resume=true")
    )
    plain_values: dict[str, Any] = {
        adapter_name: {
            **asdict(result),
            "folder": str(result.folder),
            "reading": trained.reading,
            "example": asdict(example) if (example := trained.examples.get(adapter_name)) else None,
        }
        for adapter_name, result in trained.adapters.items()
    }
    paragraphs = ["\n".join(_line(adapter_name, result) for adapter_name, result in trained.adapters.items())]
    if trained.folds is not None:
        plain_values["folds"] = folds_dict(trained.folds)
        paragraphs.append(folds_text(trained.folds, resolved.config.input, options.overrides))
    elif any(result.useful for result in trained.adapters.values()):
        root = next(iter(trained.adapters.values())).folder.parent
        paragraphs.append(after_training(root, options.overrides))
    emit(plain_values, as_json=options.json, text="\n\n".join(paragraphs))
    useless = [result for result in trained.adapters.values() if result.outcome == "diverged" and not result.useful]
    return TrainingError.exit_code if useless else 0


def train_files(resolved: Resolved, *, words: Sequence[str] = (), resume_command: str) -> TrainingRun:
    """Train the adapters that the configuration names from its files, and record each run in its adapter's folder.

    words: of the command line; () from Python. resume_command: what goes on after an interruption; whatever raises here
    once something is saved carries it as a note.
    """
    config = resolved.config
    if config.folds.wanted:
        return train_fold_files(resolved, words=words, resume_command=resume_command)
    task = build.build_task(config)
    read_log = reading_log(config)
    jobs = plan_jobs(config, task, read_log)
    tell(read_log)
    with nothing_lost(jobs, resume_command), locked(jobs) as locks:
        reading = list_skipped(read_log, jobs[0].folder.with_name(task.name + SKIPPED_SUFFIX))
        examples: dict[str, LossExample] = {}
        runs = RecordedTraining.of(resolved, words, jobs)
        results = train_locked(
            config, task, jobs, listener(config), locks, reading=read_log.digests(), examples=examples, recorded=runs
        )
    return TrainingRun(results, examples, reading)


def _line(name: str, result: TrainResult) -> str:
    validation = "" if result.eval_loss is None else f", validation loss {result.eval_loss:.4f}"
    return (
        f"{name}: {count_of(result.steps, 'update')} in {result.seconds:.1f} s, "
        f"training loss {result.train_loss:.4f}{validation}, best at update {result.best_step}\n  {result.folder}"
        + (f"\n  {result.advice}" if result.advice else "")
    )
