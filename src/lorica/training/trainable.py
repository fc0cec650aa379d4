"""What a training changes: the one protocol by which loop, updates, checkpoints and resuming know a kind of model."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from lorica.adapters.config import CONFIG_NAME, AdapterConfig
from lorica.adapters.folder import WEIGHTS_NAME
from lorica.training.outcome import Wording
from lorica.training.types import Example


class Batch(Protocol):
    """Rows that are computed together."""

    @property
    def ids(self) -> tuple[str, ...]:
        """Of the rows."""
        ...

    @property
    def row_tokens(self) -> int:
        """Of all rows, shared ones counted for each."""
        ...

    @property
    def targets(self) -> Tensor:
        """[A] what is learned: each has a loss of its own."""
        ...


BatchT = TypeVar("BatchT", bound=Batch)


@dataclass(frozen=True)
class MixedPrecision:
    """How numbers are computed: `dtype` None is float32 throughout; `scaler` is there for float16 only."""

    device: str
    dtype: torch.dtype | None
    scaler: torch.amp.GradScaler | None

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """Matrix products in `dtype`, sums and norms in float32."""
        if self.dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device, dtype=self.dtype)


def choose_precision(device: str, dtype: torch.dtype, *, fp16: bool, bf16: bool) -> MixedPrecision:
    """The precision asked for, else `dtype`, that of the model's weights. What is learned and its moments are always
    float32."""
    products = torch.bfloat16 if bf16 else torch.float16 if fp16 else dtype
    scaler = torch.amp.GradScaler(device) if products == torch.float16 else None
    return MixedPrecision(device, None if products == torch.float32 else products, scaler)


@dataclass(frozen=True)
class MemberFiles:
    """The names of a member's two files: its weights, and the config that makes its folder a member's, written last."""

    weights: str
    config: str


ADAPTER_FILES = MemberFiles(WEIGHTS_NAME, CONFIG_NAME)


def lora_manifest(config: AdapterConfig) -> dict[str, str]:
    """What a config adds to `Trainable.manifest`. Patterns stay in order: of them the first that fits counts."""
    values = json.loads(config.to_json())
    return {
        f"lora.{name}": json.dumps(value, sort_keys=not name.endswith("_pattern")) for name, value in values.items()
    }


@dataclass(frozen=True)
class Evaluated:
    """What an evaluation gave. losses: summed, of each batch, in nats. spread: the largest less the smallest score
    (log-odds); infinite where there are no scores to compare. resolution: the spread that is no more than rounding."""

    losses: list[Tensor]
    spread: float = math.inf
    resolution: float = 0.0

    @property
    def collapsed(self) -> bool:
        """Whether all rows have one score."""
        return self.spread < self.resolution


class Trainable(Protocol[BatchT]):
    """Weights that are learned, with the model that computes their loss. Float32, on `device`."""

    @property
    def device(self) -> torch.device: ...

    @property
    def precision(self) -> MixedPrecision: ...

    @property
    def files(self) -> MemberFiles:
        """What `save` writes."""
        ...

    @property
    def wording(self) -> Wording: ...

    def tensors(self) -> Mapping[str, Tensor]:
        """What is learned, by the names under which it is saved, always in one order."""
        ...

    def set_training(self, training: bool) -> None:
        """Switch dropout on or off."""
        ...

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """Where `loss` is computed."""
        ...

    def loss(self, batch: BatchT) -> Tensor:
        """Summed loss in nats over the targets of a batch, scalar."""
        ...

    def evaluate(self, batches: Sequence[BatchT]) -> Evaluated:
        """The losses of batches, dropout being off."""
        ...

    def constant_loss(self, batches: Sequence[BatchT]) -> float:
        """Nats per target of the best answer that is the same for every row; infinite where that is no question."""
        ...

    def base_fails(self, batches: Sequence[BatchT]) -> bool:
        """Whether the model without what is learned gives a loss that is not finite."""
        ...

    def update_batches(self, examples: Sequence[Example], planned: Sequence[Sequence[int]]) -> list[BatchT]:
        """The batches of one update. planned: indices of rows, in batches of the configured size."""
        ...

    def evaluation_batches(self, examples: Sequence[Example]) -> list[BatchT]:
        """All rows in batches for `evaluate`."""
        ...

    def check(self, examples: Sequence[Example], *, set_name: str) -> None:
        """Raise TrainingError, naming rows, for rows that cannot be learned. set_name: "training" or "held-out"."""
        ...

    def manifest(self) -> Mapping[str, str]:
        """What makes a run what it is beside its rows and settings: dotted key -> text."""
        ...

    def save(self, folder: Path, extra_files: Mapping[str, bytes] | None = None) -> None:
        """Write the member into a folder, whole or not at all, with further files."""
        ...

    def load(self, folder: Path) -> None:
        """Take the weights of a saved member, in place: fresh memory has the alignment of an unbroken run."""
        ...
