"""Paired tests against scipy's and against simulations whose truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binomtest

from lorica.metrics.base import Column, Metric
from lorica.metrics.bootstrap import RESAMPLES, metric_resamples
from lorica.metrics.metric_table import METRICS
from lorica.metrics.paired_tests import PairedTest, holm, mcnemar, paired_test

AUC, ACCURACY = METRICS["roc_auc"], METRICS["accuracy"]


def _paired(
    metric: Metric, gold: Column, first: Column, second: Column, *, resamples: int = RESAMPLES, seed: int = 0
) -> PairedTest:
    drawn = metric_resamples(metric, gold, first, second, resamples=resamples, seed=seed)
    return paired_test(metric, drawn[0].minus(drawn[1]), len(gold), None)


@pytest.mark.parametrize(("only_first", "only_second"), [(0, 0), (1, 0), (3, 9), (20, 20), (400, 460), (5000, 5200)])
def test_mcnemar_is_the_exact_binomial_test(only_first: int, only_second: int) -> None:
    first = [True] * 7 + [True] * only_first + [False] * only_second
    second = [True] * 7 + [False] * only_first + [True] * only_second
    result = mcnemar(first, second)
    assert (result.only_first, result.only_second) == (only_first, only_second)
    discordant = only_first + only_second
    expected = binomtest(only_first, discordant, 0.5).pvalue if discordant else 1.0
    assert result.p_value == pytest.approx(expected, rel=1e-9)


def test_holm_corrects_step_by_step() -> None:
    # Holm 1979: 3 x 0.01, 2 x 0.02, 1 x 0.04, none below the one before.
    assert holm([0.04, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    corrected = holm([math.nan, 0.03])
    assert math.isnan(corrected[0])
    assert corrected[1] == 0.03


def test_paired_intervals_cover_the_truth_and_false_alarms_keep_to_their_rate() -> None:
    covered = alarms = 0
    for seed in range(300):
        random = np.random.default_rng(seed)
        gold = np.ones(200, int)
        first, second = (random.random(200) < 0.7).astype(int), (random.random(200) < 0.7).astype(int)
        test = _paired(ACCURACY, gold, first, second, resamples=400, seed=seed)
        covered += test.difference.low <= 0 <= test.difference.high
        alarms += test.p_value < 0.05
    # 300 trials of 95%: outside 273 to 296 with probability below 1%.
    assert 273 <= covered <= 297
    assert alarms <= 27


def test_a_difference_of_the_detectable_size_is_shown_four_times_in_five() -> None:
    # Independent answers, 60% right: the standard error of the difference is sqrt(2 x 0.24 / 300) = 0.04.
    shown, stated = 0, []
    for seed in range(200):
        random = np.random.default_rng(seed)
        first, second = (random.random(300) < 0.6 + 0.056).astype(int), (random.random(300) < 0.6 - 0.056).astype(int)
        test = _paired(ACCURACY, np.ones(300, int), first, second, resamples=400, seed=seed)
        shown += test.p_value < 0.05
        stated.append(test.detectable)
    assert np.mean(stated) == pytest.approx(2.802 * 0.04, rel=0.03)
    assert 143 <= shown <= 176  # 80% of 200, give or take two and a half standard errors


def test_paired_finds_what_two_single_intervals_hide() -> None:
    random = np.random.default_rng(4)
    gold = random.integers(0, 2, 600)
    first = random.normal(size=600) + gold
    second = first + 0.25 * gold + random.normal(scale=0.05, size=600)
    test = _paired(AUC, gold, first, second)
    assert test.difference.high < 0
    assert test.p_value < 0.01
    assert AUC(gold, second) - AUC(gold, first) < 0.06


def test_equal_answers_differ_in_nothing() -> None:
    gold = [0, 1, 0, 1]
    test = _paired(ACCURACY, gold, [0, 1, 1, 1], [0, 1, 1, 1], resamples=50)
    assert (test.difference.value, test.p_value) == (0.0, 1.0)
    assert math.isnan(test.detectable)
