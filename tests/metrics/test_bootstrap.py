from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from lorica.metrics.base import ratio, take_columns
from lorica.metrics.bootstrap import (
    Estimate,
    MetricInputs,
    draw_weights,
    estimate,
    estimate_all,
    metric_resamples,
    paired_difference,
)
from lorica.metrics.metric_table import METRICS
from lorica.metrics.score_metrics import sort_by_score

AUC, ACCURACY = METRICS["roc_auc"], METRICS["accuracy"]


def rows(n: int, seed: int = 0, shift: float = 1.0) -> tuple[Any, Any]:
    random = np.random.default_rng(seed)
    gold = random.integers(0, 2, n)
    return gold, random.normal(size=n) + shift * gold


def test_equal_to_a_plain_bootstrap_written_out() -> None:
    gold, score = rows(60)
    found = estimate(AUC, gold, score, resamples=300, seed=5)
    random = np.random.default_rng(5)
    drawn = random.integers(0, 60, size=(300, 60))
    values = [roc_auc_score(gold[each], score[each]) for each in drawn]
    low, high = np.quantile(values, [0.025, 0.975])
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-12)
    assert found.value == pytest.approx(roc_auc_score(gold, score), abs=1e-12)
    assert found.n == 60


def test_the_interval_of_a_proportion_is_the_binomial_one() -> None:
    gold = np.ones(1000, int)
    label = np.repeat([1, 0], [700, 300])
    found = estimate(ACCURACY, gold, label, resamples=4000)
    spread = 1.96 * math.sqrt(0.7 * 0.3 / 1000)
    assert found.value == 0.7
    assert (found.low, found.high) == pytest.approx((0.7 - spread, 0.7 + spread), abs=0.003)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    truth = 0.5 * (1 + math.erf(1 / 2))  # P(N(1, 1) > N(0, 1))
    covered = 0
    for seed in range(200):
        gold, score = rows(150, seed=seed)
        found = estimate(AUC, gold, score, resamples=400, seed=seed)
        covered += found.low <= truth <= found.high
    # 200 trials of 95%: outside 180 to 199 with probability below 1%.
    assert 180 <= covered <= 199


def test_equal_seed_equal_result_and_another_seed_differs() -> None:
    gold, score = rows(100)
    assert estimate(AUC, gold, score, resamples=200) == estimate(AUC, gold, score, resamples=200)
    assert estimate(AUC, gold, score, resamples=200) != estimate(AUC, gold, score, resamples=200, seed=1)


def test_blocks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    gold, score = rows(50)
    whole = estimate(AUC, gold, score, resamples=101)
    monkeypatch.setattr("lorica.metrics.bootstrap._CELLS", 50 * 7)
    assert estimate(AUC, gold, score, resamples=101) == whole


def test_the_paired_interval_is_narrower_than_two_single_ones() -> None:
    gold, score = rows(300)
    other = score + np.random.default_rng(9).normal(scale=0.3, size=300)
    found = paired_difference(AUC, gold, score, other, resamples=500)
    assert found.value == pytest.approx(AUC(gold, score) - AUC(gold, other), abs=1e-12)
    assert found.low < found.value < found.high
    single = estimate(AUC, gold, score, resamples=500)
    assert found.high - found.low < (single.high - single.low) / 2
    swapped = paired_difference(AUC, gold, other, score, resamples=500)
    assert (swapped.low, swapped.high) == pytest.approx((-found.high, -found.low), abs=1e-12)


def test_a_system_does_not_differ_from_itself() -> None:
    gold, score = rows(80)
    found = paired_difference(AUC, gold, score, score, resamples=100)
    assert (found.value, found.low, found.high) == (0, 0, 0)


def test_drawing_whole_groups_widens_the_interval_of_repeated_rows() -> None:
    gold, score = rows(60)
    repeated = np.repeat(np.arange(60), 10)
    alone = estimate(AUC, gold, score, resamples=800)
    naive = estimate(AUC, gold[repeated], score[repeated], resamples=800)
    grouped = estimate(AUC, gold[repeated], score[repeated], resamples=800, groups=[f"g{n}" for n in repeated])
    assert naive.high - naive.low < (alone.high - alone.low) / 2
    assert (grouped.low, grouped.high) == pytest.approx((alone.low, alone.high), abs=1e-12)


def test_resamples_without_a_class_are_told() -> None:
    gold = np.array([1] + [0] * 40)
    score = np.concatenate([[0.5], np.linspace(0, 1, 40)])
    assert "resamples had no value" in estimate(AUC, gold, score, resamples=300).note


def test_undefined_values_say_why() -> None:
    found = estimate(AUC, [1, 1], [0.1, 0.2])
    assert math.isnan(found.value)
    assert found.note == "roc_auc needs rows of both classes"
    assert str(found) == "undefined (roc_auc needs rows of both classes)"
    assert estimate(ACCURACY, [], []).note == "accuracy needs at least one row"
    assert math.isnan(paired_difference(AUC, [0, 0], [0.1, 0.2], [0.1, 0.3]).value)


def test_an_interval_without_width_is_marked() -> None:
    found = estimate(AUC, [0] * 20 + [1] * 20, list(range(40)), resamples=100)
    assert (found.value, found.low, found.high) == (1, 1, 1)
    assert "all resamples agree" in found.note


def test_text_metrics_have_intervals() -> None:
    gold = [("red",), ("blue", "navy")] * 20
    found = estimate(METRICS["exact_match"], gold, ["red", "green"] * 20, resamples=200)
    assert found.value == 0.5
    assert found.low < 0.5 < found.high


def test_bad_arguments() -> None:
    gold, score = rows(10)
    with pytest.raises(ValueError, match="resamples 0"):
        estimate(AUC, gold, score, resamples=0)
    with pytest.raises(ValueError, match="confidence"):
        estimate(AUC, gold, score, confidence=95, resamples=10)
    with pytest.raises(ValueError, match="10 rows and 2 group names"):
        estimate(AUC, gold, score, groups=["a", "b"])


def test_text_form() -> None:
    assert str(Estimate(0.9534, 0.94, 0.965, 1000)) == "0.953 [0.940, 0.965]"


def _at_once(metric: str, gold: Any, score: Any) -> Any:
    """ROC-AUC and average precision of all resamples at once, by columns as numpy lays out what it takes."""
    labels, starts, order = sort_by_score(gold, score, descending=metric == "average_precision")

    def per_group(values: Any) -> Any:
        return values if len(starts) == values.shape[1] else np.add.reduceat(values, starts, axis=1)

    def evaluator(counts: Any) -> Any:
        drawn = counts[:, order]
        positives = per_group(drawn * labels)
        if metric == "average_precision":
            precision = ratio(np.cumsum(positives, axis=1), np.cumsum(per_group(drawn), axis=1))
            return ratio(np.where(positives > 0, positives * precision, 0.0).sum(axis=1), positives.sum(axis=1))
        negatives = per_group(drawn) - positives
        below = np.cumsum(negatives, axis=1) - negatives
        won_pairs = (positives * (below + 0.5 * negatives)).sum(axis=1)
        return ratio(won_pairs, positives.sum(axis=1) * negatives.sum(axis=1))

    return evaluator


@pytest.mark.parametrize("cells", [2_000_000, 211 * 7, 1])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("groups", [None, [f"g{row % 50}" for row in range(211)]])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("metric", ["roc_auc", "average_precision"])
def test_some_resamples_at_a_time_have_the_bits_of_all_at_once(
    metric: str, weighted: bool, groups: Any, tied: bool, cells: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lorica.metrics.bootstrap._CELLS", cells)
    gold, score = rows(211)
    score = np.round(score, 1) if tied else score
    weights = np.random.default_rng(3).random(211) if weighted else None
    of_rows = metric_resamples(METRICS[metric], gold, score, resamples=40, groups=groups, weights=weights)
    monkeypatch.setattr("lorica.metrics.base._SLICE_CELLS", 211 * 3)
    of_slices = metric_resamples(METRICS[metric], gold, score, resamples=40, groups=groups, weights=weights)
    whole = msgspec.structs.replace(METRICS[metric], prepare=lambda gold, score: _at_once(metric, gold, score))
    at_once = metric_resamples(whole, gold, score, resamples=40, groups=groups, weights=weights)
    assert of_rows[0].resampled.tolist() == of_slices[0].resampled.tolist() == at_once[0].resampled.tolist()


def test_columns_are_taken_as_numpy_takes_them() -> None:
    counts, indices = np.random.default_rng(0).random((7, 90)), np.random.default_rng(1).integers(0, 90, 300)
    for laid_out in (counts, np.asfortranarray(counts), counts[:1]):
        taken, expected = take_columns(laid_out, indices), laid_out[:, indices]
        assert np.array_equal(taken, expected)
        assert taken.strides == expected.strides
        assert taken.sum(axis=1).tolist() == expected.sum(axis=1).tolist()


def test_metrics_of_the_same_rows_share_what_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    gold, score = rows(60)
    label = (score > 0.5).astype(int)
    draws: list[int] = []

    def counted(row_count: int, *arguments: Any) -> Any:
        draws.append(row_count)
        return draw_weights(row_count, *arguments)

    monkeypatch.setattr("lorica.metrics.bootstrap.draw_weights", counted)
    names = [f"g{row % 9}" for row in range(60)]
    measured = [
        MetricInputs(AUC, gold, score),
        MetricInputs(ACCURACY, gold, label),
        MetricInputs(ACCURACY, gold, label, names),
        MetricInputs(METRICS["f1"], gold, label, list(names), np.linspace(0, 1, 60)),
        MetricInputs(AUC, gold[:20], score[:20]),
    ]
    together = estimate_all(measured, resamples=50)
    assert draws == [60, 60, 20]
    alone = [
        estimate(item.metric, item.gold, item.predictions, resamples=50, groups=item.groups, weights=item.weights)
        for item in measured
    ]
    assert together == alone
