"""What `lorica adapt` trains in tests: a count of words in place of a model."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from lorica.commands import build
from lorica.data.digest import file_digest
from lorica.errors import CollapsedError
from lorica.pipeline.train import TrainJob
from lorica.records import Answer, Row
from lorica.training.batches import updates_per_epoch
from lorica.training.types import TrainResult


class WordCounts:
    """Trains log-odds of words under each rule, in place of a model. trained: names of the jobs, in order. outcome:
    values of their results beside those of a training to its end."""

    def __init__(self) -> None:
        self.trained: list[str] = []
        self.rows: dict[str, list[Row]] = {}
        self.interrupt_before = ""
        self.collapsing = ""
        self.loads = 0
        self.outcome: dict[str, Any] = {}

    def load_trainer(self, config: Any, task: Any, reading: Mapping[str, str]) -> int:
        self.loads += 1
        return self.loads

    def train_jobs(
        self, config: Any, task: Any, jobs: Sequence[TrainJob], progress: Any, trainer: int | None
    ) -> dict[str, TrainResult]:
        results = {}
        assert all((trainer == self.loads) == job.name.startswith("estimate/") for job in jobs)
        for job in jobs:
            if job.name == self.interrupt_before:
                raise KeyboardInterrupt
            if job.name == self.collapsing:
                raise CollapsedError("the scores collapsed to one value")
            model_file = job.folder / "model.json"
            if not model_file.exists():
                self.trained.append(job.name)
                self.rows[job.name] = list(job.rows)
                job.folder.mkdir(parents=True, exist_ok=True)
                model_file.write_text(json.dumps(_log_odds(task, job.rows)))
            settings = config.training
            updates = settings.epochs * updates_per_epoch(
                len(job.rows), batch_size=settings.batch_size, accumulation=settings.gradient_accumulation_steps
            )
            complete = TrainResult(
                best_step=updates, steps=updates, train_loss=0, eval_loss=None, tokens=0, seconds=0, folder=job.folder
            )
            results[job.name] = replace(complete, **self.outcome)
        return results

    def open_adapters(self, folders: Mapping[str, Path]) -> dict[str, Any]:
        return {
            name: SimpleNamespace(path=folder, digest=file_digest(folder / "model.json"))
            for name, folder in folders.items()
        }

    @contextmanager
    def adapter_answers(
        self, config: Any, adapters: Mapping[str, Any], requested: Sequence[tuple[str, Row]], *rest: Any, **options: Any
    ) -> Iterator[tuple[None, dict[str, str], list[tuple[str, Answer]]]]:
        (adapter,) = adapters.values()
        weights = json.loads((adapter.path / "model.json").read_text())
        task = build.build_task(config)
        yield None, {}, [(name, Answer(row.id, score=_score(weights, task, row))) for name, row in requested]


def _words(task: Any, row: Row) -> list[str]:
    return [f"{task.stratum(row)} {word}" for word in task.text(row).split()]


def _log_odds(task: Any, rows: Sequence[Row]) -> dict[str, float]:
    counts: dict[int, Counter[str]] = {0: Counter(), 1: Counter()}
    for row in rows:
        assert isinstance(row.gold, int)
        counts[row.gold].update(_words(task, row))
    return {word: math.log((counts[1][word] + 0.2) / (counts[0][word] + 0.2)) for word in {*counts[0], *counts[1]}}


def _score(weights: Mapping[str, float], task: Any, row: Row) -> float:
    return 1 / (1 + math.exp(-0.5 * sum(weights.get(word, 0.0) for word in _words(task, row))))
