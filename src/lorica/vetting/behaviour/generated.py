"""What becomes of generated answers: read or not, cut off or not, the same with another seed or not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import msgspec

from lorica.engines.base import Engine
from lorica.pipeline.answer import AnswerSettings, Pipeline
from lorica.pipeline.evaluate import difference, evaluate
from lorica.records import Answer, Row
from lorica.tasks.base import Task
from lorica.vetting.behaviour.asking import Replies, other_settings
from lorica.vetting.behaviour.measures import Generated, Written, interval
from lorica.vetting.behaviour.setting import Workplace

# Generating costs a pass per token: so many rows show what is to be seen.
MOST_ROWS = 40
_FEWEST = 8
_UNPARSED_STAGES = frozenset({"fallback", "invalid"})


def measure_generated(
    work: Workplace, engine: Engine, adapter: str, task: Task, rows: Sequence[Row], replies: Replies
) -> Generated | None:
    """replies: what the choices said of the same rows. None for tasks that never generate, and without rows."""
    if not rows or task.choices(rows[0]) is not None:
        return None
    rows = rows[:MOST_ROWS]
    asked = other_settings(task, method="generate")
    answers = _answers(work, engine, adapter, asked, rows, 0)
    alone = _answers(work, engine, "", asked, rows, 0)
    sampling = work.setting.sampling
    unstable = None
    if sampling.do_sample and sampling.temperature > 0:
        again = _answers(work, engine, adapter, asked, rows, 1)
        unstable = _share([a.raw != b.raw for a, b in zip(answers, again, strict=True)])
    agree = _agreements(task, answers, replies)
    stages = Counter(answer.stage for answer in answers)
    return Generated(
        n=len(rows),
        unparsed_share=_share([answer.stage in _UNPARSED_STAGES for answer in answers]),
        base_unparsed_share=_share([answer.stage in _UNPARSED_STAGES for answer in alone]),
        fallback_share=stages["fallback"] / len(rows),
        cut_off_share=_share(["cut_off" in answer.flags for answer in answers]),
        base_cut_off_share=_share(["cut_off" in answer.flags for answer in alone]),
        unstable_share=unstable,
        agreement=_share(agree) if agree else None,
        stages=dict(sorted(stages.items())),
        written=_written(asked, rows, answers, alone),
    )


def _written(task: Task, rows: Sequence[Row], answers: Sequence[Answer], alone: Sequence[Answer]) -> Written | None:
    """As `lorica eval` would judge them; None for tasks whose choices are judged, and with few accepted answers."""
    rows = [row for row in rows if isinstance(row.gold, tuple)]
    if task.answer_type != "text" or len(rows) < _FEWEST:
        return None
    mine, theirs = ({answer.id: answer for answer in each} for each in (answers, alone))
    return Written(
        n=len(rows),
        adapter={name: interval(each) for name, each in evaluate(task, rows, mine).metrics.items()},
        base={name: interval(each) for name, each in evaluate(task, rows, theirs).metrics.items()},
        over_base=interval(difference(task, rows, mine, theirs)),
    )


def _answers(work: Workplace, engine: Engine, adapter: str, task: Task, rows: Sequence[Row], seed: int) -> list[Answer]:
    setting = work.setting
    sampling = msgspec.structs.replace(setting.sampling, seed=setting.sampling.seed + seed)
    settings = AnswerSettings(
        max_input_tokens=setting.max_input_tokens,
        truncate=setting.truncate,
        sampling=sampling,
        use_stop_tokens=setting.use_stop_tokens,
        max_retries=0,
        fallback="base",
        fixed_adapter=adapter,
    )
    pipeline = Pipeline(task, work.encoder(), engine, [adapter] if adapter else [], settings)
    return pipeline.answer([msgspec.structs.replace(row, subject="") for row in rows])


def _agreements(task: Task, answers: Sequence[Answer], replies: Replies) -> list[bool]:
    if task.answer_type != "score":
        return []
    best = {row.id: choice for row, choice in zip(replies.rows, replies.best.tolist(), strict=True)}
    return [
        (answer.score >= 0.5) == (best[answer.id] == 0)
        for answer in answers
        if answer.score is not None and answer.stage not in _UNPARSED_STAGES and answer.id in best
    ]


def _share(hits: Sequence[bool]) -> float:
    return sum(hits) / len(hits) if hits else 0.0
