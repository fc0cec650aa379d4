"""Centroids: a post is as likely to break a rule as it is nearer to posts that break it than to those that keep it.

    difference = cos(post, mean of breaking) - cos(post, mean of allowed)
    P(breaks)  = sigmoid(slope * difference + intercept)

The means are of the row's own examples, where it brings some, else of what the training rows say about its rule. Slope
and intercept are fitted on differences of rows whose own post is left out of the mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Literal

import msgspec
import numpy as np

from lorica.adapters.shallow_folder import Doubles, ShallowFolder, ShallowKind
from lorica.calibration.calibration_maps import PlattScaling, sigmoid
from lorica.errors import AdapterError
from lorica.names import fold_case
from lorica.retrieval.dense_encoder import DenseEncoder
from lorica.shallow.row_texts import RowTexts
from lorica.shallow.shallow_model import RowAnswer

ExampleSource = Literal["row", "rule"]
"""Whose examples a row is compared with: its own, or those of its rule in the training rows."""

_REMEMBERED = 4096  # vectors of examples, which many rows share


class CentroidsFacts(msgspec.Struct, frozen=True):
    """What stands in member.json. rules: their keys, in the order of the centroids. scalings: source of the examples ->
    how its differences become probabilities."""

    rules: tuple[str, ...]
    scalings: dict[ExampleSource, PlattScaling]


class ShallowCentroids:
    """Centroids of rules, and the encoder whose embeddings they are means of.

    centroids: "breaking" and "allowed" -> [rules, dimension], of length 1, or 0 where the rule has no such example.
    projection: [dimension, dimension], applied to every embedding; None for none.
    """

    kind: ShallowKind = "centroids"

    def __init__(
        self,
        encoder: DenseEncoder,
        facts: CentroidsFacts,
        centroids: Mapping[str, Doubles],
        projection: Doubles | None,
    ) -> None:
        self._encoder = encoder
        self._facts = facts
        self._centroids = dict(centroids)
        self._projection = projection
        self._row_of_rule = {rule: index for index, rule in enumerate(facts.rules)}
        self._embed_example = lru_cache(maxsize=_REMEMBERED)(self._embed)

    def answer(self, rows: Sequence[RowTexts]) -> list[RowAnswer]:
        """See `ShallowModel`."""
        return [self._answer(row) for row in rows]

    def arrays(self) -> dict[str, Doubles]:
        """See `ShallowModel`."""
        projection = {} if self._projection is None else {"projection": self._projection}
        return {**self._centroids, **projection}

    def vocabularies(self) -> None:
        """It has none."""

    def facts(self) -> dict[str, object]:
        """See `ShallowModel`."""
        plain_facts: dict[str, object] = msgspec.to_builtins(self._facts)
        return plain_facts

    def _answer(self, row: RowTexts) -> RowAnswer:
        own = {"breaking": row.breaking, "allowed": row.allowed}
        source: ExampleSource = "row" if any(own.values()) else "rule"
        centroids = {}
        for side, examples in own.items():
            centroid = self._mean(examples) if examples else self._of_rule(side, row.rule)
            if centroid is None:
                return (
                    f"no {side} example: the row brings none, and none of the rule {row.rule[:80]!r} was in the "
                    "training rows; give such rows examples, or train with rows of this rule"
                )
            centroids[side] = centroid
        post = self._embed(row.text)
        difference = float(post @ centroids["breaking"]) - float(post @ centroids["allowed"])
        probability = scale(self._facts.scalings[source], np.asarray([difference])).item()
        return probability, 1 - probability

    def _mean(self, examples: Sequence[str]) -> Doubles:
        return unit(np.mean([self._embed_example(example) for example in examples], axis=0))

    def _of_rule(self, side: str, rule: str) -> Doubles | None:
        index = self._row_of_rule.get(rule_key(rule))
        return None if index is None or not self._centroids[side][index].any() else self._centroids[side][index]

    def _embed(self, text: str) -> Doubles:
        (embedding,) = project(self._encoder.encode([text]).astype(np.float64), self._projection)
        return np.asarray(embedding)


def load_centroids(folder: ShallowFolder, encoder: DenseEncoder) -> ShallowCentroids:
    """The model in a folder. Raises AdapterError for another encoder than it was trained with, and where its arrays do
    not fit its rules."""
    config, arrays = folder.config, folder.arrays()
    if config.encoder != encoder.digest:
        raise AdapterError(
            f"{folder.path}: was trained on embeddings of the encoder {config.encoder[:19]}..., and this one is "
            f"{encoder.digest[:19]}...",
            fix="name the encoder that it was trained with: model.path=FOLDER",
        )
    try:
        facts = msgspec.convert(config.facts, CentroidsFacts)
        centroids = {side: arrays[side] for side in ("breaking", "allowed")}
        shapes = {values.shape for values in centroids.values()}
        if shapes != {(len(facts.rules), encoder.dimension)} or not facts.scalings:
            raise ValueError(f"centroids of the shapes {sorted(shapes)} for {len(facts.rules)} rules")
        projection = arrays.get("projection")
        if projection is not None and projection.shape != (encoder.dimension, encoder.dimension):
            raise ValueError(f"a projection of the shape {projection.shape}")
    except (KeyError, ValueError, msgspec.ValidationError) as error:
        raise AdapterError(
            f"{folder.path}: its arrays are not those of centroids: {error}", fix="train it again"
        ) from error
    return ShallowCentroids(encoder, facts, centroids, projection)


def rule_key(rule: str) -> str:
    """What spellings of a rule have in common: neither case, width nor white space make another rule."""
    return " ".join(fold_case(rule).split())


def project(embeddings: Doubles, projection: Doubles | None) -> Doubles:
    """Embeddings [..., dimension] through the projection, of length 1."""
    return embeddings if projection is None else unit(embeddings @ projection)


def unit(vectors: Doubles) -> Doubles:
    """Vectors of any shape with the last axis of length 1; a vector of zeros stays."""
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.where(norms > 0, norms, 1.0))


def scale(scaling: PlattScaling, differences: Doubles) -> Doubles:
    """Probabilities [n] of differences [n] of cosines."""
    return sigmoid(scaling.slope * differences + scaling.intercept)
