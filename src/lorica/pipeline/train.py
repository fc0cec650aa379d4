"""Rows with gold answers to a trained adapter: split, render, encode, train."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import msgspec

from lorica.adapters.config import AdapterConfig
from lorica.config.schema import TrainingConfig
from lorica.data.digest import ids_digest
from lorica.data.split import split
from lorica.errors import DataError, PromptError, TooLongError
from lorica.locks import FolderLock
from lorica.models.decoder import Decoder
from lorica.names import count_of
from lorica.pipeline.label_balance import contradiction_notes, count_answers, label_facts, label_notes
from lorica.pipeline.training_passages import TrainingPassages
from lorica.prompts.encoder import Encoder
from lorica.records import Row
from lorica.tasks.base import Task
from lorica.training.loop import train
from lorica.training.lora_decoder import LoraDecoder
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


def all_rows(jobs: Sequence[TrainJob]) -> list[Row]:
    """The rows of several files. Where two of these use one id, each begins with the name of its job: answers are told
    apart by the ids of their rows."""
    rows = [row for job in jobs for row in job.rows]
    if len({row.id for row in rows}) == len(rows):
        return rows
    return [msgspec.structs.replace(row, id=f"{job.name}/{row.id}") for job in jobs for row in job.rows]


@dataclass(frozen=True)
class TrainVal:
    """The rows of a job: those to train on, and those held out to choose the best checkpoint by (maybe none)."""

    train: Sequence[Row]
    validation: Sequence[Row]


@dataclass(frozen=True)
class EncodedJob:
    """What a job is learned from. digests: what else makes the run what it is. facts: for its record."""

    examples: list[Example]
    validation: list[Example]
    digests: Mapping[str, str]
    facts: Mapping[str, object]


@dataclass(frozen=True)
class LossExample:
    """What of a training row carries loss, for people to read: `answer` and nothing of `prompt`, as a model sees them.

    tokens, loss_tokens: of this row. Where a label is learned it is the answer, and no token carries loss.
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


def tell_if_none_is_held_out(
    train_job: TrainJob, split_rows: TrainVal, val_ratio: float, note: Callable[[str], None]
) -> None:
    """Say so where rows should be held out and are too few."""
    if val_ratio > 0 and not split_rows.validation:
        note(
            f"{train_job.name}: none of its {count_of(len(split_rows.train), 'row')} is held out to choose the best "
            f"checkpoint by, since they are fewer than {FEWEST_TO_SPLIT}"
        )


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
    """Train one adapter and leave it, with its log and checkpoints, in the folder of its job.

    split_rows: the job's rows where `train_val_split` was called before. issue_passport, folder_lock: as `train` takes
    them. tell_example: is given the first training row as it is learned, before training begins. passages: looks up
    what stands before the rows.

    Raises DataError for rows without gold, PromptError for a row that does not fit under truncate="error", and what the
    training loop raises.
    """
    split_rows = split_rows or train_val_split(train_job, task, val_ratio=settings.val_ratio, seed=settings.seed)
    tell_if_none_is_held_out(train_job, split_rows, settings.val_ratio, listener.note)
    encoded = encode_job(
        train_job,
        split_rows,
        partial(
            encode_rows,
            task,
            encoder,
            source=train_job.source,
            max_tokens=min(settings.max_seq_length, decoder.config.max_positions),
            truncate=truncate,
            max_positions=decoder.config.max_positions,
            passages=passages,
        ),
        task=task,
        provenance=provenance,
        listener=listener,
    )
    if tell_example is not None and encoded.examples:
        tell_example(loss_example(encoder, encoded.examples[0]))
    return train(
        LoraDecoder.create(train_job.name, decoder, adapter, settings),
        encoded.examples,
        encoded.validation,
        settings,
        train_job.folder,
        adapter_name=train_job.name,
        listener=listener,
        digests=encoded.digests,
        extra_facts=encoded.facts,
        issue_passport=issue_passport,
        folder_lock=folder_lock,
    )


def encode_job(
    train_job: TrainJob,
    split_rows: TrainVal,
    encode: Callable[[Sequence[Row]], list[Example]],
    *,
    task: Task,
    provenance: Mapping[str, str],
    listener: Listener,
) -> EncodedJob:
    """The rows of a job as examples; notes what a person should know of their answers and lengths. Raises what `encode`
    raises."""
    examples, validation = encode(split_rows.train), encode(split_rows.validation)
    dropped = [example.encoded.dropped for example in (*examples, *validation)]
    if any(dropped):
        listener.note(
            f"{train_job.name}: {len(dropped) - dropped.count(0)} of {len(dropped)} rows are longer than "
            f"training.max_seq_length or than the base sees at once: {sum(dropped)} of their tokens are cut"
        )
    digests, facts = describe_job(train_job, split_rows, task=task, provenance=provenance, listener=listener)
    return EncodedJob(examples, validation, digests, facts)


def describe_job(
    train_job: TrainJob, split_rows: TrainVal, *, task: Task, provenance: Mapping[str, str], listener: Listener
) -> tuple[dict[str, str], Mapping[str, object]]:
    """What identifies the rows of a job, and the counts of their answers for the record; notes what a person should
    know of them."""
    training_answers, held_out_answers = count_answers(split_rows.train), count_answers(split_rows.validation)
    balance_notes = label_notes(task, training_answers, held_out_answers)
    for answer_note in (*balance_notes, *contradiction_notes(task, (*split_rows.train, *split_rows.validation))):
        listener.note(f"{train_job.name}: {answer_note}")
    digests = {
        **provenance,
        "rows": ids_digest(row.id for row in split_rows.train),
        "validation_rows": ids_digest(row.id for row in split_rows.validation),
        "source": train_job.source,
    }
    return digests, label_facts(training_answers, held_out_answers)


def encode_rows(
    task: Task,
    encoder: Encoder,
    rows: Sequence[Row],
    source: str,
    max_tokens: int,
    truncate: str,
    max_positions: int | None = None,
    passages: TrainingPassages | None = None,
    labelled: bool = False,
) -> list[Example]:
    """Prompt, answer and loss mask of each row: the answer stands where inference asks for it.

    max_positions: tokens that the base model sees at once, whatever the setting says. passages: looks up what stands
    before the rows. labelled: of a task with two choices, the prompt and label 1 for the first choice, 0 for the
    second. Raises DataError naming the first row without a gold answer, PromptError for one that does not fit.
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
                    answer=None if labelled else answer,
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
        examples.append(Example(row.id, encoded, int(task.gold_choice(row) == 0) if labelled else None))
    return examples
