"""How often a model has learned from its training rows, for the ledger."""

from __future__ import annotations

import math

from lorica.adapters.registry import SHALLOW_WEIGHTS
from lorica.config.schema import Config
from lorica.training.batches import updates_per_epoch
from lorica.training.types import TrainResult


def passes_made(config: Config, result: TrainResult, row_count: int) -> int:
    """Passes over the training rows, at most, behind the saved weights; a run that stopped early made fewer than it was
    to make."""
    settings, centroids = config.training, config.centroids
    if result.weights == SHALLOW_WEIGHTS:  # fitted on all rows at once, after the passes of triplets
        triplet_epochs = centroids.triplet_epochs if centroids.triplet and config.engine.name == "centroids" else 0
        return 1 + math.ceil(triplet_epochs * result.best_step / max(1, result.steps))
    accumulation = settings.gradient_accumulation_steps
    updates = updates_per_epoch(row_count, batch_size=settings.batch_size, accumulation=accumulation)
    return math.ceil(result.best_step / updates)
