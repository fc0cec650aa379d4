"""Planning batches (shuffled, of rows of similar length), and their tensors, packed as prefix trees without padding."""

from __future__ import annotations

import hashlib
import random
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lorica.errors import TrainingError
from lorica.models.tree_attention import TreeSpan
from lorica.names import listed
from lorica.training.prefix_tree import build_prefix_tree, group_by_prefix
from lorica.training.types import Example

# Rows of a bucket are sorted by length, so that a batch holds rows of about one length: attention pads to the longest.
BUCKET_BATCHES = 16

EVALUATION_TOKENS = 4096
"""Tokens per batch of an evaluation, which keeps no activations."""


@dataclass(frozen=True)
class TrainingBatch:
    """Rows packed as a prefix tree: T tokens to compute, of which R predict the A answer tokens.

    ids: of the rows. row_tokens: of all rows, shared ones counted for each. tokens, positions: [T]. spans: of the
    prefix tree, covering the T tokens. outputs: [R] ascending indices into the T. sources: [A] indices into the R whose
    hidden state predicts `targets` [A].
    """

    ids: tuple[str, ...]
    row_tokens: int
    tokens: Tensor
    positions: Tensor
    spans: tuple[TreeSpan, ...]
    outputs: Tensor
    sources: Tensor
    targets: Tensor


def answer_tokens(example: Example) -> int:
    """How many tokens of a row are learned; a very first token has nothing to be predicted from."""
    return max(0, len(example.encoded.tokens) - max(1, example.encoded.answer_start))


def check_examples(examples: Sequence[Example], *, vocab_size: int, set_name: str) -> None:
    """Raise TrainingError, naming rows, for rows without an answer token or with tokens the base does not have."""
    empty_examples = [example.id for example in examples if answer_tokens(example) == 0]
    if empty_examples:
        raise TrainingError(
            f"{len(empty_examples)} of {len(examples)} {set_name} rows have no answer token to learn: "
            f"{name_rows(empty_examples)}",
            fix="raise training.max_seq_length, and see whether these rows have an answer",
        )
    refuse_foreign_tokens(examples, vocab_size=vocab_size, set_name=set_name)


def refuse_foreign_tokens(examples: Sequence[Example], *, vocab_size: int, set_name: str) -> None:
    """Raise TrainingError, naming rows, for tokens that the base does not have."""
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
    """ "sha256:..." of ids, tokens and loss masks or labels in their order."""
    digest = hashlib.sha256()
    for example in examples:
        encoded_id = example.id.encode("utf-8", "surrogatepass")
        tokens = array("q", example.encoded.tokens)
        digest.update(array("q", (len(encoded_id), len(tokens), example.encoded.answer_start)).tobytes())
        digest.update(encoded_id)
        digest.update(tokens.tobytes())
        if example.label is not None:
            digest.update(bytes([example.label]))
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
    for start in range(0, len(example_order), bucket):
        rows = sorted(example_order[start : start + bucket], key=lambda row: lengths[row])
        batches += [rows[first_row : first_row + batch_size] for first_row in range(0, len(rows), batch_size)]
    chance.shuffle(batches)
    return [batches[start : start + accumulation] for start in range(0, len(batches), accumulation)]


def updates_per_epoch(rows: int, *, batch_size: int, accumulation: int) -> int:
    """How many updates `plan_epoch` plans."""
    full_buckets, remainder = divmod(rows, BUCKET_BATCHES * batch_size)
    batches = full_buckets * BUCKET_BATCHES + -(-remainder // batch_size)
    return -(-batches // accumulation)


def regroup_update(
    examples: Sequence[Example], batches: Sequence[Sequence[int]], *, answer_weight: float
) -> list[list[int]]:
    """The rows of one update in batches of rows that begin alike, each within the memory of the largest as planned.

    batches: indices of rows. answer_weight: memory of an answer token's logits, in tokens.
    """
    rows = [row for batch in batches for row in batch]
    computed = [_computed_tokens(examples[row]) for row in rows]
    weights = dict(zip(rows, (answer_weight * answer_tokens(examples[row]) for row in rows), strict=True))
    budget = max(sum(len(_computed_tokens(examples[row])) + weights[row] for row in batch) for batch in batches)
    groups = group_by_prefix(computed, [weights[row] for row in rows], budget=budget)
    return [[rows[index] for index in group] for group in groups]


def evaluation_plan(examples: Sequence[Example], *, token_budget: int, share_prefixes: bool) -> list[list[int]]:
    """Indices of rows in batches within a budget of tokens to compute (one row always fits): rows that begin alike
    together, or rows of about one length where no prefix is shared.
    """
    if share_prefixes:
        computed = [_computed_tokens(example) for example in examples]
        return group_by_prefix(computed, [0.0] * len(computed), budget=token_budget)
    lengths = [len(example.encoded.tokens) for example in examples]
    batches: list[list[int]] = []
    for example_index in sorted(range(len(lengths)), key=lambda example_index: lengths[example_index]):
        # Ascending lengths: the newest row is the longest of its batch.
        if not batches or (len(batches[-1]) + 1) * lengths[example_index] > token_budget:
            batches.append([])
        batches[-1].append(example_index)
    return batches


def make_batch(examples: Sequence[Example], device: torch.device, *, share_prefixes: bool = False) -> TrainingBatch:
    """Pack rows without padding, and without their last tokens, which predict nothing."""
    tree = build_prefix_tree([_computed_tokens(example) for example in examples], share=share_prefixes)
    sources: list[int] = []
    targets: list[int] = []
    for row, example in enumerate(examples):
        row_tokens = example.encoded.tokens
        for position in range(max(1, example.encoded.answer_start), len(row_tokens)):
            sources.append(tree.packed_index(row, position - 1))
            targets.append(row_tokens[position])
    outputs, output_indices = torch.unique(torch.tensor(sources), return_inverse=True)
    packed = torch.tensor([tree.tokens, tree.positions]).to(device)
    return TrainingBatch(
        ids=tuple(example.id for example in examples),
        row_tokens=sum(len(example.encoded.tokens) for example in examples),
        tokens=packed[0],
        positions=packed[1],
        spans=tuple(tree.spans),
        outputs=outputs.to(device),
        sources=output_indices.to(device),
        targets=torch.tensor(targets).to(device),
    )


def _computed_tokens(example: Example) -> tuple[int, ...]:
    return example.encoded.tokens[:-1]
