"""Does the adapter follow the examples in the prompt? Asked by exchanging the positive and the negative ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lorica.engines.base import Engine
from lorica.records import Row
from lorica.tasks.base import Task
from lorica.vetting.behaviour.asking import Floats, OnDone, Replies, ask, both, make_questions, other_settings
from lorica.vetting.behaviour.measures import Examples, Interval
from lorica.vetting.behaviour.probes import with_swapped_examples
from lorica.vetting.behaviour.quality import mean_difference
from lorica.vetting.behaviour.setting import Workplace

_FEWEST = 8


def measure_examples(
    work: Workplace,
    engine: Engine,
    adapter: str,
    task: Task,
    rows: Sequence[Row],
    on_done: OnDone | None = None,
) -> Examples | None:
    """None for tasks whose prompts show no examples, and for fewer than 8 rows with examples of both kinds.

    A style that shows no examples is replaced by the task's first one that does.
    """
    swapped = with_swapped_examples(task, rows)
    if len(swapped) < _FEWEST:
        return None
    wanted = {row.id for row in swapped}
    style = task.settings.style if task.settings.style in task.example_styles else task.example_styles[0]
    asked = other_settings(task, style=style)
    as_they_are, _ = make_questions(work, asked, [row for row in rows if row.id in wanted])
    exchanged, _ = make_questions(work, asked, swapped)
    found = [
        both(ask(work, engine, as_they_are, name, on_done), ask(work, engine, exchanged, name, on_done))
        for name in (adapter, None)
    ]
    if not all(first.rows for first, _ in found):
        return None
    (moved, following), (base_moved, base_following) = (_effect(*pair) for pair in found)
    return Examples(len(found[0][0].rows), style, moved, base_moved, following, base_following)


def _effect(first: Replies, second: Replies) -> tuple[float, Interval | None]:
    """Mean absolute change of P(breaks the rule), and the change towards what the examples suggest."""
    change = _scores(first) - _scores(second)
    known = [place for place, gold in enumerate(first.gold.tolist()) if gold >= 0]
    towards = None
    if len(known) >= _FEWEST:
        # With its own examples a post that breaks the rule (choice 0) should score higher than with exchanged ones.
        signed = np.where(first.gold == 0, change, -change)[known]
        towards = mean_difference(signed, np.zeros(len(known)), [first.rows[place] for place in known], 0.95)
    return float(np.abs(change).mean()), towards


def _scores(replies: Replies) -> Floats:
    return np.array([each[0] for each in replies.probabilities])
