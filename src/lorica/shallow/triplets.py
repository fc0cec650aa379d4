"""A projection of embeddings, trained on triplets: a post shall be nearer to one of its rule and label than to one of
its rule and the other label (Schroff et al. 2015, arXiv:1503.03832, on cosines)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lorica.adapters.shallow_folder import Doubles
from lorica.config.shallow_section import CentroidsConfig
from lorica.errors import TrainingError
from lorica.shallow.fit_centroids import LabelledPost
from lorica.training.schedule import rate_factor
from lorica.training.types import Listener, StepReport, TrainingStopped


@dataclass(frozen=True)
class Projection:
    """matrix: [dimension, dimension]. step: the update that it is of, of `steps` that were made."""

    matrix: Doubles
    step: int
    steps: int


class TripletSampler:
    """Draws, for posts, one of their rule and label and one of their rule and the other label among `posts`."""

    def __init__(self, posts: Sequence[LabelledPost]) -> None:
        self._alike: dict[tuple[str, int], list[int]] = {}  # rule and label -> indices of posts
        self._positions: dict[LabelledPost, int] = {}  # of a post in the list of its rule and label
        for index, post in enumerate(posts):
            indices = self._alike.setdefault((post.rule, post.label), [])
            self._positions[post] = len(indices)
            indices.append(index)

    def draw(self, anchors: Sequence[LabelledPost], random: np.random.Generator) -> tuple[list[int], list[int]]:
        """Indices of the nearer and of the farther post, one of each for an anchor."""
        nearer = [self._draw_alike(anchor, random) for anchor in anchors]
        return nearer, [self._draw_other(anchor, random) for anchor in anchors]

    def can_draw(self, anchor: LabelledPost) -> bool:
        """Whether both are there."""
        others = self._alike.get((anchor.rule, 1 - anchor.label), [])
        return len(self._alike.get((anchor.rule, anchor.label), [])) > (anchor in self._positions) and bool(others)

    def _draw_alike(self, anchor: LabelledPost, random: np.random.Generator) -> int:
        indices, own_position = self._alike[anchor.rule, anchor.label], self._positions.get(anchor)
        if own_position is None:
            return indices[int(random.integers(len(indices)))]
        position = int(random.integers(len(indices) - 1))
        return indices[position + (position >= own_position)]

    def _draw_other(self, anchor: LabelledPost, random: np.random.Generator) -> int:
        indices = self._alike[anchor.rule, 1 - anchor.label]
        return indices[int(random.integers(len(indices)))]


def train_projection(
    posts: Sequence[LabelledPost],
    held_out: Sequence[LabelledPost],
    embeddings: Mapping[str, Doubles],
    settings: CentroidsConfig,
    seed: int,
    name: str,
    listener: Listener,
) -> Projection:
    """Train on `posts`. The projection starts as the identity, which changes nothing; with held-out posts the one with
    the lowest loss on triplets of theirs is taken, that of update 0 too, else the last.

    embeddings: text -> [dimension], as the encoder gives them. name: of the model, for the listener. Raises
    TrainingError where no triplet can be made, TrainingStopped where the listener wants an end after a pass.
    """
    sampler = TripletSampler(posts)
    anchors = [post for post in posts if sampler.can_draw(post)]
    if not anchors:
        raise TrainingError(
            "no triplet can be made: no rule has two posts of one label and one of the other",
            fix="give more rows of each rule, or set centroids.triplet=false",
        )
    vectors = _stack(posts, embeddings)
    judged = [post for post in held_out if sampler.can_draw(post)]
    judged_vectors = _stack(judged, embeddings) if judged else None
    judged_pairs = sampler.draw(judged, np.random.default_rng(seed))
    matrix = torch.eye(vectors.shape[1], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.AdamW([matrix], lr=settings.triplet_learning_rate, weight_decay=0.0)
    total = settings.triplet_epochs * -(-len(anchors) // settings.triplet_batch_size)
    listener.started(name, 0, total)
    best, best_step, best_loss, step = matrix.detach().clone(), 0, math.inf, 0
    for epoch in range(settings.triplet_epochs + 1):
        if judged_vectors is not None:
            loss = float(_loss(matrix.detach(), judged_vectors, vectors, judged_pairs, settings.margin))
            listener.evaluated(step, loss, loss < best_loss)
            if loss < best_loss:
                best, best_step, best_loss = matrix.detach().clone(), step, loss
        if epoch == settings.triplet_epochs:
            break
        if step and (stop_reason := listener.stop_reason()):
            raise TrainingStopped(stop_reason)
        random = np.random.default_rng((seed, epoch))
        order = random.permutation(len(anchors)).tolist()
        for start in range(0, len(order), settings.triplet_batch_size):
            batch = [anchors[index] for index in order[start : start + settings.triplet_batch_size]]
            rate = settings.triplet_learning_rate * rate_factor(step, total, warmup=0, scheduler="cosine")
            batch_loss = _loss(matrix, _stack(batch, embeddings), vectors, sampler.draw(batch, random), settings.margin)
            step += 1
            listener.stepped(_update(optimizer, matrix, batch_loss, StepReport(step, total, 0.0, rate, 0.0, 0.0)))
    if judged_vectors is None:
        best, best_step = matrix.detach(), step
    return Projection(best.numpy(), best_step, step)


def _update(optimizer: torch.optim.Optimizer, matrix: Tensor, loss: Tensor, report: StepReport) -> StepReport:
    """One update at the report's rate; the report with its loss and the norm of its gradient."""
    optimizer.param_groups[0]["lr"] = report.learning_rate
    (gradient,) = torch.autograd.grad(loss, matrix)
    matrix.grad = gradient
    optimizer.step()
    return replace(report, loss=float(loss.detach()), grad_norm=float(torch.linalg.vector_norm(gradient)))


def _stack(posts: Sequence[LabelledPost], embeddings: Mapping[str, Doubles]) -> Tensor:
    return torch.from_numpy(np.stack([embeddings[post.text] for post in posts]))


def _loss(
    matrix: Tensor, anchors: Tensor, vectors: Tensor, pairs: tuple[list[int], list[int]], margin: float
) -> Tensor:
    """Mean over anchors [b, dimension] of how much the margin is missed. vectors: [posts, dimension]."""
    projected, nearer, farther = (
        F.normalize(side @ matrix, dim=1) for side in (anchors, vectors[pairs[0]], vectors[pairs[1]])
    )
    return F.relu(margin - (projected * nearer).sum(dim=1) + (projected * farther).sum(dim=1)).mean()
