"""What trains members of one kind: the seam between a training's jobs and what a kind of model is learned with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from lorica.engines.base import Engine
from lorica.locks import FolderLock
from lorica.pipeline.train import LossExample, TrainJob, TrainVal
from lorica.training.types import Listener, TrainResult


class Trainer(Protocol):
    """Trains members of one kind (LoRA adapters of a decoder, classifiers, ...), one job at a time; made once for all
    jobs of a training, with what they share."""

    @property
    def digests(self) -> tuple[str, str]:
        """Of the base model and of its tokenizer, for the record of a run; "" for what the kind does not have."""
        ...

    def engine(self) -> Engine | None:
        """What answers with what is trained, on the base that is loaded, without adapters; None where another must be
        loaded for that."""
        ...

    def train(
        self,
        job: TrainJob,
        split_rows: TrainVal,
        folder_lock: FolderLock,
        tell_example: Callable[[LossExample], None] | None,
        *,
        listener: Listener,
    ) -> TrainResult:
        """Train one member on `split_rows.train` and leave it, with its record, in the folder that is locked.

        Goes on with a run that is there where the settings say so, and hands back the result of one that is finished.
        tell_example: is given the first row as it is learned. listener: is told what happens; its `closed` comes last.
        Raises TrainingError, ResumeError, DataError and PromptError as `training.loop.train` and `encode_rows` do.
        """
        ...
