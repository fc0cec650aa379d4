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
    unstable = None
    if sampling.do_sample and sampling.temperature > 0:
        again = _answers(adapter, adapter.name, task_generating, rows, 1)
        unstable = _share([a.raw != b.raw for a, b in zip(answers, again, strict=True)])
    agree = _agreements(task, answers, scored)
    stages = Counter(answer.stage for answer in answers)
    return Generated(
        n=len(rows),
        unparsed_share=_share([answer.stage in _UNPARSED_STAGES for answer in answers]),
        base_unparsed_share=_share([answer.stage in _UNPARSED_STAGES for answer in base_answers]),
        fallback_share=stages["fallback"] / len(rows),
        cut_off_share=_share(["cut_off" in answer.flags for answer in answers]),
        base_cut_off_share=_share(["cut_off" in answer.flags for answer in base_answers]),
        unstable_share=unstable,
        agreement=_share(agree) if agree else None,
        stages=dict(sorted(stages.items())),
        written=_written(task_generating, rows, answers, base_answers),
    )


def _written(task: Task, rows: Sequence[Row], answers: Sequence[Answer], base: Sequence[Answer]) -> Written | None:
    """As `lorica eval` would judge them; None for tasks whose choices are judged, and with few accepted answers."""
    rows = [row for row in rows if isinstance(row.gold, tuple)]
    if task.answer_type != "text" or len(rows) < _FEWEST:
        return None
    mine, theirs = ({answer.id: answer for answer in side} for side in (answers, base))
    return Written(
        n=len(rows),
        adapter={name: interval(value) for name, value in evaluate(task, rows, mine).metrics.items()},
        base={name: interval(value) for name, value in evaluate(task, rows, theirs).metrics.items()},
        over_base=interval(paired_metric_difference(task, rows, mine, theirs)),
    )


def _answers(adapter: LoadedAdapter, name: str, task: Task, rows: Sequence[Row], seed: int) -> list[Answer]:
    settings = adapter.session.settings
    sampling = msgspec.structs.replace(settings.sampling, seed=settings.sampling.seed + seed)
    answering = AnswerSettings(
        max_input_tokens=settings.max_input_tokens,
        truncate=settings.truncate,
        sampling=sampling,
        use_stop_tokens=settings.use_stop_tokens,
        max_retries=0,
        fallback="base",
        fixed_adapter=name,
    )
    pipeline = Pipeline(task, adapter.session.encoder(), adapter.engine, [name] if name else [], answering)
    return pipeline.answer([msgspec.structs.replace(row, subject="") for row in rows])


def _agreements(task: Task, answers: Sequence[Answer], scored: ScoredRows) -> list[bool]:
    if task.answer_type != "score":
        return []
    best = {row.id: choice for row, choice in zip(scored.rows, scored.best.tolist(), strict=True)}
    return [
        (answer.score >= 0.5) == (best[answer.id] == 0)
        for answer in answers
        if answer.score is not None and answer.stage not in _UNPARSED_STAGES and answer.id in best
    ]


def _share(hits: Sequence[bool]) -> float:
    return sum(hits) / len(hits) if hits else 0.0
