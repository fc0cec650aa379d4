"""Progress of a training: a bar on a terminal, a line now and then elsewhere, or nothing."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, TextIO

from lorica.names import count_of
from lorica.streams import progress_bar
from lorica.training.types import Listener, StepReport, TrainResult

if TYPE_CHECKING:
    from rich.progress import TaskID


def make_listener(*, logging_steps: int, stream: TextIO | None = None) -> Listener:
    """A bar when `stream` (default: stderr) is a terminal, else a line every `logging_steps` updates."""
    output_stream = sys.stderr if stream is None else stream
    return BarListener(output_stream) if output_stream.isatty() else LineListener(output_stream, logging_steps)


def make_brief_listener() -> Listener:
    """For one training of many: a bar that goes when it ends where stderr is a terminal, else nothing."""
    return BarListener(sys.stderr, brief=True) if sys.stderr.isatty() else SilentListener()


class SilentListener:
    """Shows nothing."""

    def started(self, adapter_name: str, completed_steps: int, total_steps: int) -> None:
        """Nothing."""

    def stepped(self, report: StepReport) -> None:
        """Nothing."""

    def evaluated(self, step: int, validation_loss: float, is_best: bool) -> None:
        """Nothing."""

    def note(self, note_text: str) -> None:
        """Nothing."""

    def finished(self, result: TrainResult) -> None:
        """Nothing."""

    def stop_reason(self) -> str:
        """It may go on."""
        return ""

    def closed(self) -> None:
        """Nothing."""


class LineListener:
    """Plain lines, for files and pipes."""

    def __init__(self, stream: TextIO, report_interval: int) -> None:
        self._stream = stream
        self._every = report_interval
        self._name = ""

    def started(self, adapter_name: str, completed_steps: int, total_steps: int) -> None:
        """Say what begins, or goes on."""
        self._name = adapter_name
        self._say(count_of(total_steps, "update") + (f", going on after {completed_steps}" if completed_steps else ""))

    def stepped(self, report: StepReport) -> None:
        """A line every so many updates, and for the last."""
        if report.step % self._every == 0 or report.step == report.total:
            self._say(f"update {report.step}/{report.total}, {_numbers(report)}, lr {report.learning_rate:.2e}")

    def evaluated(self, step: int, validation_loss: float, is_best: bool) -> None:
        """The held-out loss."""
        self._say(_evaluation(step, validation_loss, is_best))

    def note(self, note_text: str) -> None:
        """The text as a line of its own."""
        self._say(note_text)

    def finished(self, result: TrainResult) -> None:
        """The result in one line; what is said from now on is of another run."""
        self._say(summary(result))
        self._name = ""

    def stop_reason(self) -> str:
        """It may go on."""
        return ""

    def closed(self) -> None:
        """Nothing to give back."""

    def _say(self, note_text: str) -> None:
        print(f"{self._name}: {note_text}" if self._name else note_text, file=self._stream, flush=True)


class BarListener:
    """A progress bar with loss and tokens/s; brief: the bar alone, which goes at the end."""

    def __init__(self, stream: TextIO, *, brief: bool = False) -> None:
        self._stream = stream
        self._brief = brief
        self._bar = progress_bar(stream, transient=brief)
        self._task: TaskID | None = None

    def started(self, adapter_name: str, completed_steps: int, total_steps: int) -> None:
        """Draw the bar."""
        self._bar = progress_bar(self._stream, transient=self._brief)  # a bar of an earlier run stays as it ended
        self._task = self._bar.add_task(adapter_name, total=total_steps, completed=completed_steps, detail="")
        self._bar.start()

    def stepped(self, report: StepReport) -> None:
        """Move the bar."""
        if self._task is not None:
            self._bar.update(self._task, completed=report.step, detail=_numbers(report))

    def evaluated(self, step: int, validation_loss: float, is_best: bool) -> None:
        """A line above the bar."""
        self.note(_evaluation(step, validation_loss, is_best))

    def note(self, note_text: str) -> None:
        """A line above the bar."""
        if not self._brief:
            self._bar.console.print(note_text, markup=False, highlight=False, soft_wrap=True)

    def finished(self, result: TrainResult) -> None:
        """The result in one line."""
        self.note(summary(result))

    def stop_reason(self) -> str:
        """It may go on."""
        return ""

    def closed(self) -> None:
        """Leave the bar as it stands."""
        self._bar.stop()


def summary(result: TrainResult) -> str:
    """The result in one line."""
    rows = "training" if result.eval_loss is None else "validation"
    return (
        f"{count_of(result.steps, 'update')} in {result.seconds:.1f} s, {rows} loss {result.base_loss:.4f} (to beat) "
        f"-> {result.trained_loss:.4f} (update {result.best_step}), saved in {result.folder}"
    )


def _numbers(report: StepReport) -> str:
    return f"loss {report.loss:.4f}, {report.tokens_per_second:,.0f} tokens/s"


def _evaluation(step: int, validation_loss: float, is_best: bool) -> str:
    update_words = f"after update {step}" if step else "to beat"
    return f"loss {update_words}: {validation_loss:.4f}" + (" (best so far)" if is_best else "")
