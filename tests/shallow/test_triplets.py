"""The projection trained on triplets: what is drawn, that it learns, and that it is the same each time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lorica.config.shallow_section import CentroidsConfig
from lorica.errors import TrainingError
from lorica.shallow.fit_centroids import LabelledPost
from lorica.shallow.triplets import TripletSampler, train_projection
from lorica.training.listeners import SilentListener
from lorica.training.types import TrainingStopped

SETTINGS = CentroidsConfig(triplet_batch_size=8, triplet_learning_rate=1e-2)


def _posts(count: int, rule: str = "r", start: int = 0) -> list[LabelledPost]:
    return [LabelledPost(rule, f"{rule} {number}", number % 2) for number in range(start, start + count)]


def _embeddings(posts: list[LabelledPost]) -> dict[str, np.ndarray]:
    """One small dimension tells the label, the others are noise."""
    random = np.random.default_rng(0)
    embeddings = {}
    for post in posts:
        vector = random.normal(size=8)
        vector[0] = 0.8 * (1 if post.label else -1)
        embeddings[post.text] = vector / np.linalg.norm(vector)
    return embeddings


def test_triplets_share_the_rule_and_never_hold_a_post_twice() -> None:
    posts = [*_posts(7), *_posts(5, "s")]
    sampler, random = TripletSampler(posts), np.random.default_rng(1)
    drawn = set()
    for _ in range(100):
        for anchor, nearer, farther in zip(posts, *sampler.draw(posts, random), strict=True):
            assert posts[nearer] != anchor
            assert (posts[nearer].rule, posts[nearer].label) == (anchor.rule, anchor.label)
            assert (posts[farther].rule, posts[farther].label) == (anchor.rule, 1 - anchor.label)
            drawn.add((anchor.text, posts[nearer].text))
    expected = {(a.text, b.text) for a in posts for b in posts if a != b and (a.rule, a.label) == (b.rule, b.label)}
    assert drawn == expected
    outsider = LabelledPost("r", "new", 1)
    assert sampler.can_draw(outsider)
    assert not sampler.can_draw(LabelledPost("unknown", "new", 1))
    assert not TripletSampler([outsider, LabelledPost("r", "old", 0)]).can_draw(outsider)


def test_training_brings_held_out_posts_nearer_to_their_kind() -> None:
    posts, held_out = _posts(60), _posts(40, start=60)
    embeddings = _embeddings([*posts, *held_out])
    projection = train_projection(posts, held_out, embeddings, SETTINGS, 42, "rules", SilentListener())
    again = train_projection(posts, held_out, embeddings, SETTINGS, 42, "rules", SilentListener())
    assert np.array_equal(projection.matrix, again.matrix)
    assert projection.step > 0
    assert projection.steps == 20 * 8

    def gap(matrix: np.ndarray) -> float:
        vectors = np.stack([embeddings[post.text] for post in held_out]) @ matrix
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        labels = np.asarray([post.label for post in held_out])
        alike = labels[:, None] == labels
        cosines = vectors @ vectors.T
        return float(cosines[alike].mean() - cosines[~alike].mean())

    assert gap(projection.matrix) > gap(np.eye(8)) + 0.2


def test_a_projection_that_does_not_help_held_out_posts_is_not_taken() -> None:
    posts, held_out = _posts(20), _posts(20, start=20)
    embeddings = _embeddings([*posts, *[replace(post, label=1 - post.label) for post in held_out]])
    projection = train_projection(posts, held_out, embeddings, SETTINGS, 42, "rules", SilentListener())
    assert projection.step == 0
    assert np.array_equal(projection.matrix, np.eye(8))


def test_without_a_triplet_training_is_refused() -> None:
    posts = [LabelledPost("a", "x", 1), LabelledPost("b", "y", 0)]
    with pytest.raises(TrainingError, match="no triplet"):
        train_projection(posts, [], _embeddings(posts), SETTINGS, 42, "rules", SilentListener())


def test_a_listener_may_end_it_after_a_pass() -> None:
    class Impatient(SilentListener):
        losses = 0

        def evaluated(self, step: int, validation_loss: float, is_best: bool) -> None:
            self.losses += 1

        def stop_reason(self) -> str:
            return "enough" if self.losses == 3 else ""

    posts, held_out, listener = _posts(20), _posts(10, start=20), Impatient()
    with pytest.raises(TrainingStopped, match="enough"):
        train_projection(posts, held_out, _embeddings([*posts, *held_out]), SETTINGS, 42, "rules", listener)
    assert listener.losses == 3
