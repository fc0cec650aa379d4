"""The run of a training: `run.json` and `metrics.json` in the folder of each adapter, beside its log."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from lorica.adapters.passport import read_passport
from lorica.commands.run_log import recorded_configuration, run_file
from lorica.config.compose import Resolved
from lorica.errors import DataError
from lorica.locks import FolderLock
from lorica.metrics.bootstrap import Estimate
from lorica.pipeline.train import TrainJob
from lorica.runs.run_folder import RunFolder
from lorica.runs.run_record import RunMetric, RunRecord, read_record
from lorica.tasks import load_task
from lorica.training.types import Listener, StepReport, TrainResult

_LOSSES = ("eval_loss", "train_loss", "base_loss", "trained_loss")


@dataclass(frozen=True)
class RecordedTraining:
    """What the runs of one command have in common. words: of its command line; () from Python."""

    record: RunRecord
    words: Sequence[str]

    @classmethod
    def of(cls, resolved: Resolved, words: Sequence[str], jobs: Sequence[TrainJob]) -> RecordedTraining:
        """Of a configuration. Raises DataError for a training file that cannot be read any more."""
        config = resolved.config
        files = [config.input] if config.input else list(dict.fromkeys(config.data.values()))
        row_counts = {
            job.source: len(job.rows) + len(job.held_out)
            for job in jobs
            if job.source in files and not config.training.per_subject
        }
        inputs = [run_file("rows", file, rows=row_counts.get(file)) for file in files]
        return cls(RunRecord(command="train", **recorded_configuration(resolved), inputs=inputs), words)

    def train(
        self,
        job: TrainJob,
        folder_lock: FolderLock,
        progress: Listener,
        digests: tuple[str, str],
        train: Callable[..., TrainResult],
    ) -> TrainResult:
        """Train one adapter and record it. digests: of base and tokenizer. train: takes a `listener`.
        Raises what `train` raises."""
        own_files = [file for file in self.record.inputs if file.path == job.source] or self.record.inputs
        record = msgspec.structs.replace(
            self.record, inputs=own_files, rows=len(job.rows), base=digests[0], tokenizer=digests[1]
        )
        run_listener = _RunListener(progress, record, self.words, folder_lock)
        with run_listener:
            result = train(listener=run_listener)
            run_listener.complete(result)
        return result


class _RunListener:
    """Hands on what it is told, and logs notes (of updates the training has a log of its own); begins the run's record
    with the first update, so that what cannot start leaves none. As a context manager it records how the training
    ended."""

    def __init__(self, progress: Listener, record: RunRecord, words: Sequence[str], folder_lock: FolderLock) -> None:
        self._progress = progress
        self._record = record
        self._words = words
        self._lock = folder_lock
        self._run_log: RunFolder | None = None

    def started(self, adapter_name: str, completed_steps: int, total_steps: int) -> None:
        self._begin(resume=completed_steps > 0)
        self._progress.started(adapter_name, completed_steps, total_steps)

    def stepped(self, report: StepReport) -> None:
        self._progress.stepped(report)

    def evaluated(self, step: int, validation_loss: float, is_best: bool) -> None:
        self._progress.evaluated(step, validation_loss, is_best)

    def note(self, note_text: str) -> None:
        if self._run_log is not None:
            self._run_log.log("message", {"text": note_text})
        self._progress.note(note_text)

    def finished(self, result: TrainResult) -> None:
        self._progress.finished(result)

    def stop_reason(self) -> str:
        return self._progress.stop_reason()

    def closed(self) -> None:
        self._progress.closed()

    def complete(self, result: TrainResult) -> None:
        """Record the result; of a run that was finished before only where a kill kept its record from saying so."""
        if self._run_log is None:
            try:
                if read_record(self._lock.folder).status == "finished":
                    return
            except DataError:
                return  # trained by an earlier version, or damaged: what was computed when is not known any more
            self._begin(resume=True)
        if self._run_log is not None:
            _record_result(self._run_log, result)

    def __enter__(self) -> _RunListener:
        return self

    def __exit__(self, *error: object) -> None:
        if self._run_log is not None:
            self._run_log.__exit__(*error)  # type: ignore[arg-type]

    def _begin(self, *, resume: bool) -> None:
        self._run_log = RunFolder.create(
            self._lock.folder, self._record, words=self._words, resume=resume, owned=True, folder_lock=self._lock
        )


def _record_result(run_log: RunFolder, result: TrainResult) -> None:
    passport = read_passport(result.folder)
    measured = {} if passport is None else passport.metrics.adapter or {}
    metrics: dict[str, Estimate | RunMetric | float] = {
        name: RunMetric(value=metric.value, low=metric.low, high=metric.high, n=metric.n)
        for name, metric in measured.items()
    }
    losses = {name: getattr(result, name) for name in _LOSSES}
    metrics |= {name: loss for name, loss in losses.items() if loss is not None}
    metrics |= {"tokens": result.tokens, "steps": result.steps, "best_step": result.best_step}
    by_importance = (*load_task(run_log.record.task).metric_names, *_LOSSES)
    run_log.write_metrics(metrics, main=next(name for name in by_importance if name in metrics))
    run_log.update(
        outputs=[run_file("adapter", result.folder / result.weights)],
        summary={"outcome": result.outcome, "training_seconds": result.seconds},
    )
