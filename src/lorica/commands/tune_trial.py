"""One trial of a study: a training with some settings, and the answers of what it trained, within the deadline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from lorica.commands import build
from lorica.commands.arguments import telling_once
from lorica.commands.tune_plan import StudyPlan
from lorica.errors import AdapterError, ConfigError, EngineError, ModelError, PromptError, TrainingError
from lorica.failures import lacks_memory
from lorica.metrics.bootstrap import Estimate
from lorica.pipeline.answer import Pipeline
from lorica.pipeline.evaluate import estimate_metric
from lorica.pipeline.judged_answers import judge_answers
from lorica.records import Answer, Row
from lorica.training.types import Listener
from lorica.tuning.dimensions import Settings
from lorica.tuning.study_clock import StudyClock

TRIALS = "trials"
"""The folder of a study that holds a folder for each trial."""

# What settings may be to blame for; another error ends the study.
_OF_SETTINGS = (ConfigError, PromptError, ModelError, AdapterError, EngineError, TrainingError)
_WINDOW = 64  # rows answered between two looks at the clock


class Answering(Protocol):
    """What a trial is asked with: the part of `Pipeline` that a study uses."""

    def answer(self, rows: Sequence[Row]) -> list[Answer]:
        """Answer rows, in their order."""
        ...


class Runner(Protocol):
    """Trains with settings and opens what was trained."""

    def train(self, number: int, settings: Settings, listener: Listener) -> Path:
        """Train trial `number`, or go on where it was; the adapter's folder. Raises TrainingStopped when the listener
        wants an end."""
        ...

    def open(self, folder: Path, settings: Settings) -> Answering:
        """The adapter in a folder, ready to answer."""
        ...


@dataclass
class TrialRunner:
    """Trains by `lorica train`'s own function, and answers by `lorica infer`'s pipeline. messages: what was said, and
    is not said for each trial again."""

    plan: StudyPlan
    messages: set[str] = field(default_factory=set)

    def train(self, number: int, settings: Settings, listener: Listener) -> Path:
        """See `Runner`."""
        from lorica.commands.train import train_jobs  # imports torch
        from lorica.pipeline.train import TrainJob

        plan = self.plan
        config = plan.trial_config(settings)
        task = build.build_task(config)
        folder = trial_folder(plan, number) / task.name
        with telling_once(self.messages):
            train_jobs(config, task, [TrainJob(task.name, plan.rows.search, plan.rows.source, folder)], listener)
        return folder

    def open(self, folder: Path, settings: Settings) -> Pipeline:
        """See `Runner`."""
        config = self.plan.trial_config(settings)
        only_one = replace(config.adapters, dir="", paths={}, use=folder.name, calibration="off")
        with telling_once(self.messages):
            adapters = build.open_adapters({folder.name: folder})
            return build.build_pipeline(replace(config, adapters=only_one), build.base_folder(config), adapters)


def trial_folder(plan: StudyPlan, number: int) -> Path:
    """Where a trial keeps its adapter."""
    return plan.folder / TRIALS / f"{number:04}"


def answer_within(pipeline: Answering, rows: Sequence[Row], clock: StudyClock, *, reserve: float) -> dict[str, Answer]:
    """Answers by row id, of the first rows only where the time does not suffice for all. reserve: seconds that must be
    left of the study's."""
    answers: dict[str, Answer] = {}
    longest = 0.0
    for start in range(0, len(rows), _WINDOW):
        began = clock.used
        if clock.remaining - reserve <= longest:
            break
        window = rows[start : start + _WINDOW]
        answers |= {answer.id: answer for answer in pipeline.answer(window)}
        longest = max(longest, clock.used - began)
        clock.save()
    return answers


def measure(plan: StudyPlan, answers: Mapping[str, Answer]) -> Estimate:
    """The main metric on the validation rows."""
    return estimate_metric(plan.metric, judge_answers(plan.task, plan.rows.validation, answers), seed=0)


def blamed_on_settings(error: Exception) -> str:
    """Why a trial with such settings fails, in one line; "" for an error that other settings would meet, too."""
    if isinstance(error, _OF_SETTINGS) and not isinstance(error.__cause__, OSError):
        return error.message.splitlines()[0]
    return "there was not enough memory" if lacks_memory(error) else ""
