"""What listens to the training of a trial, and ends it: at the deadline, or where it does worse than others did."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from lorica.data.record_log import RecordLog
from lorica.runs.run_clock import RunClock
from lorica.training.types import Listener, StepReport, TrainResult
from lorica.tuning.trial_store import Curve

CUT, PRUNED = "its minutes are over", "others did better at this point"
"""Why a trial's training is ended."""

CURVE_NAME = "curve.jsonl"


class _Evaluation(msgspec.Struct, frozen=True, array_like=True):
    """One line of `curve.jsonl`: the loss on the validation rows after update `step` of `total`."""

    step: int
    total: int
    loss: float


class TrialListener:
    """Hands on what it is told, under the trial's name, and keeps the validation losses in the trial's folder, for a
    killed session to go on with."""

    def __init__(
        self,
        progress: Listener,
        name: str,
        folder: Path,
        clock: RunClock,
        *,
        reserve: Callable[[], float],
        is_hopeless: Callable[[Curve], bool],
    ) -> None:
        """reserve: seconds that must be left when the training ends. is_hopeless: whether losses are so high that the
        trial should end. Raises DataError for losses of a killed session that are none."""
        self._progress, self._name, self._clock = progress, name, clock
        self._reserve, self._is_hopeless = reserve, is_hopeless
        self._log = RecordLog(folder / CURVE_NAME, _Evaluation, noun="evaluation of a trial")
        self._total = self._log.records[-1].total if self._log.records else 0
        self._losses = {record.step: record.loss for record in self._log.records}
        self._step = 0
        self._marked = clock.used
        self._longest = 0.0  # seconds of an update, or of an evaluation

    @property
    def curve(self) -> Curve:
        """The losses on the validation rows so far."""
        return tuple((step / self._total, loss) for step, loss in sorted(self._losses.items()) if self._total)

    @property
    def share(self) -> float:
        """How much of its updates the training has made."""
        return self._step / self._total if self._total else 0.0

    @property
    def last_told(self) -> float:
        """Seconds that the study had used at the last update or evaluation."""
        return self._marked

    def started(self, adapter_name: str, completed_steps: int, total_steps: int) -> None:
        """Forget what will be told again."""
        self._step, self._total = completed_steps, total_steps
        self._losses = {step: loss for step, loss in self._losses.items() if step <= completed_steps}
        self._marked = self._clock.used
        self._progress.started(self._name, completed_steps, total_steps)

    def stepped(self, report: StepReport) -> None:
        """Take the time of the update."""
        self._step = report.step
        self._take_time()
        self._progress.stepped(report)

    def evaluated(self, step: int, validation_loss: float, is_best: bool) -> None:
        """Keep the loss."""
        self._take_time()
        if step:
            self._losses[step] = validation_loss
            self._log.path.parent.mkdir(parents=True, exist_ok=True)
            self._log.append(_Evaluation(step, self._total, validation_loss))
        self._progress.evaluated(step, validation_loss, is_best)

    def note(self, note_text: str) -> None:
        """Hand it on."""
        self._progress.note(note_text)

    def finished(self, result: TrainResult) -> None:
        """Hand it on."""
        self._progress.finished(result)

    def stop_reason(self) -> str:
        """`CUT` where another update would not end in time, `PRUNED` where the trial is not worth it."""
        self._clock.save()
        if self._is_hopeless(self.curve):
            return PRUNED
        return CUT if self._clock.remaining - self._reserve() < self._longest else self._progress.stop_reason()

    def closed(self) -> None:
        """Hand it on."""
        self._progress.closed()

    def _take_time(self) -> None:
        seconds = self._clock.used - self._marked
        self._marked += seconds
        self._longest = max(self._longest, seconds)
