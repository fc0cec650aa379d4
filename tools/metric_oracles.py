"""Metrics beside scikit-learn's and scipy's on random cases: ties, one class only, a single row, extreme probabilities,
and weights (whole, fractional and zero). `bench/metric_oracles.py` and the tests run them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.stats import binomtest
from sklearn import metrics as sklearn_metrics

from lorica.metrics.base import Floats
from lorica.metrics.bootstrap import averaged_over, weighted_evaluator
from lorica.metrics.metric_table import METRICS
from lorica.metrics.operating_points import operating_points
from lorica.metrics.paired_tests import mcnemar

Draw = np.random.Generator
Oracle = Callable[[Any, Any, Any], float]


def independent_ece(gold: Floats, probability: Floats, weights: Floats) -> float:
    """The definition of Guo et al., row by row."""
    total = float(weights.sum())
    error = 0.0
    for index in range(10):
        members = [row for row in range(len(gold)) if min(int(probability[row] * 10), 9) == index and weights[row] > 0]
        mass = sum(weights[row] for row in members)
        if members:
            confidence = sum(weights[row] * probability[row] for row in members) / mass
            share = sum(weights[row] * gold[row] for row in members) / mass
            error += mass / total * abs(confidence - share)
    return error


def thresholded(oracle: Callable[..., float]) -> Oracle:
    """An oracle of labels, called with scores."""
    return lambda gold, scores, weights: oracle(gold, (scores >= 0.5).astype(int), sample_weight=weights)


# Each: an oracle, and whether it needs both classes or a row of class 1.
ORACLES: dict[str, tuple[Oracle, str]] = {
    "roc_auc": (lambda g, s, w: sklearn_metrics.roc_auc_score(g, s, sample_weight=w), "both"),
    "average_precision": (lambda g, s, w: sklearn_metrics.average_precision_score(g, s, sample_weight=w), "one"),
    "log_loss": (lambda g, s, w: sklearn_metrics.log_loss(g, s, sample_weight=w, labels=[0, 1]), ""),
    "brier": (lambda g, s, w: sklearn_metrics.brier_score_loss(g, s, sample_weight=w, labels=[0, 1]), ""),
    "ece": (independent_ece, ""),
    "accuracy": (thresholded(sklearn_metrics.accuracy_score), ""),
    "balanced_accuracy": (thresholded(sklearn_metrics.balanced_accuracy_score), ""),
    "f1": (thresholded(lambda g, p, **k: sklearn_metrics.f1_score(g, p, zero_division=math.nan, **k)), ""),
    "mcc": (thresholded(sklearn_metrics.matthews_corrcoef), ""),
}


def random_case(draw: Draw) -> tuple[Floats, Floats, Floats]:
    """Gold [n], probabilities [n] and weights [n]: some tied, some of one class, some of weight 0."""
    rows = int(draw.choice([1, 2, 3, 10, 40, 200]))
    gold = (draw.random(rows) < draw.choice([0.0, 0.05, 0.5, 1.0], p=[0.1, 0.3, 0.5, 0.1])).astype(np.float64)
    scores = draw.random(rows)
    coarseness = draw.choice([0, 1, 2, 10])
    if coarseness:
        scores = np.round(scores * coarseness) / coarseness
    weights = [np.ones(rows), draw.integers(0, 4, rows).astype(np.float64), draw.random(rows) * 5][draw.integers(0, 3)]
    if not weights.any():
        weights[0] = 1.0
    return gold, scores, weights


def measure(name: str, gold: Floats, scores: Floats, weights: Floats) -> float:
    """Lorica's value with row weights."""
    metric = METRICS[name]
    predictions = scores if metric.takes_scores else (scores >= 0.5).astype(np.int64)
    evaluator = weighted_evaluator(metric.prepare(gold.astype(np.int64), predictions), weights, len(gold))
    return float(evaluator(np.ones((1, len(gold))))[0])


def largest_difference(name: str, cases: int, seed: int = 0) -> float:
    """The largest difference from the oracle; where one is undefined the other has to be."""
    oracle, needs = ORACLES[name]
    draw = np.random.default_rng(seed)
    largest = 0.0
    for _ in range(cases):
        gold, scores, weights = random_case(draw)
        value = measure(name, gold, scores, weights)
        drawn_classes = set(gold[weights > 0].tolist())
        if (needs == "both" and len(drawn_classes) < 2) or (needs == "one" and 1.0 not in drawn_classes):
            assert math.isnan(value), (name, value)
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of classes that only the weights remove
            expected = float(oracle(gold, scores, weights))
        assert math.isnan(expected) == math.isnan(value), (name, expected, value)
        largest = max(largest, 0.0 if math.isnan(value) else abs(value - expected))
    return largest


def largest_average_difference(cases: int, seed: int = 1) -> float:
    """Of column-averaged ROC-AUC from scikit-learn's, rule by rule."""
    draw = np.random.default_rng(seed)
    largest = 0.0
    for _ in range(cases):
        gold, scores, weights = random_case(draw)
        rules = draw.integers(0, 4, len(gold))
        metric = averaged_over(METRICS["roc_auc"], rules)
        evaluator = weighted_evaluator(metric.prepare(gold.astype(np.int64), scores), weights, len(gold))
        value = float(evaluator(np.ones((1, len(gold))))[0])
        values = []
        for rule in set(rules.tolist()):
            members = (rules == rule) & (weights > 0)
            if len(set(gold[members].tolist())) == 2:
                values.append(
                    sklearn_metrics.roc_auc_score(gold[members], scores[members], sample_weight=weights[members])
                )
        assert bool(values) != math.isnan(value)
        largest = max(largest, abs(value - float(np.mean(values))) if values else 0.0)
    return largest


def largest_threshold_difference(cases: int, seed: int = 2) -> float:
    """Of the rates at a threshold from the best point of scikit-learn's curve that keeps to the false-positive rate."""
    draw = np.random.default_rng(seed)
    largest = 0.0
    for _ in range(cases):
        gold, scores, weights = random_case(draw)
        if len(set(gold[weights > 0].tolist())) < 2:
            continue
        rates = (0.01, 0.05, 0.1, 0.29)
        points = operating_points(gold.astype(np.int64), scores, rates, weights)
        fpr, tpr, _ = sklearn_metrics.roc_curve(gold, scores, sample_weight=weights, drop_intermediate=False)
        for point in points:
            at_most = fpr <= point.max_fpr + 1e-12
            largest = max(largest, abs(point.tpr - float(tpr[at_most].max())))
            reached = scores >= point.threshold
            alarms = weights[reached & (gold == 0)].sum() / weights[gold == 0].sum()
            largest = max(largest, abs(point.fpr - float(alarms)))
    return largest


def mcnemar_difference(cases: int) -> float:
    """From scipy's exact binomial test of the rows that only one answered right."""
    draw = np.random.default_rng(3)
    largest = 0.0
    for _ in range(cases):
        first, second = (draw.random(draw_rows) < 0.7 for draw_rows in [int(draw.integers(1, 400))] * 2)
        result = mcnemar(first.tolist(), second.tolist())
        discordant = result.only_first + result.only_second
        expected = binomtest(result.only_first, discordant).pvalue if discordant else 1.0
        largest = max(largest, abs(result.p_value - expected))
    return largest
