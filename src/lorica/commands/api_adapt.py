"""`lorica.adapt`: training at test time, as a function with plain arguments."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lorica.commands import arguments_of_api as argument
from lorica.commands.api_settings import PathLike, Settings, all_settings
from lorica.commands.arguments import resolve

if TYPE_CHECKING:
    from lorica.commands.adapt_result import AdaptResult


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
    return adapt_rows(resolve(all_settings(named, base, settings)), resume_command="the same call with resume=True")
