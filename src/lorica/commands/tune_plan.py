"""What a study of `lorica tune` is of: its rows, what it varies, and the configuration of each trial."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from lorica.commands import build
from lorica.commands.arguments import Overrides, override_words, resolve, with_settings
from lorica.commands.rows import reading_log, tell
from lorica.commands.tune_space import configured, study_dimensions
from lorica.config.compose import Resolved
from lorica.config.fields import SHORT_KEYS, key_specs
from lorica.config.parse_values import show
from lorica.config.schema import Config
from lorica.data.digest import file_digest
from lorica.data.split import split
from lorica.engine_table import ENGINES
from lorica.errors import ConfigError, DataError
from lorica.metrics.base import Metric
from lorica.metrics.metric_table import find_metric
from lorica.names import shell_line, visible_values
from lorica.records import Row
from lorica.runs.run_record import read_record
from lorica.tasks.base import Task
from lorica.tuning.dimensions import Dimension, Settings, deciding, overrides_of
from lorica.version import __version__

ATTEMPT = "attempt-{}"
"""The folder of an attempt, by its number."""

_EARLIER = "earlier"  # in the manifest of an attempt: the settings that it was to try first

# Keys of the study itself, which no training takes.
_STUDY_KEYS = ("minutes", "run_dir", "output", "training.resume", *SHORT_KEYS)
# What may differ from session to session.
_FREE_KEYS = (*_STUDY_KEYS, "tune.trials", "tune.attempts", "tune.minutes_per_attempt", "training.logging_steps")
# What no trial reads, or what stands in the manifest as what is varied.
_OF_OTHERS = ("tune.space", "adapt.", "folds.")
_FEWEST_COMPARED = 10  # rows of the last comparison


@dataclass(frozen=True)
class StudyRows:
    """search: what trials learn from and are chosen by; validation: those of them that are held out in every trial.
    compared: the others, in random order, so that the first of them are a sample. source: their file."""

    search: list[Row]
    validation: list[Row]
    compared: list[Row]
    source: str


@dataclass(frozen=True)
class StudyPlan:
    """What a study is given. defaults: what the configuration has for each dimension. earlier: settings to try first.
    minutes: that it may take in all. seed: of the division into training and validation rows, and of the sampler."""

    resolved: Resolved
    overrides: Overrides
    folder: Path
    task: Task
    rows: StudyRows
    dimensions: tuple[Dimension, ...]
    defaults: Settings
    minutes: float
    seed: int
    manifest: dict[str, str]
    earlier: tuple[Settings, ...] = ()

    @property
    def config(self) -> Config:
        """Without what trials change."""
        return self.resolved.config

    @property
    def metric(self) -> Metric:
        """What the trials are chosen by: the task's main metric."""
        return find_metric(self.task.metric_names[0])

    def trial_config(self, settings: Mapping[str, Any]) -> Config:
        """The configuration of a trial; {} is the defaults'. Raises ConfigError for a combination that cannot be."""
        chosen = overrides_of(settings, rank=self.config.lora.r)
        config = resolve(with_settings(self.overrides, chosen, _is_trained)).config
        return replace(config, run_dir="", training=replace(config.training, resume=True, seed=self.seed))

    def train_command(self, settings: Mapping[str, Any]) -> str:
        """The `lorica train` with these settings on all rows, for a shell."""
        chosen = overrides_of(settings, rank=self.config.lora.r)
        words = override_words(with_settings(self.overrides, chosen, _is_trained))
        return shell_line("lorica", "train", *words, f"run_dir=runs/{self.task.name}-tuned")


def _is_trained(key: str) -> bool:
    return key not in _STUDY_KEYS and key.partition(".")[0] != "tune"


def plan_study(resolved: Resolved, overrides: Overrides) -> StudyPlan:
    """Read the rows and lay out the study. Raises ConfigError for settings, DataError for rows that are too few."""
    from lorica.commands.trainers import check_trainable  # imports torch, as training does: the clock runs by then

    config = resolved.config
    check_trainable(config)
    task = build.build_task(config)
    dimensions = study_dimensions(resolved, task)
    rows = _read_rows(config, task)
    folder = Path(config.run_dir) if config.run_dir else Path("runs") / f"tune-{task.name}"
    return StudyPlan(
        resolved=resolved,
        overrides=overrides,
        folder=folder,
        task=task,
        rows=rows,
        dimensions=tuple(dimensions),
        defaults=deciding(dimensions, {dimension.key: configured(resolved, dimension.key) for dimension in dimensions}),
        minutes=config.minutes,
        seed=config.training.seed,
        manifest=_manifest(resolved, dimensions),
    )


def next_attempt(plan: StudyPlan, number: int, earlier: Sequence[Settings]) -> StudyPlan:
    """The study of an attempt, from 1: the same rows to compare on, the others divided by another seed. earlier: the
    best settings of the attempts before; an attempt that was begun stays with those that it began with, also where
    more minutes let one before it find others."""
    seed, folder = plan.seed + number - 1, plan.folder / ATTEMPT.format(number)
    with suppress(DataError, KeyError, msgspec.MsgspecError):
        earlier = msgspec.json.decode(read_record(folder).manifest[_EARLIER], type=list[Settings])
    rows = replace(plan.rows, validation=_validation(plan.config, plan.task, plan.rows.search, plan.rows.source, seed))
    manifest = plan.manifest | {_EARLIER: msgspec.json.encode(earlier).decode()}
    return replace(
        plan,
        folder=folder,
        rows=rows,
        minutes=plan.config.tune.minutes_per_attempt,
        seed=seed,
        earlier=tuple(earlier),
        manifest=visible_values(manifest | {"seed": str(seed)}),
    )


def _read_rows(config: Config, task: Task) -> StudyRows:
    if config.data or config.training.per_subject or config.folds.wanted:
        raise ConfigError(
            "a study is of one adapter, and these settings train one for each "
            + ("fold" if config.folds.wanted else "subject"),
            fix="give input=FILE without folds and training.per_subject, or run a study for each subject",
        )
    if not config.training.val_ratio:
        fix = "leave it out, or set training.val_ratio=0.15"
        raise ConfigError("training.val_ratio=0 leaves no rows to choose trials by", fix=fix)
    from lorica.commands.train_plan import plan_jobs  # imports torch, too

    read_log = reading_log(config)
    (job,) = plan_jobs(config, task, read_log)
    tell(read_log)
    search, compared = split(
        job.rows, ratio=config.tune.compare_ratio, seed=config.training.seed, text=task.text, source=job.source
    )
    if len(compared) < _FEWEST_COMPARED:
        raise DataError(
            f"{len(job.rows)} rows are too few: {len(compared)} would be left to compare the best settings with the "
            f"defaults on, and at least {_FEWEST_COMPARED} are needed",
            path=job.source,
            fix="give more rows, or raise tune.compare_ratio",
        )
    random.Random(config.training.seed).shuffle(compared)
    validation = _validation(config, task, search, job.source, config.training.seed)
    return StudyRows(search, validation, compared, job.source)


def _validation(config: Config, task: Task, search: Sequence[Row], source: str, seed: int) -> list[Row]:
    """The rows that every trial holds out. Raises DataError where there are none."""
    from lorica.pipeline.train import TrainJob, train_val_split

    job = TrainJob(task.name, search, source, Path())
    validation = train_val_split(job, task, val_ratio=config.training.val_ratio, seed=seed).validation
    if not validation:
        problem = f"{len(search)} rows are too few to hold some out and choose trials by them"
        fix = "give more rows, or lower tune.compare_ratio"
        raise DataError(problem, path=source, fix=fix)
    return list(validation)


def _manifest(resolved: Resolved, dimensions: Sequence[Dimension]) -> dict[str, str]:
    """All that decides what a study finds, as text."""
    config = resolved.config
    varied = {dimension.key: dimension.describe() for dimension in dimensions}
    settings = {
        key: show(configured(resolved, key))
        for key in key_specs()
        if key not in (*_FREE_KEYS, "input", "tune.vary") and not key.startswith(_OF_OTHERS)
    }
    if ENGINES[config.engine.name].runs_model:
        settings["base"] = build.base_folder(config).digest
    if config.tune.attempts:
        settings["kind"] = "attempts"
    manifest: dict[str, str] = visible_values(
        {"lorica": __version__, "input": file_digest(config.input), **settings}
        | {f"space.{key}": text for key, text in varied.items()}
    )
    return manifest
