"""Planning batches (shuffled, of rows of similar length) and their packed tensors, without padding."""

from __future__ import annotations

import hashlib
import random
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor

from lorica.errors import TrainingError
from lorica.names import listed
from lorica.training.types import Example

# Rows of a bucket are sorted by length, so that a batch holds rows of about one length: attention pads to the
# longest.
BUCKET_BATCHES = 16


@dataclass(frozen=True)
class TrainingBatch:
    """Packed rows without padding, T tokens in all, A of them answer tokens.

    tokens, positions: [T]. sources: [A] indices into the T whose hidden state predicts `targets` [A].
    """

    ids: tuple[str, ...]
    lengths: tuple[int, ...]
    tokens: Tensor
    positions: Tensor
    sources: Tensor
    targets: Tensor


def answer_tokens(example: Example) -> int:
    """How many tokens of a row are learned; a very first token has nothing to be predicted from."""
    return max(0, len(example.encoded.tokens) - max(1, example.encoded.answer_start))


def check_examples(examples: Sequence[Example], *, vocab_size: int, set_name: str) -> None:
    """Raise TrainingError, naming rows, for rows without an answer token or with tokens the base does not
    have.
    """
    empty_examples = [example.id for example in examples if answer_tokens(example) == 0]
    if empty_examples:
        raise TrainingError(
            f"{len(empty_examples)} of {len(examples)} {set_name} rows have no answer token to learn: "
            f"{name_rows(empty_examples)}",
            fix="raise training.max_seq_length, and see whether these rows have an answer",
        )
    foreign = [
        example.id
        for example in examples
        if not 0 <= min(example.encoded.tokens) <= max(example.encoded.tokens) < vocab_size
    ]
    if foreign:
        raise TrainingError(
            f"{len(foreign)} {set_name} rows hold token ids outside the base model's vocabulary of {vocab_size}: "
            f"{name_rows(foreign)}",
            fix="tokenizer and weights are of different models; use those of one folder",
        )


def name_rows(row_ids: Sequence[str]) -> str:
    """Row ids for a message: the first few, and how many more."""
    return listed(map(repr, row_ids), 8)


def digest_examples(examples: Iterable[Example]) -> str:
    """ "sha256:..." of ids, tokens and loss masks in their order."""
    digest = hashlib.sha256()
    for example in examples:
        encoded_id = example.id.encode("utf-8", "surrogatepass")
        tokens = array("q", example.encoded.tokens)
        digest.update(array("q", (len(encoded_id), len(tokens), example.encoded.answer_start)).tobytes())
        digest.update(encoded_id)
        digest.update(tokens.tobytes())
    return f"sha256:{digest.hexdigest()}"


def plan_epoch(
    lengths: Sequence[int], *, batch_size: int, accumulation: int, seed: int, epoch: int
) -> list[list[list[int]]]:
    """Updates of one epoch -> their batches -> indices of rows. A pure function of its arguments.

    Every row appears once. Rows are shuffled, sorted by length within buckets, cut into batches, and the
    batches shuffled again so that no update sees one length only. The last update may be smaller.
    """
    chance = random.Random(f"lorica:{seed}:{epoch}")
    example_order = list(range(len(lengths)))
    chance.shuffle(example_order)
    bucket = BUCKET_BATCHES * batch_size
    batches: list[list[int]] = []
    for bucket_start in range(0, len(example_order), bucket):
        rows = sorted(
            example_order[bucket_start : bucket_start + bucket], key=lambda example_index: lengths[example_index]
        )
        batches += [rows[first_row : first_row + batch_size] for first_row in range(0, len(rows), batch_size)]
    chance.shuffle(batches)
    return [
        batches[update_start : update_start + accumulation] for update_start in range(0, len(batches), accumulation)
    ]


def updates_per_epoch(rows: int, *, batch_size: int, accumulation: int) -> int:
    """How many updates `plan_epoch` plans."""
    full_buckets, remainder = divmod(rows, BUCKET_BATCHES * batch_size)
    batches = full_buckets * BUCKET_BATCHES + -(-remainder // batch_size)
    return -(-batches // accumulation)


def evaluation_plan(lengths: Sequence[int], *, token_budget: int) -> list[list[int]]:
    """Indices of rows by length, cut so that a padded batch stays within the budget (one row always fits)."""
    batches: list[list[int]] = []
    for example_index in sorted(range(len(lengths)), key=lambda example_index: lengths[example_index]):
        # Ascending lengths: the newest row is the longest of its batch.
        if not batches or (len(batches[-1]) + 1) * lengths[example_index] > token_budget:
            batches.append([])
        batches[-1].append(example_index)
    return batches


def make_batch(examples: Sequence[Example], device: torch.device) -> TrainingBatch:
    """Pack rows into one sequence without padding."""
    rows = [example.encoded for example in examples]
    tokens = list(chain.from_iterable(row.tokens for row in rows))
    positions: list[int] = []
    targets: list[int] = []
    for row in rows:
        sequence_start = len(positions)
        positions += range(len(row.tokens))
        targets += range(sequence_start + max(1, row.answer_start), sequence_start + len(row.tokens))
    packed = torch.tensor([tokens, positions])
    chosen = torch.tensor(targets)
    placed = packed.to(device)
    return TrainingBatch(
        ids=tuple(example.id for example in examples),
        lengths=tuple(len(row.tokens) for row in rows),
        tokens=placed[0],
        positions=placed[1],
        sources=(chosen - 1).to(device),
        targets=packed[0][chosen].to(device),
    )
