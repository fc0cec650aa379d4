"""Progress of a training: a bar on a terminal, a line now and then elsewhere, or nothing."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, TextIO

from lorica.streams import progress_bar
from lorica.training.types import Listener, StepReport, TrainResult

if TYPE_CHECKING:
    from rich.progress import TaskID


def make_listener(*, logging_steps: int, stream: TextIO | None = None) -> Listener:
    """A bar when `stream` (default: stderr) is a terminal, else a line every `logging_steps` updates."""
    out = sys.stderr if stream is None else stream
    return BarListener(out) if out.isatty() else LineListener(out, logging_steps)


class SilentListener:
    """Shows nothing."""

    def started(self, name: str, done: int, total: int) -> None:
        """Nothing."""

    def stepped(self, report: StepReport) -> None:
        """Nothing."""

    def evaluated(self, step: int, loss: float, best: bool) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""

    def finished(self, result: TrainResult) -> None:
        """Nothing."""

    def closed(self) -> None:
        """Nothing."""


class LineListener:
    """Plain lines, for files and pipes."""

    def __init__(self, stream: TextIO, every: int) -> None:
        self._stream = stream
        self._every = every
        self._name = ""

    def started(self, name: str, done: int, total: int) -> None:
        """Say what begins, or goes on."""
        self._name = name
        self._say(f"{total} updates" + (f", going on after {done}" if done else ""))

    def stepped(self, report: StepReport) -> None:
        """A line every so many updates, and for the last."""
        if report.step % self._every == 0 or report.step == report.total:
            self._say(f"update {report.step}/{report.total}, {_numbers(report)}, lr {report.learning_rate:.2e}")

    def evaluated(self, step: int, loss: float, best: bool) -> None:
        """The held-out loss."""
        self._say(_evaluation(step, loss, best))

    def note(self, text: str) -> None:
        """The text as a line of its own."""
        self._say(text)

    def finished(self, result: TrainResult) -> None:
        """The result in one line; what is said from now on is of another run."""
        self._say(summary(result))
        self._name = ""

    def closed(self) -> None:
        """Nothing to give back."""

    def _say(self, text: str) -> None:
        print(f"{self._name}: {text}" if self._name else text, file=self._stream, flush=True)


class BarListener:
    """A progress bar with loss and tokens/s."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._bar = progress_bar(stream)
        self._task: TaskID | None = None

    def started(self, name: str, done: int, total: int) -> None:
        """Draw the bar."""
        self._bar = progress_bar(self._stream)  # a bar of an earlier run stays as it ended
        self._task = self._bar.add_task(name, total=total, completed=done, detail="")
        self._bar.start()

    def stepped(self, report: StepReport) -> None:
        """Move the bar."""
        if self._task is not None:
            self._bar.update(self._task, completed=report.step, detail=_numbers(report))

    def evaluated(self, step: int, loss: float, best: bool) -> None:
        """A line above the bar."""
        self.note(_evaluation(step, loss, best))

    def note(self, text: str) -> None:
        """A line above the bar."""
        self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def finished(self, result: TrainResult) -> None:
        """The result in one line."""
        self.note(summary(result))

    def closed(self) -> None:
        """Leave the bar as it stands."""
        self._bar.stop()


def summary(result: TrainResult) -> str:
    """The result in one line."""
    rows = "training" if result.eval_loss is None else "validation"
    return (
        f"{result.steps} updates in {result.seconds:.1f} s, {rows} loss {result.base_loss:.4f} (base) -> "
        f"{result.trained_loss:.4f} (update {result.best_step}), saved in {result.folder}"
    )


def _numbers(report: StepReport) -> str:
    return f"loss {report.loss:.4f}, {report.tokens_per_second:,.0f} tokens/s"


def _evaluation(step: int, loss: float, best: bool) -> str:
    after = f"after update {step}" if step else "of the base model"
    return f"loss {after}: {loss:.4f}" + (" (best so far)" if best else "")
