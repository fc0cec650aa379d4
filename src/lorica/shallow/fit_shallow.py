"""From rows with gold to a fitted model, and what its answers are worth in nats per row."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lorica.calibration.calibration_maps import PROBABILITY_FLOOR
from lorica.config.shallow_section import CentroidsConfig, TfidfConfig
from lorica.retrieval.dense_encoder import DenseEncoder
from lorica.shallow.centroids import project
from lorica.shallow.fit_centroids import all_texts, fit_centroids, labelled_posts
from lorica.shallow.row_texts import LabelledRow
from lorica.shallow.shallow_model import ShallowModel
from lorica.shallow.shallow_tfidf import fit_tfidf
from lorica.training.types import Listener


@dataclass(frozen=True)
class FittedModel:
    """A model, the update that it is of, and how many were made."""

    model: ShallowModel
    step: int
    steps: int


@dataclass(frozen=True)
class RowLosses:
    """Nats per row. model: of its answers. constant: of the share of each answer among the training rows, given to
    every row; of options, of their number. unanswered: rows that the model has no answer for, which are left out."""

    model: float
    constant: float
    unanswered: int


def fit_tfidf_model(
    rows: Sequence[LabelledRow],
    answer_type: Literal["score", "option"],
    settings: TfidfConfig,
    name: str,
    listener: Listener,
) -> FittedModel:
    """TF-IDF with logistic regression on the training rows. Raises what `fit_tfidf` raises."""
    listener.started(name, 0, 1)
    model = fit_tfidf(rows, answer_type, settings)
    return FittedModel(model, 1, 1)


def fit_centroids_model(
    rows: Sequence[LabelledRow],
    held_out: Sequence[LabelledRow],
    encoder: DenseEncoder,
    settings: CentroidsConfig,
    seed: int,
    name: str,
    listener: Listener,
) -> FittedModel:
    """Centroids of the training rows; with `centroids.triplet` of projected embeddings. Raises TrainingError where the
    rows allow no fit."""
    texts = all_texts([*rows, *held_out])
    embeddings = dict(zip(texts, encoder.encode(texts).astype(np.float64), strict=True))
    if not settings.triplet:
        listener.started(name, 0, 1)
        return FittedModel(fit_centroids(rows, rows, encoder, embeddings), 1, 1)
    from lorica.shallow.triplets import train_projection

    posts = labelled_posts(rows)
    trained = train_projection(posts, labelled_posts(held_out), embeddings, settings, seed, name, listener)
    projected = {text: project(embedding, trained.matrix) for text, embedding in embeddings.items()}
    # The training rows are nearer to their own kind than others will be: the scale is taken where nothing was learned.
    scaling_rows = held_out if {row.label for row in held_out} == {0, 1} else rows
    model = fit_centroids(rows, scaling_rows, encoder, projected, trained.matrix)
    return FittedModel(model, trained.step, trained.steps)


def measure_losses(model: ShallowModel, rows: Sequence[LabelledRow], training_rows: Sequence[LabelledRow]) -> RowLosses:
    """The losses of a model on rows with gold."""
    answers = model.answer([row.texts for row in rows])
    counts = Counter(row.label for row in training_rows)
    model_losses, constant_losses = [], []
    for row, answer in zip(rows, answers, strict=True):
        if isinstance(answer, str):
            continue
        options = len(row.texts.options)
        # The first choice is label 1.
        probability = answer[row.label if options else 1 - row.label]
        share = 1 / options if options else counts[row.label] / counts.total()
        model_losses.append(-math.log(max(probability, PROBABILITY_FLOOR)))
        constant_losses.append(-math.log(max(share, PROBABILITY_FLOOR)))
    answered = max(len(model_losses), 1)
    return RowLosses(sum(model_losses) / answered, sum(constant_losses) / answered, len(rows) - len(model_losses))
