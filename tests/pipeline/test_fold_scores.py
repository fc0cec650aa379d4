"""The table of folds: what pooling scores of different scales costs, and that calibration gives it back."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from lorica.calibration.calibration_maps import sigmoid
from lorica.calibration.fitting import fit_platt
from lorica.data.read import rows_from_memory
from lorica.pipeline.fold_scores import FoldTable, measure_folds
from lorica.pipeline.judged_answers import JudgedAnswer
from lorica.records import Answer
from lorica.tasks import load_task

ROWS, FOLDS = 1_000, 5


def _scores(seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Labels, folds and scores of rows, whose folds are shifted and stretched."""
    random = np.random.default_rng(seed)
    labels, folds = random.integers(0, 2, ROWS), np.arange(ROWS) % FOLDS + 1
    shift, slope = np.linspace(-3, 3, FOLDS)[folds - 1], np.linspace(0.5, 2, FOLDS)[folds - 1]
    return labels, folds, sigmoid(slope * (3 * labels + random.normal(size=ROWS)) + shift)


def _measure(labels: NDArray[np.int64], folds: NDArray[np.int64], scores: NDArray[np.float64]) -> FoldTable:
    task = load_task("rules")
    records = [
        {"row_id": str(index), "body": f"post {index}", "rule": "No advertising.", "rule_violation": int(label)}
        for index, label in enumerate(labels)
    ]
    judged = [
        JudgedAnswer(row, Answer(row.id, score=float(score)), int(score >= 0.5))
        for row, score in zip(rows_from_memory(records, task.schemas), scores, strict=True)
    ]
    return measure_folds(task, judged, folds.tolist())


def test_shifted_folds_cost_their_pooled_metric_and_calibration_gives_it_back() -> None:
    labels, folds, scores = _scores(0)
    shifted = _measure(labels, folds, scores)
    by_fold = [roc_auc_score(labels[folds == fold], scores[folds == fold]) for fold in range(1, FOLDS + 1)]
    assert shifted.mean["roc_auc"] == pytest.approx(np.mean(by_fold))
    assert shifted.pooled["roc_auc"].value == pytest.approx(roc_auc_score(labels, scores))
    assert shifted.pooling_cost is not None
    assert shifted.pooling_cost.low > 0.05
    assert shifted.pooled["roc_auc"].value + shifted.pooling_cost.value == pytest.approx(np.mean(by_fold), abs=0.01)

    other_labels, other_folds, other_scores = _scores(1)  # of the same five models, on other rows
    calibrated = scores.copy()
    for fold in range(1, FOLDS + 1):
        fit = fit_platt(other_scores[other_folds == fold], other_labels[other_folds == fold])
        calibrated[folds == fold] = fit.predict(scores[folds == fold])
    restored = _measure(labels, folds, calibrated)
    assert restored.pooled["roc_auc"].value == pytest.approx(np.mean(by_fold), abs=0.005)
    assert restored.pooling_cost is not None
    assert restored.pooling_cost.value < shifted.pooling_cost.value / 20
    assert restored.mean["roc_auc"] == pytest.approx(shifted.mean["roc_auc"]), "within a fold ranks stay"


def test_alike_folds_cost_nothing() -> None:
    random = np.random.default_rng(2)
    labels, folds = random.integers(0, 2, ROWS), np.arange(ROWS) % FOLDS + 1
    table = _measure(labels, folds, sigmoid(labels + random.normal(size=ROWS)))
    assert table.pooling_cost is not None
    assert table.pooling_cost.low <= 0 <= table.pooling_cost.high or abs(table.pooling_cost.value) < 0.003
