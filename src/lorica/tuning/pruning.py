"""Which trials are not worth their time: the median rule, on shares of the updates.

A trial is given up where its lowest validation loss so far is above the median of what the finished trials had reached
at the same share of their updates (Golovin et al. 2017, doi.org/10.1145/3097983.3098043, section 3.2.2). Shares, and
not updates or epochs, for the learning rate falls with them, whatever a trial's length is.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from lorica.tuning.trial_store import Curve, Trial

_FEWEST = 4  # finished trials that say what is usual
_ROUNDING = 1e-9

# Losses on other answers, or of another kind of model, are no measure of these.
_COMPARABLE = (
    *("task.method", "model", "model.path", "engine", "engine.name", "training.method"),
    "centroids.margin",
)


def comparable_curves(trials: Sequence[Trial], settings: Mapping[str, Any]) -> list[Curve]:
    """The losses of the finished trials that those of a trial with these settings can be held against."""
    return [
        trial.curve
        for trial in trials
        if trial.state == "finished"
        and trial.curve
        and all(trial.settings.get(key) == settings.get(key) for key in _COMPARABLE)
    ]


def is_hopeless(curve: Curve, former_curves: Sequence[Curve]) -> bool:
    """Whether a trial does worse than half of the finished ones did; never before there are some, nor at its end."""
    if not curve or curve[-1][0] >= 1 - _ROUNDING:
        return False
    share = curve[-1][0]
    former = [lowest for former_curve in former_curves if (lowest := _lowest(former_curve, share)) is not None]
    own = _lowest(curve, share)
    return own is not None and len(former) >= _FEWEST and own > statistics.median(former)


def _lowest(curve: Curve, share: float) -> float | None:
    """The lowest loss up to a share of the updates; None before the first evaluation."""
    return min((loss for loss_share, loss in curve if loss_share <= share + _ROUNDING), default=None)
