"""The accuracy-latency score of runs over the same rows: weights, intervals, ranks and the front.

    score = accuracy weight * accuracy + latency weight * (latency of the fastest run / latency)

Accuracy and latency are taken on the same drawn rows in every run (paired bootstrap). Rows say nothing of how much a
machine varies from run to run, since that shifts all rows of a run together: each resample multiplies the latency of
each run by a factor of its own, log-normal with the standard deviation `run_noise`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, combinations

import numpy as np
from numpy.typing import NDArray

from lorica.metrics.base import Column, Floats
from lorica.metrics.bootstrap import CONFIDENCE, Estimate, draw_weights
from lorica.metrics.paired_tests import SIGNIFICANCE, bootstrap_p_value, holm, resamples_for

ACCURACY_WEIGHT, LATENCY_WEIGHT = 0.6, 0.4
MINIMUM_ACCURACY = 0.10
RUN_NOISE = 0.05


@dataclass(frozen=True)
class ScoreRules:
    """weights: of accuracy and latency, with the sum 1. minimum_accuracy: below it a run scores 0, is not ranked, and
    sets no latency for others. run_noise: standard deviation of a run's latency between runs, as a share of it."""

    accuracy_weight: float = ACCURACY_WEIGHT
    latency_weight: float = LATENCY_WEIGHT
    minimum_accuracy: float = MINIMUM_ACCURACY
    run_noise: float = RUN_NOISE


@dataclass(frozen=True)
class RunColumns:
    """What was measured of one run, all [n] in the order of the rows. correct: 0 or 1. seconds: of the engine. units:
    what latency is divided by: 1 for each row, or its generated tokens."""

    correct: Floats
    seconds: Floats
    units: Floats


@dataclass(frozen=True)
class RunScore:
    """One run. latency: seconds for each unit. latency_score: the fastest run's latency / its own. rank: 1 + the number
    of runs that are better by more than chance; None of a run that was not compared. dominated_by: runs that are at
    least as accurate and as fast, and more of one; none of a run on the front."""

    name: str
    accuracy: Estimate
    latency: Estimate
    latency_score: Estimate
    score: Estimate
    rank: int | None
    dominated_by: tuple[str, ...]


@dataclass(frozen=True)
class ScorePair:
    """Two runs that were compared. difference: of their scores, first minus second. p_corrected: two-sided p-value of
    the paired bootstrap, corrected for the number of pairs (Holm). better: name of the better one, "" where chance
    explains it."""

    first: str
    second: str
    difference: Estimate
    p_corrected: float
    better: str


def score_runs(
    runs: Mapping[str, RunColumns],
    rules: ScoreRules,
    *,
    groups: Column | None = None,
    seed: int = 0,
    front_only: bool = False,
) -> tuple[tuple[RunScore, ...], tuple[ScorePair, ...]]:
    """Score runs, the best first, and compare every two that have the minimum accuracy. groups: [n] names; whole groups
    are drawn. front_only: compare those on the front alone, since each further pair makes every test less powerful.

    Raises ValueError for no run, no row, and a run without seconds.
    """
    names = list(runs)
    row_count = len(next(iter(runs.values())).correct) if runs else 0
    if not row_count:
        raise ValueError("there is nothing to score: at least one run with one row is needed")
    for name, columns in runs.items():
        if not columns.seconds.sum() > 0:
            raise ValueError(f"{name} has no seconds")
    all_rows = np.ones((1, row_count))
    points = [*zip(*(values[:, 0] for values in _figures(list(runs.values()), [all_rows])), strict=True)]
    dominated_by = [
        tuple(name for name, other_point in zip(names, points, strict=True) if dominates(other_point, point))
        for point in points
    ]
    is_accurate = np.array([accuracy >= rules.minimum_accuracy for accuracy, _ in points])
    is_compared = is_accurate & np.array([not (front_only and dominating) for dominating in dominated_by])
    drawn = draw_weights(row_count, resamples_for(math.comb(int(is_compared.sum()), 2)), seed, groups)
    accuracies, latencies = _figures(list(runs.values()), chain([all_rows], drawn))  # [runs, 1 + resamples]
    latencies = latencies * _machine_noise(latencies.shape, rules.run_noise, seed)
    fastest = latencies[is_accurate].min(axis=0) if is_accurate.any() else latencies.min(axis=0)
    latency_scores = np.minimum(1.0, fastest / latencies)
    scores = rules.accuracy_weight * accuracies + rules.latency_weight * latency_scores
    scores[~is_accurate] = 0.0
    pairs = _compare(names, scores, is_compared, row_count)
    beaten = [pair.second if pair.better == pair.first else pair.first for pair in pairs if pair.better]
    scored = [
        RunScore(
            name,
            _estimate(accuracies[index], row_count),
            _estimate(latencies[index], row_count),
            _estimate(latency_scores[index], row_count),
            _estimate(scores[index], row_count),
            1 + beaten.count(name) if is_compared[index] else None,
            dominated_by[index],
        )
        for index, name in enumerate(names)
    ]
    return tuple(sorted(scored, key=lambda run: (run.rank is None, -run.score.value, run.name))), pairs


def dominates(first: tuple[float, float], second: tuple[float, float]) -> bool:
    """Whether the first (accuracy, latency) is no worse in both than the second, and better in one."""
    return first != second and first[0] >= second[0] and first[1] <= second[1]


def on_front(scored: Iterable[RunScore]) -> tuple[RunScore, ...]:
    """The runs that no other one dominates, the fastest first."""
    front = [run for run in scored if not run.dominated_by]
    return tuple(sorted(front, key=lambda run: (run.latency.value, run.name)))


def _figures(columns: Sequence[RunColumns], blocks: Iterable[Floats]) -> tuple[Floats, Floats]:
    """Accuracy and latency of each run, a column for each weighting of the rows in `blocks`."""
    correct, seconds, units = (
        np.stack([getattr(run_columns, name) for run_columns in columns]) for name in ("correct", "seconds", "units")
    )
    accuracies, latencies = [], []
    for counts in blocks:
        accuracies.append(counts @ correct.T / counts.sum(axis=1, keepdims=True))
        with np.errstate(divide="ignore", invalid="ignore"):  # drawn rows may have generated nothing: nan is left out
            latencies.append((counts @ seconds.T) / (counts @ units.T))
    return np.concatenate(accuracies).T, np.concatenate(latencies).T


def _machine_noise(shape: tuple[int, ...], run_noise: float, seed: int) -> Floats:
    """A factor for each run and resample, 1 in the first column, that of all rows."""
    noise = np.exp(run_noise * np.random.default_rng(seed + 1).standard_normal(shape))
    noise[:, 0] = 1.0
    return noise


def _estimate(values: Floats, row_count: int) -> Estimate:
    resampled = values[1:][np.isfinite(values[1:])]
    if math.isnan(values[0]) or not len(resampled):
        return Estimate(float(values[0]), math.nan, math.nan, row_count, "no row has what it is divided by")
    low, high = np.quantile(resampled, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Estimate(float(values[0]), float(low), float(high), row_count)


def _compare(
    names: Sequence[str], scores: Floats, is_compared: NDArray[np.bool_], row_count: int
) -> tuple[ScorePair, ...]:
    indices = [
        (first, second) for first, second in combinations(range(len(names)), 2) if is_compared[[first, second]].all()
    ]
    differences = [scores[first] - scores[second] for first, second in indices]
    corrected = holm([bootstrap_p_value(difference[1:][np.isfinite(difference[1:])]) for difference in differences])
    return tuple(
        ScorePair(
            names[first],
            names[second],
            _estimate(difference, row_count),
            p_value,
            "" if not p_value < SIGNIFICANCE else names[first] if difference[0] > 0 else names[second],
        )
        for (first, second), difference, p_value in zip(indices, differences, corrected, strict=True)
    )
