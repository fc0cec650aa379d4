"""`lorica train`: one adapter for a task, or one per subject and `general` over all of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

from lorica import signals
from lorica.adapters.registry import TRAINING_RECORD
from lorica.commands import build
from lorica.commands.arguments import emit, going_on, inform, parser, resolve
from lorica.commands.fold_report import FoldsResult, folds_dict, folds_text
from lorica.commands.next_command import after_training
from lorica.commands.rows import list_skipped, reading_log, tell
from lorica.commands.train_log import RecordedTraining
from lorica.commands.train_plan import plan_jobs
from lorica.commands.trainers import load_trainer
from lorica.config.compose import Resolved
from lorica.config.schema import Config
from lorica.errors import LoricaError, TrainingError
from lorica.locks import FolderLock, this_host
from lorica.names import count_of
from lorica.pipeline.train import LossExample, TrainJob, train_val_split
from lorica.pipeline.trainer import Trainer
from lorica.tasks.base import Task
from lorica.training.listeners import make_listener
from lorica.training.loop import lock_run
from lorica.training.types import Listener, TrainResult

_NOTHING: Mapping[str, str] = MappingProxyType({})
_SHOWN = 800  # characters of each end of a long text
SKIPPED_SUFFIX = ".skipped.jsonl"


@dataclass(frozen=True)
class TrainingRun:
    """The adapters that one training made. adapters: name -> what training it gave, with its folder. examples: name ->
    the first row it learned from, with the part that carried loss. reading: what of the files was not read. folds: what
    their out-of-fold scores are worth, where folds were trained."""

    adapters: dict[str, TrainResult]
    examples: dict[str, LossExample]
    reading: dict[str, Any]
    folds: FoldsResult | None = None


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
        "  lorica train task=rules input=examples/rules/posts.csv run_dir=runs/rules\n"
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
        from lorica.commands.train_folds import show_audit  # which trains by this module

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
        from lorica.commands.train_folds import train_fold_files  # which trains by this module

        return train_fold_files(resolved, words=words, resume_command=resume_command)
    task = build.build_task(config)
    read_log = reading_log(config)
    jobs = plan_jobs(config, task, read_log)
    tell(read_log)
    with nothing_lost(jobs, resume_command), locked(jobs) as locks:
        reading = list_skipped(read_log, jobs[0].folder.with_name(task.name + SKIPPED_SUFFIX))
        examples: dict[str, LossExample] = {}
        results = train_locked(
            config,
            task,
            jobs,
            listener(config),
            locks,
            reading=read_log.digests(),
            examples=examples,
            recorded=RecordedTraining.of(resolved, words, jobs),
        )
    return TrainingRun(results, examples, reading)


@contextmanager
def nothing_lost(jobs: Sequence[TrainJob], resume_command: str) -> Iterator[None]:
    """Whatever ends the block but a mistake that must be mended first: say what is kept and how to go on."""
    try:
        yield
    except BaseException as error:
        mistake = isinstance(error, LoricaError) and not isinstance(error.__cause__, OSError)
        saved_jobs = [job for job in jobs if (job.folder / TRAINING_RECORD).is_file()]
        if isinstance(error, KeyboardInterrupt) and not saved_jobs:
            signals.say(error, "nothing was trained yet; give the same command again")
        if saved_jobs and not mistake:
            error.add_note(f"kept: {', '.join(str(job.folder) for job in saved_jobs)}; go on: {resume_command}")
        raise


def listener(config: Config) -> Listener:
    """A progress bar for a person, lines for a log."""
    return make_listener(logging_steps=config.training.logging_steps)


@contextmanager
def locked(jobs: Sequence[TrainJob]) -> Iterator[dict[str, FolderLock]]:
    """The locks on the folders of all adapters, by name: what another process trains is known before anything is
    loaded. Raises ResumeError naming that process."""
    with ExitStack() as stack:
        yield {job.name: stack.enter_context(lock_run(job.folder)) for job in jobs}


def train_jobs(
    config: Config, task: Task, jobs: Sequence[TrainJob], progress: Listener, trainer: Trainer | None = None
) -> dict[str, TrainResult]:
    """Train adapters one after the other on one loaded base; name -> result. trainer: of this configuration and task,
    where it is loaded already."""
    with locked(jobs) as locks:
        return train_locked(config, task, jobs, progress, locks, trainer=trainer)


def train_locked(
    config: Config,
    task: Task,
    jobs: Sequence[TrainJob],
    progress: Listener,
    locks: Mapping[str, FolderLock],
    *,
    reading: Mapping[str, str] = _NOTHING,
    examples: dict[str, LossExample] | None = None,
    recorded: RecordedTraining | None = None,
    trainer: Trainer | None = None,
) -> dict[str, TrainResult]:
    """As `train_jobs`, with the locks held. reading: what of the files was not read, for the training record. examples:
    takes an example of what each adapter learns, which is shown as well. recorded: what records each run."""
    trainer = trainer or load_trainer(config, task, reading)
    results = {}
    for job in jobs:
        _tell_previous(locks[job.name], progress)
        split_rows = train_val_split(job, task, val_ratio=config.training.val_ratio, seed=config.training.seed)
        tell_example = None if examples is None else partial(_show_example, job.name, examples)
        train = partial(trainer.train, job, split_rows, locks[job.name], tell_example)
        if recorded is None:
            results[job.name] = train(listener=progress)
        else:
            results[job.name] = recorded.train(job, locks[job.name], progress, trainer.digests, train)
    return results


def _show_example(adapter_name: str, examples: dict[str, LossExample], example: LossExample) -> None:
    """Show, before hours of training, what is learned: with a wrong shape, template or column it is not the answer."""
    examples[adapter_name] = example
    if example.loss_tokens:
        shown = (
            f"of the {example.tokens} tokens of row {example.row!r} the last {example.loss_tokens} carry loss, here "
            f"between >>> and <<<:\n{_shortened(example.prompt)}>>>{_shortened(example.answer)}<<<"
        )
    else:
        shown = (
            f"row {example.row!r} is learned as {example.answer!r}, by these {example.tokens} tokens:\n"
            f"{_shortened(example.prompt)}"
        )
    inform(f"{adapter_name}: {shown}")


def _shortened(long_text: str) -> str:
    if len(long_text) <= 2 * _SHOWN:
        return long_text
    return f"{long_text[:_SHOWN]}\n[... {len(long_text) - 2 * _SHOWN} characters ...]\n{long_text[-_SHOWN:]}"


def _tell_previous(lock: FolderLock, progress: Listener) -> None:
    """A run of another machine that did not let go was killed, or its lock is not seen from here."""
    previous = lock.previous
    if previous is not None and previous.host != this_host():
        progress.note(
            f"{lock.folder}: a run on another machine did not end here ({previous}). Make sure that it is gone: not "
            "every shared file system shows the locks of other machines"
        )


def _line(name: str, result: TrainResult) -> str:
    validation = "" if result.eval_loss is None else f", validation loss {result.eval_loss:.4f}"
    return (
        f"{name}: {count_of(result.steps, 'update')} in {result.seconds:.1f} s, "
        f"training loss {result.train_loss:.4f}{validation}, best at update {result.best_step}\n  {result.folder}"
        + (f"\n  {result.advice}" if result.advice else "")
    )
