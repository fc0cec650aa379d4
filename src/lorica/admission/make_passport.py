"""What goes into a passport, put together: facts of files and data, metrics on rows, canaries from an engine."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from lorica.adapters.member import Member
from lorica.adapters.passport import (
    FEWEST_CANARIES,
    BaseFacts,
    CanaryFacts,
    DataFacts,
    Measured,
    MetricsFacts,
    Passport,
    PromptFacts,
    TrainingFacts,
)
from lorica.adapters.passport_facts import adapter_facts
from lorica.admission.canaries import make_canaries
from lorica.admission.probes import number_probes, shipped_probes
from lorica.admission.provenance import package_versions, rows_facts
from lorica.config.schema import TrainingConfig
from lorica.engines.base import Engine
from lorica.errors import PromptError
from lorica.metrics.bootstrap import Estimate
from lorica.models.base_folder import BaseFolder
from lorica.pipeline.answer import AnswerSettings, Pipeline
from lorica.pipeline.evaluate import evaluate
from lorica.pipeline.retrieve import Retriever
from lorica.pipeline.train import TrainJob, TrainVal
from lorica.prompts.encoder import Encoder
from lorica.records import Row
from lorica.tasks.base import Task
from lorica.training.types import TrainResult, identifying
from lorica.version import __version__

# More rows make the interval a little narrower and a passport much slower, where answers are generated.
MOST_ROWS = 200
_CHOSEN_ON = "the checkpoint was chosen by its loss on these rows, so the adapter's figures are a little optimistic"


def make_passport(
    adapter: Member,
    *,
    base: BaseFacts,
    prompt: PromptFacts,
    canaries: CanaryFacts,
    metrics: MetricsFacts,
    data: DataFacts | None = None,
    training: TrainingFacts | None = None,
) -> Passport:
    """The passport of an adapter. Equal input gives equal bytes: it holds no time and no place. Raises AdapterError
    when a file can no longer be read."""
    return Passport(
        format=1,
        made_by=f"lorica {__version__}",
        adapter=adapter_facts(adapter),
        base=base,
        prompt=prompt,
        canaries=canaries,
        metrics=metrics,
        data=data,
        training=training,
        versions={name.removeprefix("version."): version for name, version in package_versions().items()},
    )


def shipped_canaries(engine: Engine, name: str, task: Task | None, encoder: Encoder, base: BaseFolder) -> CanaryFacts:
    """Canaries from shipped texts through the task's prompt; from plain token ids where the base cannot hold them.

    Raises AdapterError when the engine cannot answer enough of them.
    """
    try:
        probes = shipped_probes(task, encoder, base)
    except PromptError:
        probes = []
    if len(probes) < FEWEST_CANARIES:
        return make_canaries(engine, name, number_probes(base), canary_kind="numbers")
    return make_canaries(engine, name, probes)


def prompt_facts(encoder: Encoder, task: Task | None, settings: Mapping[str, object]) -> PromptFacts:
    """How prompts for the adapter are made: tokenizer, template, task and settings."""
    return PromptFacts(
        tokenizer=encoder.tokenizer_digest,
        template=encoder.template_digest,
        origin=Path(encoder.template_origin).name,
        task=None if task is None else task.name,
        method=None if task is None else task.settings.method,
        style=None if task is None else task.settings.style,
        settings=dict(settings),
    )


def data_facts(fit: TrainJob, split_rows: TrainVal) -> DataFacts:
    """What an adapter was trained on: digests of rows, and the file's name without its folder."""
    return DataFacts(
        source=", ".join(Path(source).name for source in fit.source.split(", ")),
        all=rows_facts(fit.rows),
        train=rows_facts(split_rows.train),
        validation=rows_facts(split_rows.validation) if split_rows.validation else None,
    )


def training_facts(settings: TrainingConfig, result: TrainResult) -> TrainingFacts:
    """How it was trained: nothing that differs between a run and the same run after a kill."""
    return TrainingFacts(
        settings={name: value for name, value in identifying(settings).items() if name != "seed"},
        seed=settings.seed,
        steps=result.steps,
        best_step=result.best_step,
        first_loss=result.base_loss,
        last_loss=result.trained_loss,
        tokens=result.tokens,
    )


def measure_on_rows(
    task: Task,
    encoder: Encoder,
    engine: Engine,
    name: str,
    rows: Sequence[Row],
    settings: AnswerSettings,
    *,
    row_source: Literal["validation", "held_out", "given"],
    retriever: Retriever | None = None,
) -> MetricsFacts:
    """The task's metrics of base and adapter on the same rows, as `lorica infer` and `lorica eval` would give them.

    retriever: looks up passages, for base and adapter. Of more than `MOST_ROWS` rows as many are taken, evenly spread.
    Rows without a gold answer give no metrics.
    """
    labelled = [row for row in rows if row.gold is not None]
    if not labelled:
        missing_reason = "no rows were held out" if row_source == "validation" else "no row has a gold answer"
        return MetricsFacts(on="none", note=missing_reason)
    row_step = max(1.0, len(labelled) / MOST_ROWS)
    chosen = [labelled[int(number * row_step)] for number in range(min(MOST_ROWS, len(labelled)))]
    figures, compared = [], set()
    for adapters, adapter_use in (((), ""), ((name,), name)):
        base_settings = dataclasses.replace(settings, fixed_adapter=adapter_use, fallback="base")
        answers = Pipeline(task, encoder, engine, adapters, base_settings, retriever=retriever).answer(chosen)
        evaluation = evaluate(task, chosen, {answer.id: answer for answer in answers})
        compared |= set(evaluation.normalisations.values())
        figures.append({metric: _to_measured(estimate) for metric, estimate in evaluation.metrics.items()})
    measurement_notes = [_CHOSEN_ON] if row_source == "validation" else []
    if len(chosen) < len(rows):
        measurement_notes.append(f"{len(chosen)} of {len(rows)} rows")
    measurement_notes += [f"texts compared under the normalisation {name!r}" for name in sorted(compared)]
    base_figures, own_figures = figures
    note = "; ".join(measurement_notes)
    return MetricsFacts(on=row_source, rows=len(chosen), base=base_figures, adapter=own_figures, note=note)


def _to_measured(estimate: Estimate) -> Measured:
    def number(figure: float) -> float | None:
        return None if math.isnan(figure) else float(f"{figure:.9g}")

    return Measured(
        value=number(estimate.value),
        low=number(estimate.low),
        high=number(estimate.high),
        n=estimate.n,
        note=estimate.note,
    )
