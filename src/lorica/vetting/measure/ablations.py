"""Ablations: what answers owe to the prompt. Examples exchanged, texts of other rows, questions of another task."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from lorica.errors import MissingExtraError, TrainingError
from lorica.pipeline.baseline import baseline_answers
from lorica.records import Row
from lorica.tasks import tasks_with_other_probes
from lorica.tasks.base import Task
from lorica.vetting.measure.divergence import choices_kl
from lorica.vetting.measure.loaded_adapter import LoadedAdapter
from lorica.vetting.measure.measurements import Comparison, Elsewhere, Examples, Interval, Labelled
from lorica.vetting.measure.probe_rows import chosen_rows, shipped_rows, with_shuffled_texts
from lorica.vetting.measure.quality import compare, mean_difference, paired, quality, quality_difference
from lorica.vetting.measure.scoring import ScoredRows, align, choice_metric, make_requests, with_settings

_FEWEST = 8
_FOLDS = 5


def measure_examples(adapter: LoadedAdapter, task: Task, rows: Sequence[Row]) -> Examples | None:
    """None for tasks whose prompts show no examples, and for fewer than 8 rows with examples of both kinds.

    A style that shows no examples is replaced by the task's first one that does.
    """
    if task.row_examples is None:
        return None
    swapped = [row for row in map(task.row_examples.swap, rows) if row is not None]
    if len(swapped) < _FEWEST:
        return None
    swapped_ids = {row.id for row in swapped}
    styles = task.row_examples.styles
    style = task.settings.style if task.settings.style in styles else styles[0]
    example_task = with_settings(task, style=style)
    as_they_are, _ = make_requests(adapter.session, example_task, [row for row in rows if row.id in swapped_ids])
    exchanged, _ = make_requests(adapter.session, example_task, swapped)
    pairs = [align(score(as_they_are), score(exchanged)) for score in (adapter.score, adapter.score_base)]
    if not all(first.rows for first, _ in pairs):
        return None
    (moved, following), (base_moved, base_following) = (_effect(*pair) for pair in pairs)
    return Examples(len(pairs[0][0].rows), style, moved, base_moved, following, base_following)


def _effect(first: ScoredRows, second: ScoredRows) -> tuple[float, Interval | None]:
    """Mean absolute change of P(breaks the rule), and the change towards what the examples suggest."""
    change = first.first - second.first
    labelled = [index for index, gold in enumerate(first.gold.tolist()) if gold >= 0]
    towards = None
    if len(labelled) >= _FEWEST:
        # With its own examples a post that breaks the rule (choice 0) should score higher than with exchanged ones.
        signed = np.where(first.gold == 0, change, -change)[labelled]
        towards = mean_difference(signed, np.zeros(len(labelled)), [first.rows[index] for index in labelled], 0.95)
    return float(np.abs(change).mean()), towards


def measure_labelled(adapter: LoadedAdapter, task: Task, own: ScoredRows, base: ScoredRows) -> Labelled:
    """own, base: the same rows, all labelled, at least one."""
    requests, _ = make_requests(
        adapter.session, task, with_shuffled_texts(task, own.rows, adapter.session.settings.seed)
    )
    shuffled, own_shuffled = align(adapter.score(requests), own)
    letters = task.answer_type == "option"
    return Labelled(
        n=len(own.rows),
        metric=own.metric.name,
        adapter=quality(own),
        base=quality(base),
        shuffled=quality(shuffled),
        over_base=quality_difference(own, base),
        over_shuffled=quality_difference(own_shuffled, shuffled),
        gain=compare(own, base),
        loss_gain=_balanced_loss_gain(own, base, adapter.session.settings.seed),
        shuffled_gain=compare(own_shuffled, shuffled),
        accuracy=float((own.best == own.gold).mean()),
        base_accuracy=float((base.best == base.gold).mean()),
        top_letter=_top(own.best.tolist()) if letters else None,
        gold_top_letter=_top(own.gold.tolist()) if letters else None,
    )


def _balanced_loss_gain(own: ScoredRows, base: ScoredRows, seed: int) -> Comparison:
    """On as many rows of each gold choice, so that answers of one kind alone gain nothing."""
    counts = Counter(own.gold.tolist())
    balanced = {row.id for row in chosen_rows(own.rows, len(counts) * min(counts.values()), seed)}
    return paired(base.keep(balanced).losses - own.keep(balanced).losses)


def measure_elsewhere(adapter: LoadedAdapter, task: Task, own: ScoredRows, base: ScoredRows) -> Elsewhere | None:
    """own, base: the user's rows. None for tasks without choices."""
    candidates = tasks_with_other_probes(task)
    other_task = next((candidate for candidate in candidates if candidate.answer_type != "text"), None)
    own_kl = None if task.answer_type == "text" else choices_kl(own, base)
    if other_task is None or own_kl is None:
        return None
    requests, _ = make_requests(adapter.session, other_task, shipped_rows(other_task.name))
    other_kl = choices_kl(*align(adapter.score(requests), adapter.score_base(requests)))
    return None if other_kl is None else Elsewhere(other_task.name, own_kl, other_kl)


def word_count_baseline(task: Task, rows: Sequence[Row], seed: int) -> float | None:
    """The metric of the word-count baseline on rows it was not trained on; None where it cannot be had."""
    if task.answer_type == "text":
        return None
    fold = np.random.default_rng(seed).permutation(len(rows)) % _FOLDS
    gold: list[int] = []
    predicted: list[float] = []
    try:
        for held_fold in range(_FOLDS):
            train = [row for row, number in zip(rows, fold, strict=True) if number != held_fold]
            held = [row for row, number in zip(rows, fold, strict=True) if number == held_fold]
            answers = baseline_answers(task, train, held)
            for row in held:
                answer = answers[row.id]
                gold.append(row.gold if isinstance(row.gold, int) else 0)
                index = list(task.options(row)).index(answer.answer or "") if answer.score is None else 0
                predicted.append(index if answer.score is None else answer.score)
    except (MissingExtraError, TrainingError):
        return None
    value = choice_metric(task)(gold, predicted)
    return None if value != value else value


def _top(values: Sequence[int]) -> float:
    return Counter(values).most_common(1)[0][1] / len(values)
