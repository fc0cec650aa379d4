"""Jobs of `lorica train` on one loaded base: the locks on their folders, one training after the other, what is shown of
them, and what an interruption says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

from lorica import signals
from lorica.adapters.registry import TRAINING_RECORD
from lorica.commands.arguments import inform
from lorica.commands.fold_report import FoldsResult
from lorica.commands.train_log import RecordedTraining
from lorica.commands.trainers import load_trainer
from lorica.config.schema import Config
from lorica.errors import LoricaError
from lorica.locks import FolderLock, this_host
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
        previous = locks[job.name].previous
        if previous is not None and previous.host != this_host():  # it was killed, or its lock is not seen from here
            progress.note(
                f"{locks[job.name].folder}: a run on another machine did not end here ({previous}). Make sure that it "
                "is gone: not every shared file system shows the locks of other machines"
            )
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
