"""Ablations: what answers owe to the prompt. Parts taken away or exchanged, texts of other rows, questions of another
task."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from lorica.errors import MissingExtraError, TrainingError
from lorica.pipeline.baseline import baseline_answers
from lorica.records import Row
from lorica.tasks import tasks_with_other_probes
from lorica.tasks.base import Task
from lorica.vetting.measure.divergence import choices_kl, log_odds
from lorica.vetting.measure.loaded_adapter import LoadedAdapter
from lorica.vetting.measure.measurements import Comparison, Elsewhere, Examples, InputVariant, Interval, Labelled
from lorica.vetting.measure.probe_rows import chosen_rows, shipped_rows, with_shuffled_texts
from lorica.vetting.measure.quality import (
    STRICT,
    accuracy,
    compare,
    mean_difference,
    paired,
    quality,
    quality_difference,
)
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
    aligned_pairs = [
        align(score_rows(as_they_are), score_rows(exchanged)) for score_rows in (adapter.score, adapter.score_base)
    ]
    if not all(own_rows.rows for own_rows, _ in aligned_pairs):
        return None
    (moved, following), (base_moved, base_following) = (_effect(*aligned_pair) for aligned_pair in aligned_pairs)
    return Examples(len(aligned_pairs[0][0].rows), style, moved, base_moved, following, base_following)


def _effect(as_they_are: ScoredRows, exchanged: ScoredRows) -> tuple[float, Interval | None]:
    """Mean absolute change of P(breaks the rule), and the change towards what the examples suggest."""
    change = as_they_are.first - exchanged.first
    labelled = as_they_are.gold >= 0
    towards = None
    if labelled.sum() >= _FEWEST:
        # With its own examples a post that breaks the rule (choice 0) should score higher than with exchanged ones.
        signed = np.where(as_they_are.gold == 0, change, -change)[labelled]
        towards = mean_difference(signed, np.zeros(len(signed)), as_they_are.labelled.rows, 0.95)
    return float(np.abs(change).mean()), towards


def measure_inputs(adapter: LoadedAdapter, task: Task, own_scores: ScoredRows) -> tuple[InputVariant, ...]:
    """own_scores: the rows as they are. Variants that fewer than 8 rows have are left out."""
    results = []
    for name, variant_of in task.variants.items():
        rows = [row for row in map(variant_of, own_scores.rows) if row is not None]
        if len(rows) < _FEWEST:
            continue
        requests, refused = make_requests(adapter.session, task, rows)
        scored = adapter.score(requests)
        results.append(_input_variant(name, *align(own_scores, scored), failed=len(refused) + len(scored.failed)))
    return tuple(results)


def _input_variant(name: str, as_they_are: ScoredRows, varied: ScoredRows, *, failed: int) -> InputVariant:
    """as_they_are, varied: the same rows."""
    best_choices = as_they_are.best.tolist()
    own, other = (
        np.array([values[choice] for choice, values in zip(best_choices, scored.probabilities, strict=True)])
        for scored in (as_they_are, varied)
    )
    changes = varied.best != as_they_are.best
    labelled = varied.labelled
    enough = len(labelled.rows) >= _FEWEST
    return InputVariant(
        name=name,
        n=len(varied.rows),
        moved=float(np.abs(own - other).mean()) if len(own) else 0.0,
        moved_odds=float(np.abs(log_odds(own) - log_odds(other)).mean()) if len(own) else 0.0,
        changed=float(changes.mean()) if len(changes) else 0.0,
        failed=failed,
        quality=quality(labelled) if enough else None,
        lost=quality_difference(as_they_are.labelled, labelled, STRICT) if enough else None,
    )


def measure_labelled(adapter: LoadedAdapter, task: Task, own_scores: ScoredRows, base_scores: ScoredRows) -> Labelled:
    """own_scores, base_scores: the same rows, all labelled, at least one."""
    seed = adapter.session.settings.seed
    requests, _ = make_requests(adapter.session, task, with_shuffled_texts(task, own_scores.rows, seed))
    shuffled_scores, own_shuffled = align(adapter.score(requests), own_scores)
    answers_by_letter = task.answer_type == "option"
    own_accuracy = accuracy(own_scores)
    return Labelled(
        n=len(own_scores.rows),
        metric=own_scores.metric.name,
        adapter=quality(own_scores),
        base=quality(base_scores),
        shuffled=quality(shuffled_scores),
        over_base=quality_difference(own_scores, base_scores),
        over_shuffled=quality_difference(own_shuffled, shuffled_scores),
        gain=compare(own_scores, base_scores),
        loss_gain=_balanced_loss_gain(own_scores, base_scores, seed),
        shuffled_gain=compare(own_shuffled, shuffled_scores),
        accuracy=own_accuracy.value,
        accuracy_interval=own_accuracy,
        base_accuracy=float((base_scores.best == base_scores.gold).mean()),
        gold_top=_top(own_scores.gold.tolist()),
        top_letter=_top(own_scores.best.tolist()) if answers_by_letter else None,
        gold_top_letter=_top(own_scores.gold.tolist()) if answers_by_letter else None,
    )


def _balanced_loss_gain(own_scores: ScoredRows, base_scores: ScoredRows, seed: int) -> Comparison:
    """On as many rows of each gold choice, so that answers of one kind alone gain nothing."""
    gold_counts = Counter(own_scores.gold.tolist())
    balanced_ids = {row.id for row in chosen_rows(own_scores.rows, len(gold_counts) * min(gold_counts.values()), seed)}
    return paired(base_scores.keep(balanced_ids).losses - own_scores.keep(balanced_ids).losses)


def measure_elsewhere(
    adapter: LoadedAdapter, task: Task, own_scores: ScoredRows, base_scores: ScoredRows
) -> Elsewhere | None:
    """own_scores, base_scores: the user's rows. None for tasks without choices."""
    candidates = tasks_with_other_probes(task)
    other_task = next((candidate for candidate in candidates if candidate.answer_type != "text"), None)
    own_kl = None if task.answer_type == "text" else choices_kl(own_scores, base_scores)
    if other_task is None or own_kl is None:
        return None
    requests, _ = make_requests(adapter.session, other_task, shipped_rows(other_task.name))
    other_kl = choices_kl(*align(adapter.score(requests), adapter.score_base(requests)))
    return None if other_kl is None else Elsewhere(other_task.name, own_kl, other_kl)


def word_count_baseline(task: Task, rows: Sequence[Row], seed: int) -> float | None:
    """The metric of the word-count baseline on rows it was not trained on; None where it cannot be had."""
    if task.answer_type == "text":
        return None
    folds = list(zip(rows, np.random.default_rng(seed).permutation(len(rows)) % _FOLDS, strict=True))
    gold: list[int] = []
    predicted: list[float] = []
    try:
        for held_fold in range(_FOLDS):
            training_rows = [row for row, fold in folds if fold != held_fold]
            held_out_rows = [row for row, fold in folds if fold == held_fold]
            answers = baseline_answers(task, training_rows, held_out_rows)
            for row in held_out_rows:
                answer, score = answers[row.id], answers[row.id].score
                gold.append(row.gold if isinstance(row.gold, int) else 0)
                predicted.append(list(task.options(row)).index(answer.answer or "") if score is None else score)
    except (MissingExtraError, TrainingError):
        return None
    metric_value = choice_metric(task)(gold, predicted)
    return None if metric_value != metric_value else metric_value


def _top(choice_indices: Sequence[int]) -> float:
    return Counter(choice_indices).most_common(1)[0][1] / len(choice_indices)
