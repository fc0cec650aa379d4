"""The command that follows another one, as a user would type it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import fields
from itertools import pairwise
from pathlib import Path

from lorica.config.reading_section import ReadingConfig
from lorica.names import shell_line, shell_word
from lorica.runs.run_record import RunRecord

# Settings of a training that the commands after it do not need.
_OF_TRAINING = ("input=", "output=", "run_dir=", "train=", "adapt.", "folds", "training", "lora")
# Settings of one run of `lorica infer` that the next one does not share.
_OF_ONE_ANSWER = ("input=", "output=", "inference.resume=", "adapters.calibration=")
_CALIBRATED = "adapters.calibration=auto"
_OF_READING = tuple(f"data.{key.name}=" for key in fields(ReadingConfig))


def next_settings(overrides: Sequence[str]) -> str:
    """Those of a training's settings that answering and judging by its adapters need, too."""
    words = [word for word in overrides if not word.startswith("data.") or word.startswith(_OF_READING)]
    return shell_line(*(word for word in words if not word.startswith(_OF_TRAINING)))


def infer_command(adapters: str, overrides: Sequence[str], output: str = "answers.csv") -> str:
    """`lorica infer` for rows to come. adapters: the key that names who answers, with its value."""
    return f"lorica infer {next_settings(overrides)} {shell_word(adapters)} input=NEW.csv output={output}"


def infer_calibrated(run: RunRecord | None, adapters: str, overrides: Sequence[str]) -> str:
    """`lorica infer` for rows to come, with calibrated scores: as `run` answered, whose record that is; without a
    record by `adapters` (the key that names who answers, with its value) and the settings of another command."""
    words = shlex.split(run.command_line) if run is not None else []
    if words[:2] != ["lorica", "infer"]:
        return infer_command(adapters, [*overrides, _CALIBRATED])
    settings = [
        word
        for former, word in pairwise(words[1:])
        if "=" in word and not word.startswith(("--", *_OF_ONE_ANSWER)) and former != "--submission"
    ]
    return f"{shell_line('lorica', 'infer', *settings, _CALIBRATED)} input=NEW.csv output=answers.csv"


def after_adapting(root: Path, answers: Path | None, overrides: Sequence[str]) -> str:
    """What follows `lorica adapt`, whose model is in `root`: what its answers are worth, and answers of other rows."""
    judge = f"-> lorica eval {shell_word(str(answers))} GOLD.csv {next_settings(overrides)}\n" if answers else ""
    files = "GOLD.csv: labels of the rows of input, once they are known; " if answers else ""
    return f"{judge}-> {infer_command(f'adapters.dir={root}', overrides)}\n   ({files}NEW.csv: further rows)"


def after_training(root: Path, overrides: Sequence[str]) -> str:
    """What follows a training whose adapters are in `root`: answers of other rows, and what they are worth."""
    return (
        f"-> {infer_command(f'adapters.dir={root}', overrides)}\n"
        f"-> lorica eval answers.csv NEW.csv {next_settings(overrides)}\n"
        "   (NEW.csv: rows that it was not trained on; with their labels eval says what it is worth)"
    )
