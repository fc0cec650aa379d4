"""Inputs and results of a training run, and what listens to its progress."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from lorica.adapters.folder import WEIGHTS_NAME
from lorica.config.parse_values import check_section
from lorica.config.schema import TrainingConfig
from lorica.errors import ConfigError
from lorica.records import Encoded
from lorica.training.outcome import Outcome

# Settings that change what is written down, never what is learned: they may differ when a run is resumed.
_COSMETIC = frozenset({"logging_steps", "save_steps", "save_total_limit", "resume"})

# Settings that decide which examples there are; a run is known by the digests of its examples.
_OF_EXAMPLES = frozenset({"val_ratio", "max_seq_length", "per_subject"})


@dataclass(frozen=True)
class Example:
    """One row to learn from. Where tokens are learned `encoded` holds prompt and answer, and only its answer tokens
    are; a classifier learns `label`, 0 or 1, from the tokens of a prompt alone.
    """

    id: str
    encoded: Encoded
    label: int | None = None


def identifying(settings: TrainingConfig) -> dict[str, Any]:
    """The settings that make a run what it is, for manifests and passports."""
    return {name: value for name, value in asdict(settings).items() if name not in _COSMETIC | _OF_EXAMPLES}


def check_settings(settings: TrainingConfig, *, device: str, validation: bool) -> None:
    """Raise ConfigError for values that are impossible alone, together, or on this kind of device.

    validation: whether there are held-out rows.
    """
    check_section("training", settings)
    if settings.fp16 and settings.bf16:
        raise ConfigError("training.fp16 and training.bf16 are both on", fix="switch one of them off")
    if settings.fp16 and device == "cpu":
        raise ConfigError(
            "training.fp16=true on a CPU, which computes float16 slowly and overflows above 65504",
            fix="use training.bf16=true on a CPU, or neither",
        )
    if settings.early_stopping and not validation:
        raise ConfigError(
            f"training.early_stopping={settings.early_stopping} without held-out rows to evaluate on",
            fix="set training.val_ratio above 0, or training.early_stopping=0",
        )


@dataclass(frozen=True)
class TrainResult:
    """What a finished run leaves. Losses are in nats per answer token, of classifiers in nats per row.

    best_step: updates behind the published adapter (`steps` when nothing was held out). steps: updates made.
    train_loss: mean over the last epoch. eval_loss: on the held-out rows for the published adapter, or None. base_loss,
    trained_loss: without and with the published adapter, without dropout, on the held-out rows, or on the first
    training rows when nothing was held out; for a classifier without is the better of its first state and of one answer
    to every row. tokens: prompt and answer tokens seen. seconds: wall time, over all resumed parts. outcome, advice:
    what came of it, in a word and for people. seen_base, seen_last: loss on training rows of the base and of the last
    update. max_grad_norm: the largest before clipping. weights: name of the file in `folder` that was trained.
    """

    best_step: int
    steps: int
    train_loss: float
    eval_loss: float | None
    tokens: int
    seconds: float
    folder: Path
    base_loss: float = 0.0
    trained_loss: float = 0.0
    stopped_early: bool = False
    outcome: Outcome = "better"
    seen_base: float = 0.0
    seen_last: float = 0.0
    max_grad_norm: float = 0.0
    advice: str = ""
    weights: str = WEIGHTS_NAME

    @property
    def useful(self) -> bool:
        """Whether the published adapter is better than the base."""
        return self.trained_loss < self.base_loss


@dataclass(frozen=True)
class StepReport:
    """One update. loss: nats per answer token, or row. tokens_per_second: since the last log line, evaluation not
    counted.
    """

    step: int
    total: int
    loss: float
    learning_rate: float
    grad_norm: float
    tokens_per_second: float


class TrainingStopped(Exception):  # noqa: N818  (nothing went wrong)
    """The listener of a run wanted it to end, for the reason that it gave. What was learned is kept: the same run with
    training.resume=true goes on exactly."""


class Listener(Protocol):
    """Is told what happens during a run; must not change anything about it, but may end it."""

    def started(self, adapter_name: str, completed_steps: int, total_steps: int) -> None:
        """Training of `adapter_name` begins, `completed_steps` of `total_steps` updates being made already."""
        ...

    def stepped(self, report: StepReport) -> None:
        """One update was made."""
        ...

    def evaluated(self, step: int, validation_loss: float, is_best: bool) -> None:
        """The held-out loss after `step` updates; 0 is the base model alone."""
        ...

    def note(self, note_text: str) -> None:
        """Something a person should know."""
        ...

    def finished(self, result: TrainResult) -> None:
        """The adapter is on disk."""
        ...

    def stop_reason(self) -> str:
        """Why the run should end now, "" while it may go on. Asked after each update, and after the evaluation that
        follows it; the run then keeps its state and raises `TrainingStopped`."""
        ...

    def closed(self) -> None:
        """The run has ended, well or not: give the terminal back. Always the last call."""
        ...
