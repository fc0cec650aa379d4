"""Train on some rows, answer others with base, adapters and a baseline, and compare: what a demo or a bench runs."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lorica.adapters.member import Member
from lorica.admission.gate import admit_all
from lorica.admission.provenance import trained_as
from lorica.commands import build
from lorica.commands.train_jobs import listener, train_jobs
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
    config: Config,
    task: Task,
    training_rows: Sequence[Row],
    held_out_rows: Sequence[Row],
    jobs_to_train: Sequence[TrainJob],
) -> Outcome:
    """Train `jobs_to_train` (made of `training_rows`), then answer and evaluate `held_out_rows`. Progress goes to
    standard error."""
    trained = train_jobs(config, task, jobs_to_train, listener(config))
    base_folder = build.base_folder(config)
    engine = build.build_engine(config, base_folder)
    adapters = build.open_adapters({name: result.folder for name, result in trained.items()})
    base_answers, _ = answer_rows(config, task, engine, base_folder, {}, held_out_rows)
    adapter_answers, rows_per_second = answer_rows(config, task, engine, base_folder, adapters, held_out_rows)
    tfidf_answers = baseline_answers(task, training_rows, held_out_rows)
    answers = {BASE: base_answers, ADAPTER: adapter_answers, BASELINE: tfidf_answers}
    return Outcome(
        trained=trained,
        checks=_checks(trained, adapters, base_answers, adapter_answers),
        systems={name: evaluate(task, held_out_rows, system_answers) for name, system_answers in answers.items()},
        answers=answers,
        gain=paired_metric_difference(task, held_out_rows, adapter_answers, base_answers),
        routes={name: sum(answer.adapter == name for answer in adapter_answers.values()) for name in sorted(adapters)},
        rows_per_second=rows_per_second,
        train=training_rows,
        held=held_out_rows,
        texts={row.id: task.text(row) for row in held_out_rows},
        gold={row.id: _gold_text(task, row) for row in held_out_rows},
    )


def answer_rows(
    config: Config,
    task: Task,
    engine: Engine,
    base_model: BaseFolder,
    adapters: Mapping[str, Member],
    rows: Sequence[Row],
) -> tuple[dict[str, Answer], float]:
    """(answers by row id, rows a second) of the base alone, or with adapters that are checked first."""
    encoder = build.build_encoder(config, base_model)
    if adapters:
        provenance = trained_as(task, encoder, base_model)
        build.tell_admissions(admit_all(engine, adapters, base_model, used=provenance, policy=config.adapters.gate))
    pipeline = Pipeline(task, encoder, engine, adapters, build.answer_settings(config, base_model))
    started = time.perf_counter()
    answers = {answer.id: answer for answer in pipeline.answer(rows)}
    return answers, len(rows) / (time.perf_counter() - started)


def _checks(
    trained: Mapping[str, TrainResult],
    adapters: Mapping[str, Member],
    base_answers: Mapping[str, Answer],
    adapter_answers: Mapping[str, Answer],
) -> dict[str, list[SanityCheck]]:
    checks_by_adapter = {}
    for adapter_name, train_result in trained.items():
        own_answers = {row_id: answer for row_id, answer in adapter_answers.items() if answer.adapter == adapter_name}
        if own_answers:  # `general` answers nothing while every subject has its own
            checks_by_adapter[adapter_name] = check_trained_adapter(
                adapters[adapter_name], train_result, base_answers, own_answers
            )
            for sanity_check in checks_by_adapter[adapter_name]:
                print(f"  {adapter_name}: {sanity_check.question} {sanity_check.figures}", file=sys.stderr, flush=True)
    return checks_by_adapter


def _gold_text(task: Task, row: Row) -> str:
    """The gold answer in the words of an answer."""
    gold_choice = task.gold_choice(row)
    return " / ".join(row.gold) if isinstance(row.gold, tuple) else list(task.options(row))[gold_choice or 0]
