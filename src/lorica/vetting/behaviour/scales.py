"""How answers respond when the adapter's update is multiplied: at 0 the base is left, and 1 should be about best."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from lorica.adapters.config import AdapterConfig
from lorica.adapters.folder import MORE_THAN_PAIRS, open_adapter
from lorica.adapters.rescaled_copies import scaled, write_variant
from lorica.engines.base import Engine
from lorica.errors import AdapterError
from lorica.tasks.base import Task
from lorica.vetting.behaviour.asking import OnDone, Question, Replies, ask, both
from lorica.vetting.behaviour.divergence import (
    changed_share,
    kl,
    largest_change,
    mean_or_none,
    saturated_share,
    spread,
    with_rest,
)
from lorica.vetting.behaviour.measures import ScaleResult
from lorica.vetting.behaviour.quality import labelled, mean_difference, quality_value
from lorica.vetting.behaviour.setting import Workplace

FACTORS = (0.0, 0.5, 1.0, 2.0)
# Tried, too, to tell a scale that is wrong from one that is right.
_FAR = (0.25, 4.0)
_FARTHER = (0.0625, 0.125, 8.0, 16.0)


def respond(
    work: Workplace,
    engine: Engine,
    task: Task,
    questions: Sequence[Question],
    own: Replies,
    config: AdapterConfig,
    weights: Path,
    place: Path,
    on_done: OnDone | None = None,
) -> list[ScaleResult]:
    """Ask at every factor, in rising order; farther ones only where the best is still at the edge.

    own: what the adapter as it is says to the questions. place: a folder for the copies of the adapter, which are
    removed from the engine again.
    """
    base = ask(work, engine, questions, None)
    replies: dict[float, Replies | None] = {1.0: own}

    def visit(factors: Sequence[float]) -> None:
        for factor in factors:
            copy = place / f"times-{factor:g}"
            name = work.new_name()
            try:
                write_variant(copy, scaled(config, factor), weights)
                engine.add_adapter(name, open_adapter(copy, applied=MORE_THAN_PAIRS))
            except AdapterError:
                replies[factor] = None  # an alpha beyond what a config may say
                continue
            replies[factor] = ask(work, engine, questions, name, on_done)
            engine.remove_adapter(name)

    visit([factor for factor in sorted({*FACTORS, *_FAR}) if factor != 1])
    results = _results(task, replies, base)
    edge = _best(results)
    if edge is not None and edge <= min(_FAR):
        visit([factor for factor in _FARTHER if factor < 1])
    elif edge is not None and edge >= max(_FAR):
        visit([factor for factor in _FARTHER if factor > 1])
    return _results(task, replies, base)


def _best(results: Sequence[ScaleResult]) -> float | None:
    """The factor of the lowest loss, 0 left out; None without labels."""
    known = [(each.loss, each.factor) for each in results if each.loss is not None and each.factor]
    return min(known)[1] if known else None


def _results(task: Task, replies: dict[float, Replies | None], base: Replies) -> list[ScaleResult]:
    own = replies.get(1.0)
    return [_result(task, factor, here, base, own) for factor, here in sorted(replies.items()) if here is not None]


def _result(task: Task, factor: float, replies: Replies, base: Replies, own: Replies | None) -> ScaleResult:
    here, alone = both(replies, base)
    broken = len(replies.failed) - len(base.failed)
    if not here.rows:
        return ScaleResult(factor, np.inf, np.inf, None, None, None, None, broken)
    result = ScaleResult(
        factor=factor,
        kl=float(kl(with_rest(here.words), with_rest(alone.words)).mean()),
        largest_change=largest_change(here, alone),
        confidence=mean_or_none(here.confidence),
        saturated=saturated_share(here),
        std=spread(here),
        changed=changed_share(here, alone),
        broken=broken,
        mass=mean_or_none(here.mass),
    )
    known, known_base = labelled(here), labelled(alone)
    if not known.rows:
        return result
    gain = None
    if own is not None and factor != 1:
        mine, theirs = both(known, labelled(own))
        gain = mean_difference(theirs.losses, mine.losses, mine.rows) if mine.rows else None
    return msgspec.structs.replace(
        result,
        loss=float(known.losses.mean()),
        quality=quality_value(task, known),
        gain=gain,
        over_base=mean_difference(known_base.losses, known.losses, known.rows),
    )
