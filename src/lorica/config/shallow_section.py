"""The keys of `tfidf` and `centroids`; `config.schema` says how keys are written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from msgspec import Meta

from lorica.config.value_types import Positive


@dataclass(frozen=True)
class TfidfConfig:
    """How `model=tfidf` is trained: TF-IDF features with logistic regression."""

    inverse_regularisation: Annotated[float, Meta(gt=0)] = 10.0
    """Inverse strength of the L2 penalty (scikit-learn's `C`). Above its 1, because TF-IDF rows have length 1 and
    thousands of features. Unit: none."""

    analyzer: Literal["words_and_pieces", "words", "pieces"] = "words_and_pieces"
    """Which parts of a text are counted: its words, pieces of its words, or both."""

    word_ngrams: Annotated[int, Meta(ge=1, le=5)] = 2
    """Longest run of words that is counted as one; shorter ones are, too. Unit: words."""

    piece_ngrams: Annotated[int, Meta(ge=3, le=10)] = 5
    """Longest piece of a word; pieces begin at 3. Unit: characters."""


@dataclass(frozen=True)
class CentroidsConfig:
    """How `model=centroids` is trained: distances of embeddings to those of positive and negative examples."""

    triplet: bool = False
    """Whether a projection of the embeddings is trained on triplets: a post, one of its rule and label, one of its rule
    and the other label. Without it, only two numbers are trained, which turn the distances into a probability."""

    margin: Annotated[float, Meta(gt=0, le=2)] = 0.3
    """How much nearer a post should be to one of its own label than to one of the other. Unit: cosine."""

    triplet_epochs: Positive = 20
    """Passes over the posts, each with another triplet for every post. Unit: passes."""

    triplet_batch_size: Positive = 64
    """Triplets of an update. Unit: triplets."""

    triplet_learning_rate: Annotated[float, Meta(gt=0, le=1)] = 1e-3
    """AdamW's learning rate at the first update, from where it falls to 0 by a cosine. Unit: per update."""
