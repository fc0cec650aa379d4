"""What becomes of generated answers: read or not, cut off or not, the same with another seed or not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import msgspec

from lorica.pipeline.answer import AnswerSettings, Pipeline
from lorica.pipeline.evaluate import evaluate, paired_metric_difference
from lorica.records import Answer, Row
from lorica.tasks.base import Task
from lorica.vetting.measure.loaded_adapter import LoadedAdapter
from lorica.vetting.measure.measurements import Generated, Written, interval
from lorica.vetting.measure.scoring import ScoredRows, with_settings

# Generating costs a decode step per token: so many rows show what is to be seen.
MOST_ROWS = 40
_FEWEST = 8
_UNPARSED_STAGES = frozenset({"fallback", "invalid"})


def measure_generated(adapter: LoadedAdapter, task: Task, rows: Sequence[Row], scored: ScoredRows) -> Generated | None:
    """scored: the choices of the same rows. None for tasks that never generate, and without rows."""
    if not rows or task.choices(rows[0]) is not None:
        return None
    rows = rows[:MOST_ROWS]
    task_generating = with_settings(task, method="generate")
    answers = _answers(adapter, adapter.name, task_generating, rows, 0)
    base_answers = _answers(adapter, "", task_generating, rows, 0)
    sampling = adapter.session.settings.sampling
    unstable_share = None
    if sampling.do_sample and sampling.temperature > 0:
        reseeded_answers = _answers(adapter, adapter.name, task_generating, rows, 1)
        unstable_share = _share([own.raw != again.raw for own, again in zip(answers, reseeded_answers, strict=True)])
    agreements = _agreements(task, answers, scored)
    stages = Counter(answer.stage for answer in answers)
    return Generated(
        n=len(rows),
        unparsed_share=_share([answer.stage in _UNPARSED_STAGES for answer in answers]),
        base_unparsed_share=_share([answer.stage in _UNPARSED_STAGES for answer in base_answers]),
        fallback_share=stages["fallback"] / len(rows),
        cut_off_share=_share(["cut_off" in answer.flags for answer in answers]),
        base_cut_off_share=_share(["cut_off" in answer.flags for answer in base_answers]),
        unstable_share=unstable_share,
        agreement=_share(agreements) if agreements else None,
        stages=dict(sorted(stages.items())),
        written=_written(task_generating, rows, answers, base_answers),
    )


def _written(
    task: Task, rows: Sequence[Row], answers: Sequence[Answer], base_answers: Sequence[Answer]
) -> Written | None:
    """As `lorica eval` would judge them; None for tasks whose choices are judged, and with few accepted answers."""
    rows = [row for row in rows if isinstance(row.gold, tuple)]
    if task.answer_type != "text" or len(rows) < _FEWEST:
        return None
    own_by_id, base_by_id = ({answer.id: answer for answer in side_answers} for side_answers in (answers, base_answers))
    own_metrics, base_metrics = (
        {metric: interval(estimate) for metric, estimate in evaluate(task, rows, by_id).metrics.items()}
        for by_id in (own_by_id, base_by_id)
    )
    over_base = interval(paired_metric_difference(task, rows, own_by_id, base_by_id))
    return Written(n=len(rows), adapter=own_metrics, base=base_metrics, over_base=over_base)


def _answers(
    adapter: LoadedAdapter, adapter_name: str, task: Task, rows: Sequence[Row], seed_offset: int
) -> list[Answer]:
    settings = adapter.session.settings
    sampling = msgspec.structs.replace(settings.sampling, seed=settings.sampling.seed + seed_offset)
    answer_settings = AnswerSettings(
        max_input_tokens=settings.max_input_tokens,
        truncate=settings.truncate,
        sampling=sampling,
        use_stop_tokens=settings.use_stop_tokens,
        max_retries=0,
        fallback="base",
        fixed_adapter=adapter_name,
    )
    adapters = [adapter_name] if adapter_name else []
    pipeline = Pipeline(task, adapter.session.encoder(), adapter.engine, adapters, answer_settings)
    return pipeline.answer([msgspec.structs.replace(row, subject="") for row in rows])


def _agreements(task: Task, answers: Sequence[Answer], scored: ScoredRows) -> list[bool]:
    if task.answer_type != "score":
        return []
    best_choices = {row.id: choice for row, choice in zip(scored.rows, scored.best.tolist(), strict=True)}
    return [
        (answer.score >= 0.5) == (best_choices[answer.id] == 0)
        for answer in answers
        if answer.score is not None and answer.stage not in _UNPARSED_STAGES and answer.id in best_choices
    ]


def _share(outcomes: Sequence[bool]) -> float:
    return sum(outcomes) / len(outcomes) if outcomes else 0.0
