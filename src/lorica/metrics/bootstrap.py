"""Confidence intervals by the percentile bootstrap: the metric on rows drawn again and again with
replacement."""

from __future__ import annotations

import math
from collections.abc import Iterator

import msgspec
import numpy as np
from numpy.typing import NDArray

from lorica.metrics.base import Column, Floats, Metric

RESAMPLES = 2_000
CONFIDENCE = 0.95

# Row weights held at once: 16 MB of float64, small enough for the cache to help.
_CELLS = 2_000_000


class Estimate(msgspec.Struct, frozen=True):
    """A value with its interval (low, high) over n rows; nan where undefined, and `note` says why."""

    value: float
    low: float
    high: float
    n: int
    note: str = ""

    def __str__(self) -> str:
        if math.isnan(self.value):
            return f"undefined ({self.note})" if self.note else "undefined"
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def estimate(
    metric: Metric,
    gold: Column,
    prediction: Column,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    confidence: float = CONFIDENCE,
    groups: Column | None = None,
    stratified: bool = False,
) -> Estimate:
    """The metric with its percentile interval. Equal input and seed give an equal result.

    gold, prediction: [n]. groups: [n] names; whole groups are drawn, for rows that are not independent (one
    user, one question). stratified: each gold value keeps its number of rows. ValueError for both at once and
    for bad input.
    """
    evaluator = metric.prepare(gold, prediction)
    value = float(evaluator(np.ones((1, len(gold))))[0])
    if math.isnan(value):
        return Estimate(value, math.nan, math.nan, len(gold), f"{metric.name} needs {metric.needs}")
    values = [evaluator(counts) for counts in _draws(gold, resamples, seed, groups, stratified)]
    return _interval(value, np.concatenate(values), len(gold), confidence)


def paired_difference(
    metric: Metric,
    gold: Column,
    a: Column,
    b: Column,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    confidence: float = CONFIDENCE,
    groups: Column | None = None,
    stratified: bool = False,
) -> Estimate:
    """metric(gold, a) - metric(gold, b) with its interval, both on the same drawn rows; see `estimate`.

    An interval that excludes 0 means that the two differ by more than the choice of rows explains.
    """
    first, second = metric.prepare(gold, a), metric.prepare(gold, b)
    once = np.ones((1, len(gold)))
    value = float((first(once) - second(once))[0])
    if math.isnan(value):
        return Estimate(value, math.nan, math.nan, len(gold), f"{metric.name} needs {metric.needs}")
    draws = _draws(gold, resamples, seed, groups, stratified)
    values = [first(counts) - second(counts) for counts in draws]
    return _interval(value, np.concatenate(values), len(gold), confidence)


def by_group(
    metric: Metric,
    gold: Column,
    prediction: Column,
    groups: Column,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    confidence: float = CONFIDENCE,
) -> dict[str, Estimate]:
    """The estimate within each group, by name in sorted order; groups: [n]."""
    members: dict[str, list[int]] = {}
    for row, name in enumerate(groups):
        members.setdefault(str(name), []).append(row)
    if len(gold) != len(groups):
        raise ValueError(f"{len(gold)} gold values and {len(groups)} group names; there must be as many of both")
    return {
        name: estimate(
            metric,
            [gold[row] for row in rows],
            [prediction[row] for row in rows],
            resamples=resamples,
            seed=seed,
            confidence=confidence,
        )
        for name, rows in sorted(members.items())
    }


def _interval(value: float, values: Floats, n: int, confidence: float) -> Estimate:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence {confidence}; allowed: between 0 and 1")
    defined = values[~np.isnan(values)]
    if not len(defined):
        return Estimate(value, math.nan, math.nan, n, "no resample had a value")
    low, high = np.quantile(defined, [(1 - confidence) / 2, (1 + confidence) / 2])
    notes = []
    if len(defined) < len(values):
        notes.append(f"{len(values) - len(defined)} of {len(values)} resamples had no value")
    if low == high:
        notes.append("all resamples agree: the interval says nothing about rows not seen")
    return Estimate(value, float(low), float(high), n, "; ".join(notes))


def _draws(gold: Column, resamples: int, seed: int, groups: Column | None, stratified: bool) -> Iterator[Floats]:
    """Blocks [b, n] of how often each row was drawn; `resamples` rows of them in all."""
    if resamples < 1:
        raise ValueError(f"resamples {resamples}; allowed: 1 or more")
    if groups is not None and stratified:
        raise ValueError("groups and stratified cannot both be used: a group may hold several gold values")
    n = len(gold)
    random = np.random.default_rng(seed)
    block = max(1, min(resamples, _CELLS // max(n, 1)))
    codes = None if groups is None else _codes(groups, n)
    strata = [np.arange(n)]
    if stratified:
        labels = _codes(gold, n)
        strata = [np.flatnonzero(labels == label) for label in range(int(labels.max(initial=-1)) + 1)]
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        if codes is not None:
            yield _counts(random, size, int(codes.max(initial=-1)) + 1)[:, codes]
            continue
        counts = np.empty((size, n))
        for rows in strata:
            counts[:, rows] = _counts(random, size, len(rows))
        yield counts


def _counts(random: np.random.Generator, size: int, n: int) -> Floats:
    """[size, n]: how often each of n things comes up in n draws."""
    drawn = random.integers(0, n, size=(size, n)) + np.arange(size)[:, None] * n
    counts: Floats = np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n).astype(np.float64)
    return counts


def _codes(names: Column, n: int) -> NDArray[np.intp]:
    """Names [n] -> numbers from 0 [n]."""
    if len(names) != n:
        raise ValueError(f"{n} rows and {len(names)} group names; there must be as many of both")
    numbers: dict[object, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in names], dtype=np.intp)
