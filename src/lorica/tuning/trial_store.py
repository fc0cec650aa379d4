"""What a study has tried so far, on disk at every moment, so that a killed one goes on as if nothing had been."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import msgspec

from lorica.data.record_log import RecordLog
from lorica.errors import DataError

TRIALS_NAME = "trials.jsonl"

State = Literal["finished", "pruned", "failed", "cut"]
Origin = Literal["defaults", "earlier attempt", "suggested"]

Curve = tuple[tuple[float, float], ...]
"""(share of the updates, loss on the validation rows), in the order of the updates."""


class Trial(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of `trials.jsonl`.

    value: the task's main metric on the validation rows, with its 95% interval; None unless the trial finished. curve:
    the losses that it was judged by on the way. share: of its updates that were made. seconds: that it took in its last
    session, tail: of them after its training, comparing: that the rows of the last comparison take. used: that the
    study had used when it ended. problem: why it failed. A trial that was cut by the deadline goes on where it was when
    there are more minutes.
    """

    number: int
    settings: dict[str, Any]
    state: State
    origin: Origin = "suggested"
    value: float | None = None
    low: float | None = None
    high: float | None = None
    curve: Curve = ()
    share: float = 0.0
    seconds: float = 0.0
    tail: float = 0.0
    comparing: float = 0.0
    used: float = 0.0
    problem: str = ""


class TrialStore:
    """The trials of a study. of_number: the last that was recorded of each."""

    def __init__(self, folder: Path) -> None:
        """Reads those of an earlier session. Raises DataError for lines that are none."""
        start_anew = f"start anew: name another run_dir, or delete {folder} with all that was trained for them"
        self._log = RecordLog(folder / TRIALS_NAME, Trial, noun="trial", start_anew=start_anew)
        self.of_number: dict[int, Trial] = {}
        for line, trial in enumerate(self._log.records, 1):
            former = self.of_number.get(trial.number)
            if trial.number > len(self.of_number) or (former is not None and former.state != "cut"):
                raise DataError(
                    f"trial {trial.number} does not follow from those before",
                    path=self._log.path,
                    line=line,
                    fix=self._log.start_anew,
                )
            self.of_number[trial.number] = trial

    def add(self, trial: Trial) -> None:
        """Append, synced. Raises DataError when the disk refuses."""
        self._log.append(trial)
        self.of_number[trial.number] = trial

    @property
    def all(self) -> tuple[Trial, ...]:
        """Every trial, with one that was cut."""
        return tuple(self.of_number.values())

    @property
    def ended(self) -> tuple[Trial, ...]:
        """Those that will not go on."""
        return tuple(trial for trial in self.of_number.values() if trial.state != "cut")

    @property
    def finished(self) -> tuple[Trial, ...]:
        """Those with a value."""
        return tuple(trial for trial in self.of_number.values() if trial.state == "finished")


def best_of(trials: tuple[Trial, ...], *, maximize: bool) -> Trial | None:
    """The finished trial with the best value, the first of equals; None where none finished."""
    best: Trial | None = None
    sign = 1 if maximize else -1
    for trial in trials:
        if trial.value is not None and (best is None or sign * trial.value > sign * (best.value or 0.0)):
            best = trial
    return best
