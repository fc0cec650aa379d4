"""The Python API of what trains by itself: adaptation at test time, and the search for training settings.

Arguments, settings and errors are as in `lorica.commands.api`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from lorica.commands import arguments_of_api as argument
from lorica.commands.arguments import resolve
from lorica.commands.arguments_of_api import PathLike, Settings, all_settings

if TYPE_CHECKING:
    from lorica.commands.adapt_result import AdaptResult
    from lorica.commands.tune import StudyCall
    from lorica.commands.tune_result import AttemptsResult, TuneResult

Space = Mapping[str, Sequence[object] | str] | None
"""Key -> values to try, or two ends as text: {"lora.r": [8, 16], "training.learning_rate": "1e-5..1e-3"}."""


def adapt(
    rows: PathLike,
    run_dir: PathLike,
    *,
    task: str,
    train: PathLike | None = None,
    output: PathLike | None = None,
    base: PathLike | None = None,
    resume: bool = False,
    settings: Settings = None,
) -> AdaptResult:
    """Train on the labelled examples that the rows bring along, then on confident scores in guarded rounds.

    rows: the file to answer; its own labels are never trained on. run_dir: takes the model, in a folder named after the
    task, and the run. train: a file of labelled rows to train with beside the examples; the gain is estimated on it.
    output: a file for the adapted model's answers. base, resume: as `train` takes them. settings: further
    configuration, such as {"adapt.rounds": 0}.

    Raises DataError for rows that teach nothing, TrainingError where "adapt.estimate" is "require" and no gain is
    expected, ResumeError for another run in `run_dir`, ConfigError for settings.

        result = lorica.adapt("test.csv", "runs/adapt", task="rules", train="train.csv", output="answers.csv")
        result.estimate.verdict, result.adapter
    """
    from lorica.commands.adapt import adapt_rows

    named = {
        "task": argument.task_name(task),
        "input": argument.rows_text(rows),
        "run_dir": argument.path_text(run_dir, "run_dir"),
        "train": argument.optional_text(train, "train"),
        "output": argument.optional_text(output, "output"),
        "training.resume": argument.switch(resume, "resume") or None,
    }
    return adapt_rows(resolve(all_settings(named, base, settings)), resume_command=argument.RESUMED)


def tune(
    rows: PathLike,
    run_dir: PathLike,
    *,
    task: str,
    minutes: float,
    trials: int | None = None,
    space: Space = None,
    base: PathLike | None = None,
    resume: bool = False,
    settings: Settings = None,
) -> TuneResult:
    """Search for training settings that are worth more than the defaults, and compare the best ones with these on rows
    that no trial saw.

    rows: a file of rows with gold answers. run_dir: the folder of the study, which names the best adapter so far at
    every moment. task, base: as `train` takes them. minutes, trials: what the study may use in all. space: what to try,
    in place of what is tried by itself for these keys. resume: go on with the study in `run_dir`; only time that was
    used counts. A key in `settings` is not varied.

    Raises MissingExtraError without optuna, DataError for rows that are too few, ResumeError where another study is in
    `run_dir`, ConfigError for settings, and what `train` raises for the defaults.

        result = lorica.tune("train.csv", "runs/tune", task="rules", minutes=30, space={"lora.r": [8, 16, 32]})
        result.best.settings, result.is_better, result.command
    """
    from lorica.commands.tune import find_settings

    limits = {
        "minutes": argument.numbers([minutes], "minutes")[0],
        "trials": None if trials is None else argument.whole_number(trials, "trials"),
    }
    return find_settings(_call(rows, run_dir, task, limits, space, base, resume, settings))


def tune_attempts(
    rows: PathLike,
    run_dir: PathLike,
    *,
    task: str,
    attempts: int,
    minutes_per_attempt: float,
    space: Space = None,
    base: PathLike | None = None,
    resume: bool = False,
    settings: Settings = None,
) -> AttemptsResult:
    """Several studies one after another, each within its minutes and on another division of the rows, that end in a
    written decision (`decision.md` in `run_dir`).

    Arguments and errors are those of `tune`.

        decision = lorica.tune_attempts("train.csv", "runs/try", task="rules", attempts=3, minutes_per_attempt=120)
        decision.decision, decision.command
    """
    from lorica.commands.tune import decide

    limits = {
        "attempts": argument.whole_number(attempts, "attempts"),
        "minutes_per_attempt": argument.numbers([minutes_per_attempt], "minutes_per_attempt")[0],
    }
    return decide(_call(rows, run_dir, task, limits, space, base, resume, settings))


def _call(
    rows: PathLike,
    run_dir: PathLike,
    task: str,
    limits: Mapping[str, object],
    space: Space,
    base: PathLike | None,
    resume: bool,
    settings: Settings,
) -> StudyCall:
    from lorica.commands.tune import StudyCall

    arguments = {
        "task": argument.task_name(task),
        "input": argument.rows_text(rows),
        "run_dir": argument.path_text(run_dir, "run_dir"),
        "training.resume": argument.switch(resume, "resume") or None,
        **limits,
        "tune.space": None
        if space is None
        else {key: values if isinstance(values, str) else list(values) for key, values in space.items()},
    }
    return StudyCall(all_settings(arguments, base, settings), resume_command=argument.RESUMED)
