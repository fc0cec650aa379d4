"""Training shallow models: TF-IDF with logistic regression, and centroids of embeddings."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Literal, cast

import msgspec

from lorica.adapters.passport import Passport
from lorica.adapters.registry import CHECKPOINTS, SHALLOW_CONFIG, SHALLOW_WEIGHTS
from lorica.adapters.shallow_folder import FORMAT, ShallowConfig, open_shallow_folder, shallow_files
from lorica.commands import build
from lorica.commands.load_once import LoadOnce
from lorica.commands.row_progress import row_progress
from lorica.commands.trainers import TrainerParts, training_provenance
from lorica.config.schema import Config
from lorica.data.digest import bytes_digest
from lorica.errors import TrainingError
from lorica.locks import FolderLock
from lorica.models.base_folder import BaseFolder
from lorica.pipeline.train import LossExample, TrainJob, TrainVal, describe_job
from lorica.records import Row
from lorica.retrieval.dense_encoder import TransformerEncoder, check_encoder
from lorica.shallow.centroids import load_centroids
from lorica.shallow.embed_texts import RememberingEncoder
from lorica.shallow.fit_centroids import all_texts
from lorica.shallow.fit_shallow import FittedModel, fit_centroids_model, fit_tfidf_model, measure_losses
from lorica.shallow.row_texts import LabelledRow, read_segments
from lorica.shallow.shallow_engine import ShallowEngine, shallow_engine
from lorica.shallow.shallow_model import ShallowModel
from lorica.shallow.shallow_tfidf import load_tfidf
from lorica.tasks.base import Task
from lorica.training import publish
from lorica.training.checkpoints import leaving_no_run
from lorica.training.outcome import Losses, judge_outcome
from lorica.training.trainable import MemberFiles
from lorica.training.types import Listener, TrainResult
from lorica.version import __version__

_FILES = MemberFiles(SHALLOW_WEIGHTS, SHALLOW_CONFIG)
_COMPARED_ROWS = 32


@dataclass(frozen=True)
class ShallowTrainer(TrainerParts):
    """A `pipeline.trainer.Trainer`. embedder: of centroids; None for TF-IDF."""

    embedder: RememberingEncoder | None

    def engine(self) -> ShallowEngine:
        """With the embeddings that are computed already."""
        return shallow_engine(self.embedder)

    def train(
        self,
        job: TrainJob,
        split_rows: TrainVal,
        folder_lock: FolderLock,
        tell_example: Callable[[LossExample], None] | None,
        *,
        listener: Listener,
    ) -> TrainResult:
        folder = folder_lock.folder
        digests, facts = describe_job(job, split_rows, task=self.task, provenance=self.provenance, listener=listener)
        rows, held_out = map(self._labelled, (split_rows.train, split_rows.validation))
        manifest = self._manifest(job.name, digests | {"examples": bytes_digest(msgspec.json.encode([rows, held_out]))})
        issue_passport = partial(self._passport, job, split_rows)
        finished = publish.open_run(folder, manifest, resume=self.config.training.resume, config_name=SHALLOW_CONFIG)
        if finished is not None:
            for change in publish.issue_missing_passport(folder, finished, issue_passport):
                listener.note(f"{job.name}: {change}; look at it with `lorica check {folder}`")
            listener.note(f"{job.name}: finished before, nothing to do")
            return finished
        record_facts = {"adapter": job.name, **facts}
        started = time.perf_counter()
        try:
            with publish.naming_disk_errors(folder_lock):
                publish.record_start(folder, manifest, record_facts)
                with leaving_no_run(folder):
                    fitted = self._fit(rows, held_out, job.name, folder / CHECKPOINTS, listener)
                result = _result(fitted, rows, held_out, folder, time.perf_counter() - started)
                staged = publish.stage_files(folder, self._files(fitted))
                publish.verify_staged(staged, partial(self._verify, fitted, held_out or rows))
                passport = issue_passport(staged, result)
                publish.publish(folder_lock, staged, _FILES, manifest, record_facts, result, passport)
                shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
            listener.finished(result)
        finally:
            listener.closed()
        return result

    @property
    def _answer_type(self) -> Literal["score", "option"]:
        return cast(Literal["score", "option"], self.task.answer_type)  # of those in `engine_table`

    def _manifest(self, name: str, digests: Mapping[str, str]) -> dict[str, str]:
        """What a resumed run must share."""
        config = self.config
        own_settings = asdict(config.tfidf if self.embedder is None else config.centroids)
        settings = own_settings | {"seed": config.training.seed}
        return {
            "adapter": name,
            "kind": config.engine.name,
            **{f"settings.{setting_name}": str(value) for setting_name, value in settings.items()},
            **{f"digest.{digest_name}": value for digest_name, value in digests.items()},
        }

    def _labelled(self, rows: Sequence[Row]) -> list[LabelledRow]:
        """The rows as the model reads them: the segments of their prompts, uncut."""
        return [
            LabelledRow(
                read_segments([message.content for message in self.task.render(row)], self._answer_type),
                cast(int, row.gold),  # a file without is refused when it is read
            )
            for row in rows
        ]

    def _fit(
        self,
        rows: Sequence[LabelledRow],
        held_out: Sequence[LabelledRow],
        name: str,
        checkpoints: Path,
        listener: Listener,
    ) -> FittedModel:
        config, embedder = self.config, self.embedder
        if embedder is None:
            return fit_tfidf_model(rows, self._answer_type, config.tfidf, name, listener)
        new_texts = embedder.missing(all_texts([*rows, *held_out]))
        with row_progress(len(new_texts), "texts") as advance:
            embedder.compute(new_texts, checkpoints, advance)
        return fit_centroids_model(rows, held_out, embedder, config.centroids, config.training.seed, name, listener)

    def _files(self, fitted: FittedModel) -> dict[str, bytes]:
        model = fitted.model
        config = ShallowConfig(
            format=FORMAT,
            kind=model.kind,
            made_by=f"lorica {__version__}",
            task=self.task.name,
            answer_type=self._answer_type,
            files={},
            settings=asdict(self.config.tfidf if self.embedder is None else self.config.centroids),
            encoder="" if self.embedder is None else self.embedder.digest,
            facts=model.facts(),
        )
        return shallow_files(config, model.arrays(), model.vocabularies())

    def _verify(self, fitted: FittedModel, rows: Sequence[LabelledRow], staged_folder: Path) -> None:
        """Raise TrainingError where what was written does not answer, read back, as what was fitted."""
        texts, stored = [row.texts for row in rows[:_COMPARED_ROWS]], open_shallow_folder(staged_folder)
        model: ShallowModel = load_tfidf(stored) if self.embedder is None else load_centroids(stored, self.embedder)
        if model.answer(texts) != fitted.model.answer(texts):
            fix = "keep the files, and report it: this is a fault of saving or loading, not of the rows"
            raise TrainingError(f"{staged_folder}: read back it does not answer as it was fitted", fix=fix)

    def _passport(self, job: TrainJob, split_rows: TrainVal, folder: Path, result: TrainResult) -> Passport:
        """The passport of the model in `folder`, asked through the engine that will answer."""
        return self.passport(job, split_rows, result, open_shallow_folder(folder), self.engine())


def make_trainer(config: Config, task: Task, reading: Mapping[str, str], base: LoadOnce | None) -> ShallowTrainer:
    """The trainer of the configured kind. Raises RetrievalError for a base that is no encoder."""
    base_model = build.base_folder(config)
    encoder = build.build_encoder(config, base_model)
    embedder = None
    if config.engine.name == "centroids":
        embedder = (base or LoadOnce()).get(
            (config.engine.name, base_model.digest), partial(_open_embedder, base_model)
        )
    return ShallowTrainer(
        config=config,
        task=task,
        base_model=base_model,
        encoder=encoder,
        embedder=embedder,
        provenance=training_provenance(config, task, encoder, base_model, reading),
    )


def _open_embedder(base_model: BaseFolder) -> RememberingEncoder:
    dense_encoder = TransformerEncoder(base_model.path)
    check_encoder(dense_encoder, str(base_model.path))
    return RememberingEncoder(dense_encoder)


def _result(
    fitted: FittedModel, rows: Sequence[LabelledRow], held_out: Sequence[LabelledRow], folder: Path, seconds: float
) -> TrainResult:
    """What the model is worth, against one answer to all rows."""
    seen = measure_losses(fitted.model, rows, rows)
    judged = measure_losses(fitted.model, held_out, rows) if held_out else seen
    losses = Losses(base=judged.constant, published=judged.model, seen_base=seen.constant, seen_last=seen.model)
    outcome = judge_outcome(losses)
    problems = []
    if outcome != "better":
        problems.append(
            f"no better than one answer to all rows ({judged.model:.4f} against {judged.constant:.4f} nats per row): "
            "give more rows, or another model"
        )
    if judged.unanswered:
        judged_rows = f"{len(held_out)} held-out" if held_out else f"{len(rows)} training"
        problems.append(f"{judged.unanswered} of {judged_rows} rows are of rules without examples of both labels")
    return TrainResult(
        best_step=fitted.step,
        steps=fitted.steps,
        train_loss=seen.model,
        eval_loss=judged.model if held_out else None,
        tokens=0,
        seconds=seconds,
        folder=folder,
        base_loss=judged.constant,
        trained_loss=judged.model,
        outcome=outcome,
        seen_base=seen.constant,
        seen_last=seen.model,
        advice="; ".join(problems),
        weights=SHALLOW_WEIGHTS,
    )
