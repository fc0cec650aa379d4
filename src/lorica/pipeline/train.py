"""Rows with gold answers to a trained adapter: split, render, encode, train."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lorica.adapters.config import AdapterConfig
from lorica.config.schema import TrainingConfig
from lorica.data.digest import ids_digest
from lorica.data.split import split
from lorica.errors import DataError, PromptError, TooLongError
from lorica.locks import FolderLock
from lorica.models.decoder import Decoder
from lorica.pipeline.label_balance import count_answers, label_facts, label_notes
from lorica.pipeline.training_passages import TrainingPassages
from lorica.prompts.encoder import Encoder
from lorica.records import Row
from lorica.tasks.base import Task
from lorica.training.loop import train
from lorica.training.publish import Issue
from lorica.training.types import Example, Listener, TrainResult

# Below this many rows a validation part says nothing and costs training rows.
FEWEST_TO_SPLIT = 20
_LIMIT_KEY = "training.max_seq_length"


@dataclass(frozen=True)
class TrainJob:
    """One adapter to train: its name, its rows, where they came from and where it goes. held_out: other rows, which
    nothing is trained or chosen on; the passport's metrics are those of these."""

    name: str
    rows: Sequence[Row]
    source: str
    folder: Path
    held_out: Sequence[Row] = ()


@dataclass(frozen=True)
class TrainVal:
    """The rows of a job: those to train on, and those held out to choose the best checkpoint by (maybe none)."""

    train: Sequence[Row]
    validation: Sequence[Row]


@dataclass(frozen=True)
class LossExample:
    """What of a training row carries loss, for people to read: `answer` and nothing of `prompt`, as a model sees them.

    tokens, loss_tokens: of this row.
    """

    row: str
    prompt: str
    answer: str
    tokens: int
    loss_tokens: int


def loss_example(encoder: Encoder, example: Example) -> LossExample:
    """The loss mask of an encoded row as two texts."""
    encoded = example.encoded
    prompt, answer = encoder.decode_example(encoded)
    token_count = len(encoded.tokens)
    return LossExample(example.id, prompt, answer, tokens=token_count, loss_tokens=token_count - encoded.answer_start)


def train_val_split(train_job: TrainJob, task: Task, *, val_ratio: float, seed: int) -> TrainVal:
    """Hold rows out, unless there are too few of them. Raises what `split` raises."""
    if val_ratio > 0 and len(train_job.rows) >= FEWEST_TO_SPLIT:
        return TrainVal(*split(train_job.rows, ratio=val_ratio, seed=seed, text=task.text, source=train_job.source))
    return TrainVal(list(train_job.rows), [])


def train_adapter(
    train_job: TrainJob,
    *,
    task: Task,
    encoder: Encoder,
    decoder: Decoder,
    adapter: AdapterConfig,
    settings: TrainingConfig,
    truncate: Literal["middle", "left", "right", "error"],
    provenance: Mapping[str, str],
    listener: Listener,
    split_rows: TrainVal | None = None,
    issue_passport: Issue | None = None,
    folder_lock: FolderLock | None = None,
    tell_example: Callable[[LossExample], None] | None = None,
    passages: TrainingPassages | None = None,
) -> TrainResult:
    """Train one adapter and leave it, with its log and checkpoints, in `job.folder`.

    split_rows: the job's rows where `train_val_split` was called before. issue, lock: as `train` takes them.
    tell_example: is given the first training row as it is learned, before training begins. passages: looks up what
    stands before the rows.

    Raises DataError for rows without gold, PromptError for a row that does not fit under truncate="error", and what the
    training loop raises.
    """
    split_rows = split_rows or train_val_split(train_job, task, val_ratio=settings.val_ratio, seed=settings.seed)
    training_rows, validation_rows = split_rows.train, split_rows.validation
    positions = decoder.config.max_positions
    longest = min(settings.max_seq_length, positions)
    digests = {
        **provenance,
        "rows": ids_digest(row.id for row in training_rows),
        "validation_rows": ids_digest(row.id for row in validation_rows),
        "source": train_job.source,
    }
    examples, validation = (
        encode_rows(task, encoder, rows, train_job.source, longest, truncate, positions, passages)
        for rows in (training_rows, validation_rows)
    )
    if tell_example is not None and examples:
        tell_example(loss_example(encoder, examples[0]))
    training_answers, held_out_answers = count_answers(training_rows), count_answers(validation_rows)
    for balance_note in label_notes(task, training_answers, held_out_answers):
        listener.note(f"{train_job.name}: {balance_note}")
    return train(
        decoder,
        adapter,
        examples,
        validation,
        settings,
        train_job.folder,
        adapter_name=train_job.name,
        listener=listener,
        digests=digests,
        extra_facts=label_facts(training_answers, held_out_answers),
        issue_passport=issue_passport,
        folder_lock=folder_lock,
    )


def encode_rows(
    task: Task,
    encoder: Encoder,
    rows: Sequence[Row],
    source: str,
    max_tokens: int,
    truncate: str,
    max_positions: int | None = None,
    passages: TrainingPassages | None = None,
) -> list[Example]:
    """Prompt, answer and loss mask of each row: the answer stands where inference asks for it.

    max_positions: tokens that the base model sees at once, whatever the setting says. passages: looks up what stands
    before the rows. Raises DataError naming the first
    row without a gold answer, PromptError for one that does not fit.
    """
    examples = []
    for row in rows:
        try:
            answer = task.target(row)
            if passages is not None:
                encoded = passages.encode(
                    task, encoder, row, answer=answer, max_tokens=max_tokens, truncate=truncate, limit_key=_LIMIT_KEY
                )
            else:
                encoded = encoder.encode(
                    task.render(row),
                    answer=answer,
                    max_tokens=max_tokens,
                    truncate=truncate,
                    limit_key=_LIMIT_KEY,
                    generated=task.choices(row) is None,
                )
        except ValueError as error:
            raise DataError(
                str(error),
                path=source,
                line=row.line or None,
                row_id=row.id,
                fix=getattr(error, "fix", "training needs an answer in every row"),
            ) from error
        except PromptError as error:
            fix = error.fix
            if isinstance(error, TooLongError):
                fix = f"raise training.max_seq_length to at least {error.needed}, or {error.otherwise}"
                if max_positions is not None and error.needed > max_positions:
                    fix = f"{error.otherwise}: the base model sees {max_positions} tokens at once"
            raise PromptError(f"{source}: row {row.id!r}: {error.message}", fix=fix) from error
        examples.append(Example(row.id, encoded))
    return examples
