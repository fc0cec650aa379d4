"""The state that a resumed run continues from, and the manifest that identifies a run: plain JSON values."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from lorica.config.schema import TrainingConfig
from lorica.data.digest import bytes_digest
from lorica.errors import ResumeError
from lorica.names import visible_values
from lorica.training.batches import digest_examples
from lorica.training.types import Example, identifying


@dataclass
class State:
    """Everything besides weights and moments that the rest of a run depends on. Losses are sums over what is
    learned."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    epoch_loss: float = 0.0
    epoch_tokens: int = 0
    window_loss: float = 0.0
    window_tokens: int = 0
    base_loss: float | None = None
    seen_base: float | None = None  # the base's loss on training rows
    norm: float = 0.0  # the largest gradient norm that is finite
    norm_step: int = 0
    best_step: int = 0
    best_loss: float | None = None
    best_digest: str = ""  # of the weights' file
    run: str = ""  # digest of the manifest
    waiting: int = 0  # evaluations since the best one
    stopped_early: bool = False
    skipped: int = 0
    scaler: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> bytes:
        """The values, keys sorted."""
        return to_json(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, state_bytes: bytes, *, location_text: str) -> State:
        """Raises ResumeError for anything but what `to_json` wrote."""
        try:
            return msgspec.convert(json.loads(state_bytes), cls)
        except (ValueError, TypeError, RecursionError) as error:
            raise ResumeError(f"{location_text}: unreadable: {error}", fix="delete this checkpoint's folder") from error


def to_json(document: Mapping[str, Any]) -> bytes:
    """Indented JSON with sorted keys; floats keep every bit."""
    return json.dumps(visible_values(document), indent=2, sort_keys=True, ensure_ascii=False).encode("utf-8") + b"\n"


def make_manifest(
    *,
    adapter_name: str,
    settings: TrainingConfig,
    trained: Mapping[str, str],
    examples: Sequence[Example],
    validation: Sequence[Example],
    digests: Mapping[str, str],
) -> dict[str, str]:
    """What must be equal for a run to be the same run: dotted key -> text. trained: as `Trainable.manifest` says it."""
    manifest = {
        **trained,
        "name": adapter_name,
        "examples": digest_examples(examples),
        "validation": digest_examples(validation),
    }
    manifest |= {f"training.{name}": json.dumps(value) for name, value in identifying(settings).items()}
    manifest |= {f"digest.{digest_name}": digest for digest_name, digest in digests.items()}
    return dict(sorted(visible_values(manifest).items()))


def run_digest(manifest: Mapping[str, str]) -> str:
    """What tells a run's files from those of another run."""
    return bytes_digest(to_json(manifest))
