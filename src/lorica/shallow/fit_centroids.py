"""Fitting centroids: which posts of the training rows stand for a rule, their means, and the scale of differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lorica.adapters.shallow_folder import Doubles
from lorica.calibration.calibration_maps import PlattScaling, sigmoid
from lorica.calibration.fitting import fit_platt
from lorica.errors import TrainingError
from lorica.retrieval.dense_encoder import DenseEncoder
from lorica.shallow.centroids import CentroidsFacts, ExampleSource, ShallowCentroids, rule_key, unit
from lorica.shallow.row_texts import LabelledRow

SIDES = {1: "breaking", 0: "allowed"}


@dataclass(frozen=True)
class LabelledPost:
    """A post under a rule (its key) with its label: that of a row, or an example that a row brings along."""

    rule: str
    text: str
    label: int


def labelled_posts(rows: Sequence[LabelledRow]) -> list[LabelledPost]:
    """The posts of rows and their examples, each once, in the order of the rows."""
    posts: dict[LabelledPost, None] = {}
    for row in rows:
        rule = rule_key(row.texts.rule)
        posts[LabelledPost(rule, row.texts.text, row.label)] = None
        for label, examples in ((1, row.texts.breaking), (0, row.texts.allowed)):
            posts |= dict.fromkeys(LabelledPost(rule, example, label) for example in examples)
    return list(posts)


def all_texts(rows: Sequence[LabelledRow]) -> list[str]:
    """Every text of rows that is embedded, once."""
    return list(dict.fromkeys(post.text for post in labelled_posts(rows)))


class RuleCentroids:
    """The means of the posts of each rule and label, with or without one of them."""

    def __init__(self, posts: Sequence[LabelledPost], embeddings: Mapping[str, Doubles]) -> None:
        self._embeddings = embeddings
        self._posts = set(posts)
        self._sums: dict[tuple[str, int], Doubles] = {}
        self._counts: dict[tuple[str, int], int] = {}
        for post in posts:
            key = post.rule, post.label
            self._sums[key] = self._sums.get(key, 0.0) + embeddings[post.text]
            self._counts[key] = self._counts.get(key, 0) + 1
        self.rules = tuple(dict.fromkeys(post.rule for post in posts))

    def centroid(self, rule: str, label: int, without: LabelledPost | None = None) -> Doubles | None:
        """[dimension], of length 1; None where no post is left."""
        total, count = self._sums.get((rule, label)), self._counts.get((rule, label), 0)
        if total is None:
            return None
        if without in self._posts and (without.rule, without.label) == (rule, label):
            total, count = total - self._embeddings[without.text], count - 1
        return unit(total / count) if count else None

    def as_array(self, label: int) -> Doubles:
        """[rules, dimension]; 0 where a rule has no post of this label."""
        dimension = len(next(iter(self._sums.values())))
        centroids = [self.centroid(rule, label) for rule in self.rules]
        return np.stack([np.zeros(dimension) if centroid is None else centroid for centroid in centroids])


def fit_centroids(
    rows: Sequence[LabelledRow],
    scaling_rows: Sequence[LabelledRow],
    encoder: DenseEncoder,
    embeddings: Mapping[str, Doubles],
    projection: Doubles | None = None,
) -> ShallowCentroids:
    """Centroids of the posts of `rows`, scaled on `scaling_rows`, whose own posts are left out of the means.

    embeddings: of all texts of both, through the projection. Raises TrainingError where no row can be compared with
    examples of both labels, MissingExtraError without scikit-learn.
    """
    rule_centroids = RuleCentroids(labelled_posts(rows), embeddings)
    differences: dict[ExampleSource, list[tuple[float, int]]] = {"row": [], "rule": []}
    for row in scaling_rows:
        for source, difference in _differences(row, rule_centroids, embeddings).items():
            differences[source].append((difference, row.label))
    return ShallowCentroids(
        encoder,
        CentroidsFacts(rule_centroids.rules, _fit_scalings(differences)),
        {side: rule_centroids.as_array(label) for label, side in SIDES.items()},
        projection,
    )


def _differences(
    row: LabelledRow, rule_centroids: RuleCentroids, embeddings: Mapping[str, Doubles]
) -> dict[ExampleSource, float]:
    """Of the cosines with breaking and allowed posts: compared with the rule's, and with the row's own where it has
    some; neither where a label has no post."""
    texts, rule = row.texts, rule_key(row.texts.rule)
    own_post = LabelledPost(rule, texts.text, row.label)
    of_rule = {label: rule_centroids.centroid(rule, label, without=own_post) for label in SIDES}
    of_row = dict(of_rule)
    for label, examples in ((1, texts.breaking), (0, texts.allowed)):
        if examples:
            of_row[label] = unit(np.mean([embeddings[example] for example in examples], axis=0))
    by_source: dict[ExampleSource, dict[int, Doubles | None]] = {"rule": of_rule}
    if texts.breaking or texts.allowed:
        by_source["row"] = of_row
    post = embeddings[texts.text]
    return {
        source: float(post @ breaking) - float(post @ allowed)
        for source, centroids in by_source.items()
        if (breaking := centroids[1]) is not None and (allowed := centroids[0]) is not None
    }


def _fit_scalings(
    differences: Mapping[ExampleSource, Sequence[tuple[float, int]]],
) -> dict[ExampleSource, PlattScaling]:
    """A scaling for each source of examples; one that the rows say too little about has the other's."""
    scalings: dict[ExampleSource, PlattScaling] = {}
    for source, pairs in differences.items():
        if {label for _, label in pairs} == {0, 1}:
            values, labels = np.asarray(pairs).T
            scalings[source] = fit_platt(sigmoid(values), labels.astype(np.int64))
    if not scalings:
        raise TrainingError(
            "centroids need rules with posts of both labels, at least two of one of them, or rows that bring positive "
            "and negative examples",
            fix="give more rows of each rule, of both labels",
        )
    fitted = next(iter(scalings.values()))
    return {source: scalings.get(source, fitted) for source in differences}
