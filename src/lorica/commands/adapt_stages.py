"""The trainings of `lorica adapt`, each in a folder of its own, the scores of what they made, and what is published."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from lorica.adaptation.passes import passes_made
from lorica.adapters.registry import CHECKPOINTS
from lorica.admission.provenance import rows_facts
from lorica.commands import build
from lorica.commands.adapter_answers import adapter_answers
from lorica.commands.arguments import inform
from lorica.commands.train_jobs import listener, train_jobs
from lorica.commands.train_plan import LAST
from lorica.commands.trainers import load_trainer
from lorica.config.schema import Config
from lorica.data.digest import bytes_digest, file_digest
from lorica.data.write import atomic_file, sync_folder
from lorica.errors import CollapsedError, DataError
from lorica.pipeline.train import TrainJob, train_val_split
from lorica.pipeline.trainer import Trainer
from lorica.records import Row
from lorica.tasks.base import Task
from lorica.training.types import TrainResult

STAGES = "stages"
_SCORES = "scores.json"


class _StoredScores(msgspec.Struct, frozen=True):
    """Scores by row id, with the digests of the model that gave them and of the rows. trained: of the rows that the
    model learned from, where it is not kept."""

    model: str
    rows: str
    scores: dict[str, float]
    trained: str = ""


@dataclass(frozen=True)
class TrainedStage:
    """One training that has ended. trained_ids: of the rows that it learned from, without those that chose the
    checkpoint. passes: over these rows, at most, behind the saved weights."""

    name: str
    folder: Path
    result: TrainResult
    trained_ids: frozenset[str]
    passes: int


class StageRunner:
    """Trains and scores below `root`; what was finished before an interruption is taken from there."""

    def __init__(self, config: Config, task: Task, root: Path) -> None:
        """For one configuration; its adapters answer nothing here."""
        adapters = replace(config.adapters, dir="", paths={}, use="", calibration="off")
        self._config = replace(config, adapters=adapters)
        self._task = task
        self._root = root / STAGES

    def train(self, name: str, rows: Sequence[Row], trainer: Trainer | None = None) -> TrainedStage:
        """One stage on `rows`. trainer: of `load_trainer`, where several stages share it. Raises what training
        raises."""
        job = TrainJob(name, list(rows), self._config.input, self._root / name)
        result = train_jobs(self._config, self._task, [job], listener(self._config), trainer)[name]
        for leftover in (CHECKPOINTS, LAST):  # of a training that has ended nobody goes on from these
            shutil.rmtree(job.folder / leftover, ignore_errors=True)
        return self._stage(job, result)

    def train_and_score(
        self, rows_of: Mapping[str, Sequence[Row]], judged: Sequence[Row], *, may_collapse: Collection[str] = ()
    ) -> list[dict[str, float]]:
        """The scores of `judged`, row id -> score, by a model for each of `rows_of`, in its order. The models are not
        kept; what goes on after a kill finds the scores of those that have answered. may_collapse: those whose labels
        tell nothing, so that one score for all rows is no failure of their training."""
        rows_digest = rows_facts(judged).content
        trained_digests = {name: rows_facts(rows).content for name, rows in rows_of.items()}
        scores_of: dict[str, dict[str, float]] = {}
        for name, trained in trained_digests.items():
            stored = _read_scores(self._scores_path(name))
            if stored is not None and (stored.rows, stored.trained) == (rows_digest, trained):
                scores_of[name] = stored.scores
        stages: dict[str, TrainedStage] = {}
        trainer = None
        for name in (name for name in rows_of if name not in scores_of):
            trainer = trainer or load_trainer(self._config, self._task, {})
            try:
                stages[name] = self.train(name, rows_of[name], trainer)
            except CollapsedError:
                if name not in may_collapse:
                    raise
                scores_of[name] = self._store_one_score(name, judged, rows_digest, trained_digests[name])
        del trainer  # with its base, before another is loaded to answer
        for name, stage in stages.items():
            scores_of[name] = self.score(stage, judged, name, trained=trained_digests[name])
        for name in rows_of:  # also those of a call that was killed before it came to this
            shutil.rmtree(self._root / name, ignore_errors=True)
        return [scores_of[name] for name in rows_of]

    def _store_one_score(self, name: str, judged: Sequence[Row], rows_digest: str, trained: str) -> dict[str, float]:
        """What a model answers whose scores collapsed: the same to every row, so that none ranks above another."""
        inform(f"{name}: its scores collapsed to one value, as they may where labels tell nothing: ROC-AUC 0.5")
        scores = dict.fromkeys((row.id for row in judged), 0.5)
        self._write_scores(name, _StoredScores("", rows_digest, scores, trained))
        return scores

    def _stage(self, job: TrainJob, result: TrainResult) -> TrainedStage:
        settings = self._config.training
        trained = train_val_split(job, self._task, val_ratio=settings.val_ratio, seed=settings.seed).train
        passes = passes_made(self._config, result, len(trained))
        return TrainedStage(job.name, job.folder, result, frozenset(row.id for row in trained), passes)

    def score(self, stage: TrainedStage, rows: Sequence[Row], name: str, *, trained: str = "") -> dict[str, float]:
        """Row id -> score by a stage's model; kept as `name`, and what was answered before a kill with it. trained: see
        `_StoredScores`. Raises DataError for a row that gets no score."""
        config, adapter_name = self._config, self._task.name
        adapters = build.open_adapters({adapter_name: stage.folder})
        model_digest = adapters[adapter_name].digest
        rows_digest = rows_facts(rows).content
        stored = _read_scores(self._scores_path(name))
        if stored is not None and (stored.model, stored.rows, stored.trained) == (model_digest, rows_digest, trained):
            return stored.scores
        scores: dict[str, float] = {}
        requested = [(adapter_name, row) for row in rows]
        journal_folder, unit_name = self._root / f"{name}.partial", f"rows scored ({name})"
        with adapter_answers(
            config, adapters, requested, journal_folder, {"rows": rows_digest}, unit_name=unit_name
        ) as (_, _, answered):
            for _, answer in answered:
                if answer.score is None:
                    problem = answer.problem or "the model gave no probability"
                    raise DataError(f"has no score: {problem}", path=config.input, row_id=answer.id, fix="mend the row")
                scores[answer.id] = answer.score
            self._write_scores(name, _StoredScores(model_digest, rows_digest, scores, trained))
        return scores

    def _write_scores(self, name: str, stored: _StoredScores) -> None:
        path = self._scores_path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as scores_file:
            scores_file.write(msgspec.json.encode(stored))

    def _scores_path(self, name: str) -> Path:
        return self._root / f"{name}.{_SCORES}"


def _read_scores(path: Path) -> _StoredScores | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_StoredScores)
    except (OSError, msgspec.MsgspecError):
        return None  # they are computed anew


def publish_stage(stage: TrainedStage, target: Path) -> None:
    """Put a copy of a stage's model in the place of the one in `target`: whole, or the former one stays."""
    copy, former = (target.with_name(f".{target.name}.{suffix}") for suffix in ("tmp", "old"))
    for leftover in (copy, former):
        shutil.rmtree(leftover, ignore_errors=True)
    shutil.copytree(stage.folder, copy, ignore=shutil.ignore_patterns(".*"))
    if target.exists():
        os.replace(target, former)
    os.replace(copy, target)
    sync_folder(target.parent)
    shutil.rmtree(former, ignore_errors=True)
    inform(f"{target} is now the model of the stage {stage.name}")


def folder_bytes(folder: Path) -> int:
    """What all files below a folder hold."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def folder_digest(folder: Path) -> str:
    """sha256 over the names and bytes of all files below a folder; "" where there is none."""
    if not folder.is_dir():
        return ""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    lines = [f"{path.relative_to(folder).as_posix()} {file_digest(path)}" for path in files]
    return bytes_digest("\n".join(lines).encode("utf-8", "surrogatepass"))
