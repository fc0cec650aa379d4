"""The keys of `adapt`; `config.schema` says how keys are written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from msgspec import Meta

from lorica.config.value_types import LocalPath, NotNegative, Positive, Probability, Share


@dataclass(frozen=True)
class AdaptConfig:
    """Training at test time (`lorica adapt`): from the labelled examples that rows bring along, and from confident
    scores."""

    examples: bool = True
    """Whether the labelled examples of the rows of `input` become training rows."""

    repeat: Positive = 1
    """How often an example is repeated among the training rows; more gives the examples more weight relative to the
    rows of `train`. Unit: copies."""

    estimate: Literal["auto", "require", "off"] = "auto"
    """Whether the gain is estimated by leaving one rule out of `train`, before anything is learned from `input`:
    `auto` where `train` is given; `require` also stops where no gain is expected; `off` never."""

    estimate_rules: Positive = 5
    """Rules that are left out, one after the other, the most frequent first; each takes two trainings, and one more for
    each of `adapt.estimate_shuffles`. Unit: rules."""

    estimate_shuffles: Annotated[int, Meta(ge=2, le=99)] = 3
    """The control of the estimate: how often a rule's examples are learned under permuted labels. With R rules and K
    shuffles the permutation test reaches p = 1 / (K + 1)^R: with one rule left out 19 shuffles for 0.05. Unit:
    trainings for each rule."""

    rounds: NotNegative = 2
    """Rounds of pseudo-labels after the examples: confident scores become labels, and an adapter is trained with them.
    Unit: rounds."""

    low: Probability = 0.2
    """Score below which a row gets the pseudo-label 0. Unit: probability."""

    high: Probability = 0.8
    """Score above which a row gets the pseudo-label 1. Unit: probability."""

    min_pseudo_labels: Positive = 20
    """Fewest pseudo-labels for which a round is trained. Unit: rows."""

    prior: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    """The share of label 1 that the rows of `input` are believed to have; 0: that of `train`, or without it 0.5. Unit:
    share of 1."""

    max_balance_shift: Probability = 0.3
    """Guard: how far the share of label 1, among pseudo-labels and answers, may be from `adapt.prior`. Unit: share of
    1."""

    max_distance: Probability = 0.3
    """Guard: how far the distribution of scores may move in a round (Wasserstein distance). Unit: probability."""

    min_agreement: Probability = 0.8
    """Guard: the share of rows, among those that the teacher is sure of, that must be answered as the teacher does, of
    all and of each label. The teacher is the last adapter that was trained without pseudo-labels. Unit: share of 1."""

    max_canary_drop: Probability = 0.05
    """Guard: how much the ROC-AUC on labelled canary rows may fall below the teacher's, where more than chance explains
    the fall. Unit: ROC-AUC."""

    canaries: LocalPath = ""
    """A file of labelled rows to take as canary rows; empty: some of the labelled rows are held out."""

    canary_share: Share = 0.1
    """The part of the examples (without these, of `train`) that is held out as canary rows where there are rounds and
    no `adapt.canaries`; 0 goes without. Unit: share of 1."""

    drill: Literal["off", "flip_1", "flip_0"] = "off"
    """A drill of the guards: turns the pseudo-labels of one class around in the last round (`flip_1`: those that are
    1), which must end in a rollback."""
