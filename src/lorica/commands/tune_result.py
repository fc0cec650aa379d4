"""What `lorica tune` found, as data, text and plain values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorica.commands.eval_report import pair_dict
from lorica.commands.pages.page_parts import difference_text, p_text, pair_sentence
from lorica.commands.tune_study import DEFAULTS, Ending, trial_name
from lorica.config.parse_values import show
from lorica.metrics.paired_tests import SIGNIFICANCE
from lorica.names import count_of
from lorica.pipeline.compare import PairComparison
from lorica.reports.page import Cell, ReportTable
from lorica.reports.text_table import plain_table
from lorica.tuning.dimensions import Dimension, settings_name
from lorica.tuning.trial_store import Trial

RESULT_NAME = "tune.json"
_MAX_LINES = 12  # of trials that a terminal shows

ENDINGS: Mapping[Ending, str] = {
    "minutes": "its minutes are used",
    "trials": "all its trials were made",
    "settings": "all settings were tried",
}


@dataclass(frozen=True)
class TuneResult:
    """trials: in their order; best: the one with the best value of `metric` on the `validation_rows`, None where none
    finished. adapter: the best one's folder, or where the one that was cut keeps its state. comparison: the best
    settings minus the defaults on `compared_rows` that no trial saw; None where there is nothing to compare.
    importance: key -> share of the variance of the values. seconds: that all sessions used. commands: "best" and
    "defaults" -> the `lorica train` with these settings; "more" -> what goes on with the study.
    """

    folder: Path
    metric: str
    higher_is_better: bool
    trials: tuple[Trial, ...]
    best: Trial | None
    adapter: Path
    dimensions: tuple[Dimension, ...]
    importance: Mapping[str, float]
    comparison: PairComparison | None
    validation_rows: int
    compared_rows: int
    ended_by: Ending
    seconds: float
    minutes: float
    commands: Mapping[str, str]

    @property
    def defaults(self) -> Trial | None:
        """The trial of the settings as they are."""
        return self.trials[0] if self.trials else None

    @property
    def is_better(self) -> bool:
        """Whether the best settings beat the defaults on rows that no trial saw, by more than chance."""
        return self.comparison is not None and self.comparison.better == self.comparison.first

    @property
    def command(self) -> str:
        """What to do next."""
        is_known = sum(trial.value is not None for trial in self.trials) > 1
        return self.commands["best" if self.is_better else "defaults" if is_known else "more"]

    @property
    def validation_gain(self) -> float:
        """How much better the best trial is than the defaults on the validation rows, on which it was chosen."""
        if self.best is None or self.best.value is None or self.trials[0].value is None:
            return 0.0
        return abs(self.best.value - self.trials[0].value)

    @property
    def ordered(self) -> list[Trial]:
        """The finished trials, the best first, then the others."""
        sign = -1 if self.higher_is_better else 1
        return sorted(
            self.trials, key=lambda trial: (math.inf if trial.value is None else sign * trial.value, trial.number)
        )

    @property
    def verdict(self) -> str:
        """What was found, in sentences."""
        if self.best is None:
            return (
                f"No trial finished in {self.minutes:g} minutes, so nothing is known of the settings. What was learned "
                f"is kept in {self.adapter}: more minutes with training.resume=true go on from there."
            )
        defaults = self.trials[0]
        if not any(trial.value is not None for trial in self.trials[1:]):
            return (
                f"No other trial finished, so nothing is known of other settings than {DEFAULTS} ({self.metric} "
                f"{value_text(defaults)} on the {self.validation_rows:,} validation rows): more minutes with "
                "training.resume=true go on."
            )
        if self.best.number == 0:
            is_perfect = self.higher_is_better and defaults.value == 1.0
            ceiling = " No settings can do better than 1: give more validation rows, or harder ones."
            return (
                f"No settings did better than {DEFAULTS} on the {self.validation_rows:,} validation rows "
                f"({self.metric} {value_text(defaults)}): stay with {DEFAULTS}.{ceiling if is_perfect else ''}"
            )
        chosen = (
            f"On the {self.validation_rows:,} validation rows {trial_name(self.best.number)} has {self.metric} "
            f"{value_text(self.best)}, {DEFAULTS} {value_text(defaults)}; it was chosen on them, which favours it."
        )
        return f"{chosen} {self._compared()}"

    def _compared(self) -> str:
        if self.comparison is None:
            return (
                "No time was left to compare them on rows that no trial saw: more minutes with training.resume=true "
                f"do. Until then stay with {DEFAULTS}."
            )
        names = {name: name for name in (self.comparison.first, self.comparison.second)}
        sentence = pair_sentence(self.comparison, self.metric, names)
        scope = f"On {self.comparison.n:,} rows that no trial saw"
        if self.comparison.n < self.compared_rows:
            scope += f" (of {self.compared_rows:,}: time was over)"
        advice = "Train with these settings." if self.is_better else f"Stay with {DEFAULTS}."
        return f"{scope}: {sentence} {advice}"


def tune_dict(result: TuneResult) -> dict[str, Any]:
    """The result as values of JSON."""
    return {
        "folder": result.folder,
        "metric": result.metric,
        "ended_by": result.ended_by,
        "seconds": round(result.seconds, 3),
        "minutes": result.minutes,
        "best": None if result.best is None else result.best.number,
        "adapter": result.adapter,
        "validation_rows": result.validation_rows,
        "compared_rows": result.compared_rows,
        "comparison": None if result.comparison is None else pair_dict(result.comparison),
        "better": result.is_better,
        "verdict": result.verdict,
        "command": result.command,
        "commands": result.commands,
        "importance": result.importance,
        "space": {dimension.key: dimension.describe() for dimension in result.dimensions},
        "trials": [_trial_dict(trial) for trial in result.trials],
    }


def _trial_dict(trial: Trial) -> dict[str, Any]:
    names = ("state", "origin", "settings", "value", "low", "high", "curve", "share")
    values = {"trial": trial.number, **{name: getattr(trial, name) for name in names}}
    return {**values, "seconds": round(trial.seconds, 3), "problem": trial.problem}


def tune_text(result: TuneResult) -> str:
    """The trials, what mattered, the verdict and the next command."""
    counts = ", ".join(f"{count} {state}" for state, count in state_counts(result.trials).items())
    blocks = [
        f"Trials: {len(result.trials)} ({counts}) in {result.seconds:.0f} s; the study ended because "
        f"{ENDINGS[result.ended_by]}. All of it: {result.folder}",
        plain_table(trials_table(result, result.ordered[:_MAX_LINES]), max_cell=60),
    ]
    if len(result.trials) > _MAX_LINES:
        blocks.append(f"... and {len(result.trials) - _MAX_LINES} more, in {result.folder / RESULT_NAME}")
    if result.importance:
        shares = ", ".join(f"{key} {share:.0%}" for key, share in result.importance.items())
        blocks.append(f"What mattered (share of the variance): {shares}")
    blocks.append(result.verdict)
    if result.best is not None:
        blocks.append(f"The best adapter: {result.adapter}")
    blocks.append(f"Next:\n{result.command}")
    return "\n\n".join(blocks)


def state_counts(trials: Sequence[Trial]) -> dict[str, int]:
    """State -> how many, without those that none is in."""
    states = [trial.state for trial in trials]
    return {state: states.count(state) for state in ("finished", "pruned", "failed", "cut") if state in states}


def trials_table(result: TuneResult, trials: Sequence[Trial], *, interactive: bool = False) -> ReportTable:
    """Trials with their settings."""
    keys = [dimension.key for dimension in result.dimensions]
    rows: list[tuple[Cell, ...]] = [
        (
            trial.number,
            *(show(trial.settings[key]) if key in trial.settings else "" for key in keys),
            value_text(trial) if trial.value is not None else "",
            _state(trial),
            f"{trial.seconds:.1f}",
        )
        for trial in trials
    ]
    heads = ("trial", *(key.rpartition(".")[2] for key in keys), result.metric, "state", "seconds")
    return ReportTable(heads, tuple(rows), interactive=interactive)


def _state(trial: Trial) -> str:
    if trial.state == "failed":
        return f"failed: {trial.problem}"
    if trial.state in ("cut", "pruned"):
        return f"{trial.state} at {trial.share:.0%}"
    return f"{trial.state} ({DEFAULTS})" if trial.number == 0 else trial.state


def value_text(trial: Trial) -> str:
    """The value with its interval."""
    if trial.value is None:
        return "undefined"
    if trial.low is None or trial.high is None:
        return f"{trial.value:.3f}"
    return f"{trial.value:.3f} [{trial.low:.3f}, {trial.high:.3f}]"


def progress_line(trial: Trial, best: Trial | None, metric: str, seconds: float, minutes: float) -> str:
    """One line for a trial that ended. seconds: that the study has used of its minutes."""
    clock = f"{seconds / 60:.1f} of {minutes:g} minutes"
    outcome = f"{metric} {value_text(trial)}" if trial.value is not None else _state(trial)
    best_words = f"; best: {trial_name(best.number)}, {value_text(best)}" if best is not None else ""
    return f"{trial_name(trial.number)} ({settings_name(trial.settings)}): {outcome}{best_words}; {clock}"


@dataclass(frozen=True)
class AttemptsResult:
    """attempts: in their order. p_corrected: the p-value of each one's comparison, corrected for their number (Holm);
    nan where there was none."""

    folder: Path
    attempts: tuple[TuneResult, ...]
    p_corrected: tuple[float, ...]

    @property
    def adopted(self) -> int | None:
        """The attempt, from 1, whose best settings beat the defaults by more than chance; of several the one that
        gained most on its validation rows. None where none did."""
        better = [
            number
            for number, (result, p_value) in enumerate(zip(self.attempts, self.p_corrected, strict=True), 1)
            if result.is_better and p_value < SIGNIFICANCE
        ]
        return max(better, key=lambda number: self.attempts[number - 1].validation_gain, default=None)

    @property
    def is_known(self) -> bool:
        """Whether any attempt finished a trial of other settings than the defaults."""
        return any(trial.value is not None for result in self.attempts for trial in result.trials[1:])

    @property
    def decision(self) -> str:
        """In a few words."""
        if self.adopted is not None:
            return f"adopt the settings of attempt {self.adopted}"
        return f"keep {DEFAULTS}" if self.is_known else "none yet, for too little was tried"

    @property
    def command(self) -> str:
        """What to do next."""
        if self.adopted is not None:
            return self.attempts[self.adopted - 1].commands["best"]
        return self.attempts[-1].commands["defaults" if self.is_known else "more"]

    @property
    def verdict(self) -> str:
        """The decision and why, in sentences."""
        trials = sum(len(result.trials) for result in self.attempts)
        minutes = sum(result.seconds for result in self.attempts) / 60
        counts = count_of(len(self.attempts), "attempt"), count_of(trials, "trial")
        effort = f"{', '.join(counts)}, {minutes:.1f} minutes."
        if self.adopted is None:
            return f"Decision: {self.decision}. {effort} {self._why_not()}"
        result = self.attempts[self.adopted - 1]
        assert result.best is not None
        assert result.comparison is not None
        return (
            f"Decision: {self.decision} ({settings_name(result.best.settings)}). {effort} On {result.comparison.n:,} "
            f"rows that no trial saw they beat {DEFAULTS}: {result.metric} "
            f"{difference_text(result.comparison.test.difference)}, p {p_text(self.p_corrected[self.adopted - 1])} "
            f"(corrected for {len(self.attempts)} attempts)."
        )

    def _why_not(self) -> str:
        if not self.is_known:
            return f"No trial of other settings than {DEFAULTS} finished: give more minutes_per_attempt."
        pairs = [result.comparison for result in self.attempts if result.comparison is not None]
        if not pairs:
            return f"On the validation rows of no attempt any settings did better than {DEFAULTS}, or no time was left."
        differences = ", ".join(difference_text(pair.test.difference) for pair in pairs)
        detectable = [pair.test.detectable for pair in pairs if not math.isnan(pair.test.detectable)]
        shown = f"; so many rows show a difference of {max(detectable):.3f} four times in five" if detectable else ""
        return (
            f"On up to {max(pair.n for pair in pairs):,} rows that no trial saw, the best settings of no attempt beat "
            f"them by more than chance: {self.attempts[0].metric} {differences}{shown}."
        )
