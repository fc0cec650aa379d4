"""What goes into a training run and what comes out of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from lorica.errors import ConfigError
from lorica.names import closest
from lorica.records import Encoded
from lorica.training.outcome import Outcome

SCHEDULERS = ("cosine", "linear", "constant")

# Settings that change what is written down, never what is learned: they may differ when a run is resumed.
COSMETIC = frozenset({"logging_steps", "save_steps", "save_total_limit", "resume"})


@dataclass(frozen=True)
class Example:
    """One row to learn from: `encoded` holds prompt and answer; only its answer tokens are learned."""

    id: str
    encoded: Encoded


@dataclass(frozen=True)
class TrainSettings:
    """How to train. Names and units are those of the `training` configuration group.

    What is not here (the share of held-out rows, the longest sequence) is decided before the examples exist.
    """

    epochs: int = 3
    batch_size: int = 4
    gradient_accumulation_steps: int = 4
    learning_rate: float = 1e-4
    warmup_ratio: float = 0.1
    scheduler: str = "cosine"
    fp16: bool = False
    bf16: bool = False
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    logging_steps: int = 10
    save_steps: int = 100
    eval_steps: int = 100
    save_total_limit: int = 2
    seed: int = 42
    early_stopping: int = 0
    resume: bool = False
    gradient_checkpointing: bool = False

    def check(self, *, device: str, validation: bool) -> None:
        """Raise ConfigError for values that are impossible alone, together, or on this kind of device."""
        counts = ("epochs", "batch_size", "gradient_accumulation_steps", "logging_steps", "save_steps")
        for key in (*counts, "eval_steps", "save_total_limit"):
            if getattr(self, key) < 1:
                raise ConfigError(f"training.{key}={getattr(self, key)}; allowed: 1 or more")
        if not self.learning_rate > 0:
            raise ConfigError(f"training.learning_rate={self.learning_rate}; allowed: above 0")
        if not 0 <= self.warmup_ratio < 1:
            raise ConfigError(f"training.warmup_ratio={self.warmup_ratio}; allowed: 0 to below 1")
        for key in ("weight_decay", "max_grad_norm", "early_stopping"):
            if not getattr(self, key) >= 0:
                raise ConfigError(f"training.{key}={getattr(self, key)}; allowed: 0 or more")
        if self.scheduler not in SCHEDULERS:
            near = closest(self.scheduler, SCHEDULERS)
            raise ConfigError(
                f"training.scheduler={self.scheduler!r}; allowed: {', '.join(SCHEDULERS)}",
                fix=f"did you mean {near}?" if near else "",
            )
        if self.fp16 and self.bf16:
            raise ConfigError("training.fp16 and training.bf16 are both on", fix="switch one of them off")
        if self.fp16 and device == "cpu":
            raise ConfigError(
                "training.fp16=true on a CPU, which computes float16 slowly and overflows above 65504",
                fix="use training.bf16=true on a CPU, or neither",
            )
        if self.early_stopping and not validation:
            raise ConfigError(
                f"training.early_stopping={self.early_stopping} without held-out rows to evaluate on",
                fix="set training.val_ratio above 0, or training.early_stopping=0",
            )


@dataclass(frozen=True)
class TrainResult:
    """What a finished run leaves.

    best_step: updates behind the published adapter (`steps` when nothing was held out). steps: updates made.
    train_loss: nats per answer token, mean over the last epoch. eval_loss: the same on the held-out rows for
    the published adapter, or None. base_loss, trained_loss: the same without and with the published adapter,
    without dropout, on the held-out rows, or on the first training rows when nothing was held out. tokens:
    prompt and answer tokens seen. seconds: wall time, over all resumed parts. outcome, advice: what came of it, in a
    word and for people. seen_base, seen_last: loss on training rows of the base and of the last update. max_grad_norm:
    the largest before clipping.
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

    @property
    def useful(self) -> bool:
        """Whether the published adapter is better than the base."""
        return self.trained_loss < self.base_loss


@dataclass(frozen=True)
class StepReport:
    """One update. loss: nats per answer token. tokens_per_second: since the last log line, evaluation not
    counted.
    """

    step: int
    total: int
    loss: float
    learning_rate: float
    grad_norm: float
    tokens_per_second: float


class Listener(Protocol):
    """Is told what happens during a run; must not change anything about it."""

    def started(self, name: str, done: int, total: int) -> None:
        """Training of `name` begins, `done` of `total` updates being made already."""
        ...

    def stepped(self, report: StepReport) -> None:
        """One update was made."""
        ...

    def evaluated(self, step: int, loss: float, best: bool) -> None:
        """The held-out loss after `step` updates; 0 is the base model alone."""
        ...

    def note(self, text: str) -> None:
        """Something a person should know."""
        ...

    def finished(self, result: TrainResult) -> None:
        """The adapter is on disk."""
        ...

    def closed(self) -> None:
        """The run has ended, well or not: give the terminal back. Always the last call."""
        ...
