"""Metrics against scikit-learn and scipy on random cases, their speed, and how often paired intervals cover the truth.

    python bench/metric_oracles.py [--cases 1000] [--simulations 2000]

Cases hold ties, one class only, a single row, extreme probabilities and weights (whole, fractional and zero).
The last line is `key=value`: the largest difference of all metrics; seconds (medians of five) of ROC-AUC on 1,000,000
scores with its ratio to scikit-learn's, and of an estimate of ROC-AUC with 2,000 bootstrap samples of 2,000 rows; the
share of simulations whose paired 95% interval held the true difference, of ROC-AUC and of accuracy; and the largest
difference of McNemar's p from scipy's binomial test.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from sklearn import metrics as sklearn_metrics

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

from tools.metric_oracles import (  # noqa: E402
    ORACLES,
    Draw,
    largest_average_difference,
    largest_difference,
    largest_threshold_difference,
    mcnemar_difference,
)

from lorica.metrics.bootstrap import estimate, paired_difference  # noqa: E402
from lorica.metrics.metric_table import METRICS  # noqa: E402


def covered(name: str, simulations: int, rows: int = 300) -> float:
    """The share of simulations whose paired interval holds the true difference of two correlated systems."""
    draw = np.random.default_rng(7)
    large_gold, large_first, large_second = paired_systems(draw, 2_000_000)
    truth = METRICS[name](large_gold, large_first) - METRICS[name](large_gold, large_second)
    hits = 0
    for simulation in range(simulations):
        gold, first, second = paired_systems(draw, rows)
        interval = paired_difference(METRICS[name], gold, first, second, resamples=1000, seed=simulation)
        hits += interval.low <= truth <= interval.high
    return hits / simulations


def paired_systems(draw: Draw, rows: int) -> tuple[Any, Any, Any]:
    """Gold [n] and the scores or labels of two systems that find the same rows hard; the first parts them better."""
    gold = draw.integers(0, 2, rows)
    difficulty = draw.normal(size=rows)
    noise = draw.normal(scale=0.5, size=(2, rows))
    first, second = 1.3 * gold + difficulty + noise[0], gold + difficulty + noise[1]
    return gold, first, second


def labelled(name: str, simulations: int) -> float:
    """As `covered`, of labels: right where the score is on gold's side."""
    draw = np.random.default_rng(8)

    def labels(rows: int) -> tuple[Any, Any, Any]:
        gold, first, second = paired_systems(draw, rows)
        return gold, (first >= 0.5).astype(int), (second >= 0.5).astype(int)

    large = labels(2_000_000)
    truth = float((large[0] == large[1]).mean() - (large[0] == large[2]).mean())
    hits = 0
    for simulation in range(simulations):
        interval = paired_difference(METRICS[name], *labels(300), resamples=1000, seed=simulation)
        hits += interval.low <= truth <= interval.high
    return hits / simulations


def seconds(call: Callable[[], object], rounds: int = 5) -> float:
    """The median of `rounds`."""
    taken = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def main() -> None:
    """Run all, print each figure as it comes."""
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("--cases", type=int, default=1000)
    command.add_argument("--simulations", type=int, default=2000)
    options = command.parse_args()
    differences = {name: largest_difference(name, options.cases) for name in ORACLES}
    differences["column-averaged roc_auc"] = largest_average_difference(options.cases)
    differences["tpr and fpr at thresholds"] = largest_threshold_difference(options.cases)
    for name, difference in differences.items():
        print(f"{name}: largest difference {difference:.1e} over {options.cases} cases")
    draw = np.random.default_rng(0)
    gold, scores = draw.integers(0, 2, 1_000_000), draw.random(1_000_000)
    ours, theirs = [], []
    for _ in range(5):
        ours.append(seconds(lambda: METRICS["roc_auc"](gold, scores), 1))
        theirs.append(seconds(lambda: sklearn_metrics.roc_auc_score(gold, scores), 1))
    ratio = statistics.median(mine / other for mine, other in zip(ours, theirs, strict=True))
    bootstrap = seconds(lambda: estimate(METRICS["roc_auc"], gold[:2000], scores[:2000], resamples=2000))
    coverage = covered("roc_auc", options.simulations), labelled("accuracy", options.simulations)
    print(
        f"max_difference={max(differences.values()):.1e} auc_1m_s={statistics.median(ours):.3f} "
        f"auc_ratio_to_sklearn={ratio:.2f} bootstrap_2000x2000_s={bootstrap:.3f} coverage_auc={coverage[0]:.4f} "
        f"coverage_accuracy={coverage[1]:.4f} mcnemar_difference={mcnemar_difference(options.cases):.1e}"
    )


if __name__ == "__main__":
    main()
