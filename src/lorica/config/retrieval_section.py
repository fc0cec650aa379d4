"""The keys of `retrieval`; `config.schema` says how keys are written."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from msgspec import Meta

from lorica.config.value_types import LocalPath, NotNegative, Positive

PassageSearch = Literal["auto", "bm25", "dense", "fused"]

ALL_SUBJECTS = "all"
"""The entry of `retrieval.enabled` that stands for every subject with an index that has no entry of its own."""


@dataclass(frozen=True)
class RetrievalConfig:
    """Passages of a knowledge base before the questions (`lorica kb`)."""

    dir: LocalPath = ""
    """Folder of the knowledge base, which `lorica kb build` makes: one index for each subject. Empty: no retrieval."""

    enabled: dict[str, bool] = field(default_factory=dict)
    """Whose questions get passages: subject -> true or false, as in `retrieval.enabled.geography=true`. `all`, or one
    switch in place of the table (`retrieval.enabled=true`), stands for every subject with an index and no entry. No
    subject is switched on unless it stands here; `lorica kb test` proposes what to write."""

    top_k: Positive = 3
    """Passages that are looked up for a question. Unit: passages."""

    min_score: Annotated[float, Meta(ge=0)] = 0.0
    """Score below which a passage is left out; scores of `bm25`, `dense` and `fused` are on scales of their own.
    Unit: score."""

    max_tokens: Positive = 512
    """Room for all passages of a question, within `inference.max_input_tokens` and beside all of the row's own text:
    the last passages are dropped first, and one that alone is too long is cut by `task.truncate`. Unit: tokens."""

    search: PassageSearch = "auto"
    """How passages are found: by their words (`bm25`), by their meaning (`dense`, where the index was built with an
    encoder) or by both (`fused`). `auto`: fused where the index has an encoder, else bm25."""

    encoder: LocalPath = ""
    """What `dense` and `fused` compare meanings by: the folder of an encoder, or `package:NAME` for that of an
    installed Python package. Empty: what the index was built with, where that is found by itself."""

    train: bool = False
    """Whether training rows get passages, too, rendered as for inference: the passage that belongs to the row, where
    `retrieval.source_column` says which, and others of its subject beside it, in random order."""

    source_column: str = ""
    """The column of rows that names the document a row was taken from, such as `module`, for training and `lorica kb
    test`; empty: training rows get what a look-up gives."""

    distractors: NotNegative = 2
    """Passages of other documents beside a training row's own. Unit: passages."""
