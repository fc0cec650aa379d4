"""The keys of `tune`; `config.schema` says how keys are written."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from msgspec import Meta

from lorica.config.value_types import NotNegative, Positive, Values


@dataclass(frozen=True)
class TuneConfig:
    """The search for training settings (`lorica tune`)."""

    trials: Positive = 100
    """Most trials of a study, including that of the configured settings; `minutes` may end it earlier. Unit: trials."""

    space: dict[str, Values] = field(default_factory=dict)
    """What to try instead of the default values: a key or preset group -> a list of values, or two ends (`1e-5..1e-3`),
    as in `tune.space.lora.r=[8,16,32]`. `scale` stands for lora.alpha / lora.r."""

    vary: list[str] = field(default_factory=list)
    """The only keys that are varied, as in `tune.vary=[lora.r,training.learning_rate]`; empty: those of `tune.space`,
    and all that suit task and model and are not set."""

    compare_ratio: Annotated[float, Meta(gt=0, lt=1)] = 0.2
    """Part of the rows that no trial learns from or is chosen by: on it the best settings are compared with the
    configured ones at the end. Unit: share of 1."""

    prune: bool = True
    """Whether a trial ends early that is worse on the validation rows than half of the finished ones were."""

    attempts: NotNegative = 0
    """Number of studies that end in a written decision, one after another, each with another division into training and
    validation rows and starting from the best settings of the previous ones; 0 for one study without a decision. Unit:
    studies."""

    minutes_per_attempt: Annotated[float, Meta(gt=0)] = 30.0
    """Time that each of `tune.attempts` may take. Unit: minutes."""
