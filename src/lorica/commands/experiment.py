"""Train on some rows, answer others with base, adapters and a baseline, and compare: what a demo or a bench runs."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lorica.adapters.folder import AdapterFolder
from lorica.admission.gate import admit_all
from lorica.admission.provenance import trained_as
from lorica.commands import build
from lorica.commands.train import listener, train_jobs
from lorica.config.schema import Config
from lorica.engines.base import Engine
from lorica.metrics.bootstrap import Estimate
from lorica.models.base_folder import BaseFolder
from lorica.pipeline.answer import Pipeline
from lorica.pipeline.baseline import baseline_answers
from lorica.pipeline.evaluate import Evaluation, evaluate, paired_metric_difference
from lorica.pipeline.sanity_checks import SanityCheck, check_trained_adapter
from lorica.pipeline.train import TrainJob
from lorica.records import Answer, Row
from lorica.tasks.base import Task
from lorica.training.types import TrainResult

BASE, ADAPTER, BASELINE = "base model alone", "with adapter", "TF-IDF baseline"


@dataclass(frozen=True)
class Outcome:
    """What one experiment gave.

    systems: name -> evaluation on the held-out rows. answers: name -> answers by row id. gain: adapter minus base on
    the main metric, on the same rows. routes: rows answered by each adapter. rows_per_second: of the adapters' run.
    texts, gold: what each held-out row says and its right answer, for people.
    """

    trained: dict[str, TrainResult]
    checks: dict[str, list[SanityCheck]]
    systems: dict[str, Evaluation]
    answers: dict[str, dict[str, Answer]]
    gain: Estimate
    routes: dict[str, int]
    rows_per_second: float
    train: Sequence[Row]
    held: Sequence[Row]
    texts: dict[str, str]
    gold: dict[str, str]


def run_experiment(
    config: Config, task: Task, train: Sequence[Row], held: Sequence[Row], jobs: Sequence[TrainJob]
) -> Outcome:
    """Train `fits` (made of `train`), then answer and evaluate `held`. Progress goes to standard error."""
    trained = train_jobs(config, task, jobs, listener(config))
    base_folder = build.base_folder(config)
    engine = build.build_engine(config, base_folder)
    adapters = build.open_adapters({name: result.folder for name, result in trained.items()})
    base, _ = _answers(config, task, engine, base_folder, {}, held)
    adapted, rate = _answers(config, task, engine, base_folder, adapters, held)
    answers = {BASE: base, ADAPTER: adapted, BASELINE: baseline_answers(task, train, held)}
    return Outcome(
        trained=trained,
        checks=_checks(trained, adapters, base, adapted),
        systems={name: evaluate(task, held, system_answers) for name, system_answers in answers.items()},
        answers=answers,
        gain=paired_metric_difference(task, held, adapted, base),
        routes={name: sum(answer.adapter == name for answer in adapted.values()) for name in sorted(adapters)},
        rows_per_second=rate,
        train=train,
        held=held,
        texts={row.id: task.text(row) for row in held},
        gold={row.id: _gold_text(task, row) for row in held},
    )


def _answers(
    config: Config,
    task: Task,
    engine: Engine,
    base: BaseFolder,
    adapters: Mapping[str, AdapterFolder],
    rows: Sequence[Row],
) -> tuple[dict[str, Answer], float]:
    encoder = build.build_encoder(config, base)
    if adapters:
        used = trained_as(task, encoder, base)
        build.tell_admissions(admit_all(engine, adapters, base, used=used, policy=config.adapters.gate))
    pipeline = Pipeline(task, encoder, engine, adapters, build.answer_settings(config, base))
    started = time.perf_counter()
    answers = {answer.id: answer for answer in pipeline.answer(rows)}
    return answers, len(rows) / (time.perf_counter() - started)


def _checks(
    trained: Mapping[str, TrainResult],
    adapters: Mapping[str, AdapterFolder],
    base: Mapping[str, Answer],
    adapted: Mapping[str, Answer],
) -> dict[str, list[SanityCheck]]:
    checks = {}
    for name, result in trained.items():
        own = {row_id: answer for row_id, answer in adapted.items() if answer.adapter == name}
        if own:  # `general` answers nothing while every subject has its own
            checks[name] = check_trained_adapter(adapters[name], result, base, own)
            for check in checks[name]:
                print(f"  {name}: {check.question} {check.figures}", file=sys.stderr, flush=True)
    return checks


def _gold_text(task: Task, row: Row) -> str:
    """The gold answer in the words of an answer."""
    choice = task.gold_choice(row)
    return " / ".join(row.gold) if isinstance(row.gold, tuple) else list(task.options(row))[choice or 0]
