"""On rows with gold: the adapter, its base, and the adapter with the texts of other rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from lorica.engines.base import Engine
from lorica.errors import MissingExtraError, TrainingError
from lorica.pipeline.baseline import baseline_answers
from lorica.records import Row
from lorica.tasks import tasks_with_other_probes
from lorica.tasks.base import Task
from lorica.vetting.behaviour.asking import OnDone, Replies, ask, both, make_questions
from lorica.vetting.behaviour.divergence import kl
from lorica.vetting.behaviour.measures import Elsewhere, Labelled
from lorica.vetting.behaviour.probes import shipped_rows, with_shuffled_texts
from lorica.vetting.behaviour.quality import choice_metric, labelled, quality, quality_difference
from lorica.vetting.behaviour.setting import Workplace

ENOUGH = 30
_FOLDS = 5
_LEAST = 1e-12


def measure_labelled(
    work: Workplace,
    engine: Engine,
    adapter: str,
    task: Task,
    replies: Replies,
    base: Replies,
    on_done: OnDone | None = None,
) -> Labelled | None:
    """replies, base: to the same rows. None with fewer than ENOUGH labelled ones, or without choices to rank."""
    known, known_base = labelled(replies), labelled(base)
    if len(known.rows) < ENOUGH:
        return None
    questions, _ = make_questions(work, task, with_shuffled_texts(task, known.rows, work.setting.seed))
    shuffled, known = both(ask(work, engine, questions, adapter, on_done), known)
    known, known_base = both(known, known_base)
    shuffled = shuffled.keep({row.id for row in known.rows})
    letters = task.answer_type == "option"
    return Labelled(
        n=len(known.rows),
        metric=choice_metric(task).name,
        adapter=quality(task, known),
        base=quality(task, known_base),
        shuffled=quality(task, shuffled),
        over_base=quality_difference(task, known, known_base),
        over_shuffled=quality_difference(task, known, shuffled),
        accuracy=float((known.best == known.gold).mean()),
        base_accuracy=float((known_base.best == known_base.gold).mean()),
        top_letter=_top(known.best.tolist()) if letters else None,
        gold_top_letter=_top(known.gold.tolist()) if letters else None,
        tfidf=_word_counts(task, known.rows, work.setting.seed),
    )


def measure_elsewhere(
    work: Workplace,
    engine: Engine,
    adapter: str,
    task: Task,
    replies: Replies,
    base: Replies,
    on_done: OnDone | None = None,
) -> Elsewhere | None:
    """replies, base: to the user's rows. None for tasks without choices."""
    other = next((other for other in tasks_with_other_probes(task) if other.answer_type != "text"), None)
    if task.answer_type == "text" or other is None or not replies.rows:
        return None
    questions, _ = make_questions(work, other, shipped_rows(other.name))
    mine, alone = both(ask(work, engine, questions, adapter, on_done), ask(work, engine, questions, None))
    return Elsewhere(other.name, _apart(replies, base), _apart(mine, alone)) if mine.rows else None


def _apart(replies: Replies, base: Replies) -> float:
    pairs = zip(replies.probabilities, base.probabilities, strict=True)
    return float(np.mean([kl(np.clip(p, _LEAST, 1), np.clip(q, _LEAST, 1)) for p, q in pairs]))


def _top(values: Sequence[int]) -> float:
    return Counter(values).most_common(1)[0][1] / len(values)


def _word_counts(task: Task, rows: Sequence[Row], seed: int) -> float | None:
    """The metric of the word-count baseline on rows it was not trained on; None where it cannot be had."""
    if task.answer_type == "text":
        return None
    fold = np.random.default_rng(seed).permutation(len(rows)) % _FOLDS
    gold: list[int] = []
    predicted: list[float] = []
    try:
        for number in range(_FOLDS):
            train = [row for row, its in zip(rows, fold, strict=True) if its != number]
            held = [row for row, its in zip(rows, fold, strict=True) if its == number]
            answers = baseline_answers(task, train, held)
            for row in held:
                answer = answers[row.id]
                gold.append(row.gold if isinstance(row.gold, int) else 0)
                predicted.append(
                    answer.score if answer.score is not None else task.answer_names(row).index(answer.answer or "")
                )
    except (MissingExtraError, TrainingError):
        return None
    value = choice_metric(task)(gold, predicted)
    return None if value != value else value
