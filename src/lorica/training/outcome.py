"""The outcome of a run (better than the base, no better, overfitted, diverged), and advice on what to do next.

Losses of single updates are noisy, so nothing is told by them. Base and adapter are compared on the same rows without
dropout: held-out rows say which adapter is best, and training rows tell a rate that is too high (worse than the base on
what it was trained on) from rows that were learned by heart (better on them, worse on others).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Outcome = Literal["better", "no better", "overfitted", "diverged"]

# So much above the base's loss on the rows of the training itself no noise brings an adapter.
_FACTOR, _NATS = 1.2, 0.05
# A LoRA's rate beyond which nothing is gained by going down in small steps.
_SAFE_RATE = 1e-3


@dataclass(frozen=True)
class Wording:
    """How a person is told of a result. member: what is trained. reference: what it is held against. start: what it was
    before the first update. unit: what has a loss each."""

    member: str
    reference: str
    start: str
    unit: str


ADAPTER_WORDING = Wording("adapter", "the base model", "base model", "answer token")


@dataclass(frozen=True)
class Losses:
    """Nats per answer token (per row, of a classifier), of base and adapter. seen_*: on training rows, with the last
    state; base, published: on the held-out rows, or on the training rows when nothing was held out, with the state that
    is published."""

    base: float
    published: float
    seen_base: float
    seen_last: float


def judge_outcome(losses: Losses) -> Outcome:
    """Which of them it is. A run that diverged after its best checkpoint diverged, too."""
    if losses.seen_last > _FACTOR * losses.seen_base + _NATS:
        return "diverged"
    if losses.published < losses.base:
        return "better"
    # A classifier's first state may be worse than any constant: falling to that is not learning by heart.
    return "overfitted" if losses.seen_last < min(losses.seen_base, losses.base) / _FACTOR else "no better"


def lower_rate(learning_rate: float) -> float:
    """The learning rate to try next."""
    return float(f"{min(learning_rate / 10, _SAFE_RATE):.3g}")


def rerun_command(folder: Path, learning_rate: float) -> str:
    """How to train anew: the folder is taken."""
    folder_words = f"into another run_dir, or after deleting {folder}"
    return f"train again with training.learning_rate={lower_rate(learning_rate):g}, {folder_words}"


def advice(
    outcome: Outcome,
    losses: Losses,
    *,
    learning_rate: float,
    gradient_norm: float,
    norm_step: int,
    best_step: int,
    folder: Path,
    wording: Wording = ADAPTER_WORDING,
) -> str:
    """What a person should know of a run that is not simply better; empty for one that is.

    gradient_norm: the largest gradient norm, in update norm_step. best_step: the update that is published.
    """
    rerun = rerun_command(folder, learning_rate)
    compared = f"{losses.published:.4f} against {losses.base:.4f} nats per {wording.unit}"
    if outcome == "better":
        return ""
    if outcome == "diverged":
        useful = losses.published < losses.base
        saved_words = f"what is saved is update {best_step}, " + (
            f"from before, which is better than {wording.reference} ({compared})"
            if useful
            else f"which is no better than {wording.reference} ({compared}): do not use it"
        )
        return (
            f"the training diverged: loss {losses.seen_base:.4f} ({wording.start}) -> {losses.seen_last:.4f} on its "
            f"own training rows, gradient norm up to {gradient_norm:.3g} (update {norm_step}), "
            f"learning rate {learning_rate:g}; {saved_words}. "
            f"{rerun[:1].upper()}{rerun[1:]}"
        )
    advice_text = f"the {wording.member} is no better than {wording.reference} ({compared}): "
    if outcome == "overfitted":
        advice_text += f"it learned its own rows by heart ({losses.seen_base:.4f} -> {losses.seen_last:.4f}): "
        if learning_rate > _SAFE_RATE:  # fewer updates of that size do not help
            return advice_text + rerun
        return advice_text + "fewer training.epochs, a lower training.learning_rate, or more rows"
    if losses.seen_last > losses.seen_base * 1.01:
        return advice_text + f"its own rows became no likelier, either: {rerun}"
    if learning_rate > _SAFE_RATE:  # what is still bad then is no matter of too small steps
        return advice_text + rerun
    return advice_text + "train longer, or raise training.learning_rate"
