"""Rows with two labels to a trained encoder classifier: encode, train, and prove that what was saved answers alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

from lorica.adapters.config import AdapterConfig
from lorica.config.schema import TrainingConfig
from lorica.engines.base import EngineSettings
from lorica.errors import TrainingError
from lorica.locks import FolderLock
from lorica.models.base_folder import BaseFolder
from lorica.pipeline.reload import ReloadSpec, compare_reloaded
from lorica.pipeline.train import LossExample, TrainJob, TrainVal, encode_job, encode_rows, tell_if_none_is_held_out
from lorica.prompts.encoder import Encoder
from lorica.records import Row, ScoreChoices
from lorica.tasks.base import Task
from lorica.training.classifier import TrainableClassifier, check_labels
from lorica.training.loop import train
from lorica.training.make_classifier import NewModel, load_new_model, make_classifier
from lorica.training.publish import Issue
from lorica.training.types import Example, Listener, TrainResult

# Rows whose scores are compared after loading.
_RELOADED_ROWS = 32


def train_classifier(
    train_job: TrainJob,
    split_rows: TrainVal,
    *,
    task: Task,
    encoder: Encoder,
    base: BaseFolder,
    adapter: AdapterConfig,
    settings: TrainingConfig,
    engine_settings: EngineSettings,
    truncate: Literal["middle", "left", "right", "error"],
    provenance: Mapping[str, str],
    listener: Listener,
    issue_passport: Issue,
    folder_lock: FolderLock,
    tell_example: Callable[[LossExample], None] | None = None,
    new_model: NewModel = load_new_model,
    fresh_reload: bool = True,
) -> TrainResult:
    """Train one classifier, by all weights or LoRA as `settings.method` says, and leave it in the job's folder.

    adapter: what LoRA is made by. engine_settings: how the saved classifier is loaded again, in float32; fresh_reload:
    in a process of its own. new_model: see `make_classifier`. Raises DataError for rows without gold, PromptError for a
    row that does not fit under truncate="error", TrainingError for rows of one label, and for a classifier that scores
    otherwise when it is loaded again; and what the training loop raises.
    """
    tell_if_none_is_held_out(train_job, split_rows, settings.val_ratio, listener.note)
    encode = _row_encoder(train_job, task, encoder, base, settings, truncate)
    encoded = encode_job(train_job, split_rows, encode, task=task, provenance=provenance, listener=listener)
    examples, labels = encoded.examples, _label_names(task, split_rows)
    check_labels(examples)
    if tell_example is not None:
        tell_example(_shown(encoder, examples[0], labels))
    trainable = make_classifier(
        base,
        settings,
        adapter,
        labels=labels,
        separator=encoder.end_of_turn,
        positive_share=sum(example.label or 0 for example in examples) / len(examples),
        device=engine_settings.device,
        new_model=new_model,
    )
    probe = (encoded.validation or examples)[:_RELOADED_ROWS]
    reload_spec = ReloadSpec("encoder", str(base.path), engine_settings, fresh_reload)
    return train(
        trainable,
        examples,
        encoded.validation,
        settings,
        train_job.folder,
        adapter_name=train_job.name,
        listener=listener,
        digests=encoded.digests,
        extra_facts=encoded.facts,
        verify=partial(_verify, reload_spec, trainable, probe, train_job.name, listener),
        issue_passport=issue_passport,
        folder_lock=folder_lock,
    )


def _row_encoder(
    train_job: TrainJob, task: Task, encoder: Encoder, base: BaseFolder, settings: TrainingConfig, truncate: str
) -> Callable[[Sequence[Row]], list[Example]]:
    """Rows to prompts with labels, as long as the base sees them."""
    positions = base.max_positions or settings.max_seq_length
    max_tokens, source = min(settings.max_seq_length, positions), train_job.source
    return partial(
        encode_rows, task, encoder, source=source, max_tokens=max_tokens, truncate=truncate, max_positions=positions,
        labelled=True,
    )  # fmt: skip


def _shown(encoder: Encoder, example: Example, labels: tuple[str, str]) -> LossExample:
    """A row as it is learned, for people to read."""
    prompt, _ = encoder.decode_example(example.encoded)
    return LossExample(example.id, prompt, labels[example.label or 0], len(example.encoded.tokens), 0)


def _label_names(task: Task, split_rows: TrainVal) -> tuple[str, str]:
    """Of label 0 and label 1. Raises TrainingError for a task that does not choose between two."""
    choices = task.choices(split_rows.train[0]) or ()
    if len(choices) != 2:
        raise TrainingError(
            f"task={task.name} chooses between {len(choices)}, and a classifier has two labels", fix="use task=rules"
        )
    return choices[1], choices[0]


def _verify(
    spec: ReloadSpec,
    trainable: TrainableClassifier,
    probe: list[Example],
    name: str,
    listener: Listener,
    staged_folder: Path,
) -> None:
    """Load what is staged, and hold its scores against the trainer's."""
    if spec.fresh:
        listener.note(f"loading it in a fresh process, and comparing the scores of {len(probe)} rows")
    # An engine takes the choices by their order, label 1 first, whatever their tokens are.
    requests = [ScoreChoices(example.id, example.encoded.tokens, ((0,), (0,)), adapter=name) for example in probe]
    expected = {row_id: (label_1, label_0) for row_id, (label_0, label_1) in trainable.scores(probe).items()}
    difference = compare_reloaded(spec, name, staged_folder, requests, expected)
    agreement = "to the bit" if difference == 0 else f"to {difference:.1g} in log-probability"
    listener.note(f"the saved classifier gives the trainer's scores {agreement}")
