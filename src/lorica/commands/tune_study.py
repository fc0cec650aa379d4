"""A study under way: trial after trial until minutes, trials or settings are used up, and the last comparison.

Whatever ends it, the best adapter so far lies on disk and `best.json` names it.
"""

from __future__ import annotations

import math
import shutil
import statistics
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from lorica.commands.tune_plan import StudyPlan
from lorica.commands.tune_trial import Answering, Runner, answer_within, blamed_on_settings, measure, trial_folder
from lorica.data.write import atomic_file, read_answers, write_answers
from lorica.errors import DataError
from lorica.pipeline.compare import PairComparison, compare
from lorica.pipeline.judged_answers import judge_answers
from lorica.records import Answer
from lorica.runs.run_clock import RunClock, TimeOver
from lorica.runs.run_record import record_json
from lorica.training.listeners import make_brief_listener
from lorica.training.types import TrainingStopped
from lorica.tuning.dimensions import Settings
from lorica.tuning.optuna_study import suggest
from lorica.tuning.pruning import comparable_curves, is_hopeless
from lorica.tuning.trial_listener import CUT, TrialListener
from lorica.tuning.trial_store import Origin, Trial, TrialStore, best_of

DEFAULTS = "the defaults"
BEST_NAME = "best.json"
_COMPARED = "compared"
REPORT_SECONDS = 3.0  # for intervals, importances and the page
_MARGIN = 1.25  # of what is kept for work of which the time is known
_WORTH = 0.8  # of the fastest trial's time: with less a trial is not begun
_FEWEST_PAIRS = 10  # rows that both answered, for a comparison

Ending = Literal["minutes", "trials", "settings"]


@dataclass
class Study:
    """One session of a study. on_trial: is told each trial as it ends."""

    plan: StudyPlan
    runner: Runner
    clock: RunClock
    store: TrialStore
    on_trial: Callable[[Trial], None] = lambda trial: None

    @property
    def maximize(self) -> bool:
        return self.plan.metric.higher_is_better

    @property
    def best(self) -> Trial | None:
        return best_of(self.store.all, maximize=self.maximize)

    def search(self) -> Ending:
        """Try settings until something is used up. Raises what the trial of the defaults raises."""
        self._remove_leftovers()
        while True:
            number = len(self.store.ended)
            if number >= self.plan.config.tune.trials:
                return "trials"
            if not self._is_time_for(number):
                return "minutes"
            chosen = self._settings_of(number)
            if chosen is None:
                return "settings"
            trial = self._try(number, *chosen)
            self.store.add(trial)
            self.clock.save(force=True)
            self._name_best()
            self._remove_leftovers()
            self.on_trial(trial)
            if trial.state == "cut":
                return "minutes"

    def comparison(self) -> PairComparison | None:
        """The best settings against the defaults on rows that no trial saw, as many as the time allows; None where the
        defaults are the best, no trial finished, or too few rows could be answered."""
        best = self.best
        if best is None or best.number == 0:
            return None
        answers = [self._compared_answers(trial) for trial in (best, self.store.of_number[0])]
        rows = [row for row in self.plan.rows.compared if all(row.id in trial_answers for trial_answers in answers)]
        if len(rows) < _FEWEST_PAIRS:
            return None
        names = (trial_name(best.number), DEFAULTS)
        judged = {
            name: judge_answers(self.plan.task, rows, trial_answers)
            for name, trial_answers in zip(names, answers, strict=True)
        }
        return compare(self.plan.task, judged).pairs[0]

    def adapter_folder(self, number: int) -> Path:
        """The adapter of a trial that is kept: the best one, and that of the defaults."""
        return trial_folder(self.plan, number) / self.plan.task.name

    def state_folder(self) -> Path:
        """Where the trial that was cut keeps its state: the best adapter that it had so far, or its folder."""
        folder = self.adapter_folder(len(self.store.ended))
        return next(iter(sorted(folder.glob("checkpoints/best-*"))), folder)

    def _is_time_for(self, number: int) -> bool:
        """Whether a trial may be begun, or the one that was cut go on."""
        spare = self.clock.remaining - self._reserve()
        finished = self.store.finished
        if not finished or number in self.store.of_number:
            return spare > 0
        return spare > _WORTH * min(trial.seconds - trial.tail for trial in finished)

    def _settings_of(self, number: int) -> tuple[Settings, Origin] | None:
        """What trial `number` tries: the defaults, what attempts before found, then what is suggested."""
        fixed = [self.plan.defaults, *(earlier for earlier in self.plan.earlier if earlier != self.plan.defaults)]
        if number < len(fixed):
            return fixed[number], "earlier attempt" if number else "defaults"
        plan = self.plan
        settings = suggest(plan.dimensions, self.store.ended, seed=plan.seed, maximize=self.maximize)
        return None if settings is None else (settings, "suggested")

    def _try(self, number: int, settings: Settings, origin: Origin) -> Trial:
        began = self.clock.used
        former_curves = comparable_curves(self.store.ended, settings)
        prunes = self.plan.config.tune.prune and origin == "suggested"
        listener = TrialListener(
            make_brief_listener(),
            trial_name(number),
            trial_folder(self.plan, number),
            self.clock,
            reserve=self._reserve,
            is_hopeless=partial(is_hopeless, former_curves=former_curves) if prunes else lambda curve: False,
        )
        outcome: dict[str, Any]
        try:
            applied = settings if number else {}
            with self.clock.interrupting(REPORT_SECONDS):  # what no step before it told the length of
                adapter = self.runner.train(number, applied, listener)
                opening = self.clock.used
                pipeline = self.runner.open(adapter, applied)
            outcome = self._value(number, pipeline, listener, self.clock.used - opening)
        except TimeOver:
            outcome = {"state": "cut"}
        except TrainingStopped as stop:
            outcome = {"state": "cut" if str(stop) == CUT else "pruned"}
        except Exception as error:
            problem = blamed_on_settings(error)
            if not problem or number == 0:
                raise
            outcome = {"state": "failed", "problem": problem}
        finally:
            self.clock.save(force=True)
        return Trial(
            number=number,
            settings=settings,
            origin=origin,
            curve=listener.curve,
            share=listener.share,
            seconds=self.clock.used - began,
            used=self.clock.used,
            **outcome,
        )

    def _value(self, number: int, pipeline: Answering, listener: TrialListener, opening: float) -> dict[str, Any]:
        """The outcome of a trial that was trained: its value, or that the time did not suffice for it. opening: seconds
        that loading what was trained took."""
        rows = self.plan.rows.validation
        answers = answer_within(pipeline, rows, self.clock, reserve=REPORT_SECONDS)
        if len(answers) < len(rows):
            return {"state": "cut"}
        value = measure(self.plan, answers)
        if math.isnan(value.value):
            problem = f"{self.plan.metric.name} is undefined on the {len(rows)} validation rows ({value.note})"
            if number:
                return {"state": "failed", "problem": problem}
            fix = "give more rows, with every label among them"
            raise DataError(problem, path=self.plan.rows.source, fix=fix)
        low, high = (None if math.isnan(bound) else bound for bound in (value.low, value.high))
        tail = self.clock.used - listener.last_told
        comparing = 0.0 if number else opening + self._time_comparing(pipeline)
        timing = {"tail": tail, "comparing": comparing}
        return {"state": "finished", "value": value.value, "low": low, "high": high, **timing}

    def _time_comparing(self, pipeline: Answering) -> float:
        """Answer the rows of the last comparison by the defaults, beforehand: nobody looks at the answers yet, but the
        time that the best settings will take for them is known. Returns the seconds for all rows."""
        began = self.clock.used
        rows = self.plan.rows.compared
        answers = answer_within(pipeline, rows, self.clock, reserve=REPORT_SECONDS)
        if answers:
            write_answers(self._compared_path(0), answers.values())
        return (self.clock.used - began) * len(rows) / max(1, len(answers))

    def _compared_answers(self, trial: Trial) -> dict[str, Answer]:
        """The answers of a trial's adapter to the rows of the last comparison, those that were answered before kept."""
        path = self._compared_path(trial.number)
        answers = {answer.id: answer for answer in read_answers(path)} if path.exists() else {}
        unanswered = [row for row in self.plan.rows.compared if row.id not in answers]
        if not unanswered:
            return answers
        with suppress(TimeOver):
            with self.clock.interrupting(REPORT_SECONDS):
                pipeline = self.runner.open(self.adapter_folder(trial.number), trial.settings if trial.number else {})
            answers |= answer_within(pipeline, unanswered, self.clock, reserve=REPORT_SECONDS)
            if answers:
                write_answers(path, answers.values())
        return answers

    def _compared_path(self, number: int) -> Path:
        folder = self.plan.folder / _COMPARED
        folder.mkdir(exist_ok=True)
        return folder / f"{number:04}.jsonl"

    def _reserve(self) -> float:
        """Seconds that must be left when a training ends: for its passport and its value, and for the comparison. The
        first one learns as long as there is time, for whether it ends now or in what follows, it goes on from there."""
        finished = self.store.finished
        if not finished:
            return REPORT_SECONDS
        # That of trial 0 in a process that has yet to import what it needs.
        tail = statistics.median([trial.tail for trial in finished[1:]] or [finished[0].tail])
        return _MARGIN * (tail + self.store.of_number[0].comparing) + REPORT_SECONDS

    def _name_best(self) -> None:
        """Say on disk which adapter is the best so far, before the former one goes."""
        best = self.best
        if best is None:
            return
        settings = best.settings if best.number else {}
        content = {
            "trial": best.number,
            "adapter": self.adapter_folder(best.number),
            "settings": best.settings,
            self.plan.metric.name: {"value": best.value, "low": best.low, "high": best.high},
            "command": self.plan.train_command(settings),
        }
        with atomic_file(self.plan.folder / BEST_NAME) as best_file:
            best_file.write(record_json(content))

    def _remove_leftovers(self) -> None:
        """Remove what was trained by trials that ended, but for the best one and the defaults."""
        best = self.best
        needed = {0, None if best is None else best.number}
        for trial in self.store.ended:
            if trial.number not in needed:
                shutil.rmtree(trial_folder(self.plan, trial.number), ignore_errors=True)


def trial_name(number: int) -> str:
    """As messages call a trial."""
    return f"trial {number}" if number else f"trial 0, {DEFAULTS}"
