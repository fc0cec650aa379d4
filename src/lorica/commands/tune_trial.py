"""One trial of a study: a training with some settings, and the answers of what it trained, within the deadline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from lorica.commands import build
from lorica.commands.arguments import telling_once
from lorica.commands.dtypes import count_parameters
from lorica.commands.load_once import LoadOnce, PipelineOpener
from lorica.commands.tune_plan import StudyPlan
from lorica.config.schema import Config
from lorica.engines.base import Engine
from lorica.errors import AdapterError, ConfigError, EngineError, ModelError, PromptError, TrainingError
from lorica.failures import lacks_memory
from lorica.memory_limit import memory_limit
from lorica.metrics.bootstrap import Estimate
from lorica.pipeline.answer import Pipeline
from lorica.pipeline.evaluate import estimate_metric
from lorica.pipeline.judged_answers import judge_answers
from lorica.records import Answer, Row
from lorica.runs.run_clock import RunClock, TimeOver
from lorica.training.types import Listener
from lorica.tuning.dimensions import Settings

if TYPE_CHECKING:
    from lorica.pipeline.trainer import Trainer

TRIALS = "trials"
"""The folder of a study that holds a folder for each trial."""

# What settings may be to blame for; another error ends the study.
_OF_SETTINGS = (ConfigError, PromptError, ModelError, AdapterError, EngineError, TrainingError)
_WINDOW = 64  # rows answered between two looks at the clock
_BYTES_OF_BOTH = 12  # for a parameter, in float32: to train, to answer, and as it is multiplied fastest
_MEMORY_SHARE = 0.5


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


class TrialRunner:
    """Trains by `lorica train`'s own functions, and answers by `lorica infer`'s pipeline, on a base that is loaded once
    as long as the trials share it in one precision: to train, and to answer where that takes another one. Where the
    memory does not hold both, they are loaded in turn."""

    def __init__(self, plan: StudyPlan) -> None:
        self._plan = plan
        self._base, self._opener = LoadOnce(), PipelineOpener()
        self._trainer: Trainer | None = None
        self._trained_config: Config | None = None

    def train(self, number: int, settings: Settings, listener: Listener) -> Path:
        from lorica.commands.train_jobs import train_jobs  # imports torch
        from lorica.commands.trainers import load_trainer
        from lorica.pipeline.train import TrainJob

        plan = self._plan
        config = plan.trial_config(settings)
        task = build.build_task(config)
        folder = trial_folder(plan, number) / task.name
        if self._trainer is None:
            self._opener.drop()
        self._trainer = None  # its base may be another
        with telling_once(self._opener.messages):
            trainer = load_trainer(config, task, {}, self._base)
            job = TrainJob(task.name, plan.rows.search, plan.rows.source, folder)
            train_jobs(config, task, [job], listener, trainer)
        self._trainer, self._trained_config = trainer, config
        return folder

    def open(self, folder: Path, settings: Settings) -> Pipeline:
        config = self._plan.trial_config(settings)
        only_one = replace(config.adapters, dir="", paths={}, use=folder.name, calibration="off")
        engine = self._shared_engine(config)
        if engine is None:
            needed = _BYTES_OF_BOTH * count_parameters(build.base_folder(config))
            if needed > _MEMORY_SHARE * (memory_limit() or 0):
                self._trainer = None
                self._base.drop()
        return self._opener.open(replace(config, adapters=only_one), {folder.name: folder}, engine)

    def _shared_engine(self, config: Config) -> Engine | None:
        """The trainer's engine, where it was made with all that decides how this configuration's would be."""
        trained = self._trained_config
        if self._trainer is None or trained is None:
            return None
        is_same = (trained.model, trained.engine, trained.inference) == (config.model, config.engine, config.inference)
        return self._trainer.engine() if is_same else None


def trial_folder(plan: StudyPlan, number: int) -> Path:
    """Where a trial keeps its adapter."""
    return plan.folder / TRIALS / f"{number:04}"


def answer_within(pipeline: Answering, rows: Sequence[Row], clock: RunClock, *, reserve: float) -> dict[str, Answer]:
    """Answers by row id, of the first rows only where the time does not suffice for all. reserve: seconds that must be
    left of the study's."""
    answers: dict[str, Answer] = {}
    longest = 0.0
    with suppress(TimeOver), clock.interrupting(reserve):
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
