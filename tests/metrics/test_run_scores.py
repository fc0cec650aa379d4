"""The accuracy-latency score: by hand on small cases, its intervals by simulation, its front by brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lorica.metrics.run_scores import RunColumns, ScoreRules, score_runs


def columns(correct: list[int], seconds: list[float], units: list[float] | None = None) -> RunColumns:
    return RunColumns(
        np.array(correct, dtype=float), np.array(seconds), np.array(units or [1.0] * len(correct), dtype=float)
    )


def made_up(n: int, accuracy: float, latency: float, *, seed: int) -> RunColumns:
    random = np.random.default_rng(seed)
    return RunColumns((random.random(n) < accuracy).astype(float), latency * random.gamma(4.0, 0.25, n), np.ones(n))


def test_the_score_by_hand() -> None:
    runs = {"slow": columns([1, 1, 1, 0], [2.0, 2, 2, 2]), "fast": columns([1, 0, 1, 0], [1.0, 1, 1, 1])}
    scored, _ = score_runs(runs, ScoreRules())
    by_name = {run.name: run for run in scored}
    assert by_name["slow"].score.value == pytest.approx(0.6 * 0.75 + 0.4 * 0.5)
    assert by_name["fast"].score.value == pytest.approx(0.6 * 0.5 + 0.4 * 1.0)
    assert by_name["slow"].latency.value == 2.0
    assert [run.name for run in scored] == ["fast", "slow"]


def test_other_weights_and_another_unit() -> None:
    runs = {"a": columns([1, 0], [3.0, 3.0], [10, 20]), "b": columns([1, 1], [6.0, 6.0], [10, 20])}
    scored, _ = score_runs(runs, ScoreRules(accuracy_weight=1.0, latency_weight=0.0))
    assert {run.name: run.score.value for run in scored} == {"a": 0.5, "b": 1.0}
    assert {run.name: run.latency.value for run in scored} == {"a": pytest.approx(0.2), "b": pytest.approx(0.4)}


def test_a_run_below_the_minimum_is_not_ranked_and_sets_no_latency() -> None:
    runs = {
        "wrong": columns([0] * 20, [0.001] * 20),
        "right": columns([1] * 20, [1.0] * 20),
        "half": columns([1, 0] * 10, [2.0] * 20),
    }
    scored, pairs = score_runs(runs, ScoreRules())
    by_name = {run.name: run for run in scored}
    assert (by_name["wrong"].rank, by_name["wrong"].score.value, scored[-1].name) == (None, 0.0, "wrong")
    assert by_name["right"].latency_score.value == 1.0
    assert [(pair.first, pair.second) for pair in pairs] == [("right", "half")]


def test_the_same_run_twice_shares_its_rank_though_one_was_slower() -> None:
    run = made_up(300, 0.8, 1.0, seed=1)
    slower = RunColumns(run.correct, 1.04 * run.seconds, run.units)
    scored, (pair,) = score_runs({"first": run, "second": slower}, ScoreRules())
    assert [one_run.rank for one_run in scored] == [1, 1]
    assert pair.better == ""
    assert pair.difference.low < 0 < pair.difference.high
    # Rows alone would have told them apart, since every row was slower.
    _, (rows_alone,) = score_runs({"first": run, "second": slower}, ScoreRules(run_noise=0.0))
    assert rows_alone.better == "first"


def test_a_run_that_is_better_leads() -> None:
    runs = {"best": made_up(500, 0.9, 1.0, seed=1), "worse": made_up(500, 0.6, 2.0, seed=2)}
    scored, (pair,) = score_runs(runs, ScoreRules())
    assert [(run.name, run.rank) for run in scored] == [("best", 1), ("worse", 2)]
    assert pair.better == "best"
    assert scored[1].dominated_by == ("best",)
    assert scored[0].dominated_by == ()


def test_the_front_is_that_of_brute_force() -> None:
    random = np.random.default_rng(0)
    for _ in range(100):
        runs = {
            str(index): columns([1] * right + [0] * (4 - right), [float(latency)] * 4)
            for index, (right, latency) in enumerate(random.integers(1, 5, size=(6, 2)).tolist())
        }
        scored, _ = score_runs(runs, ScoreRules(run_noise=0.0))
        points = {run.name: (run.accuracy.value, -run.latency.value) for run in scored}
        for run in scored:
            better = {
                name
                for name, point in points.items()
                if point != points[run.name] and all(np.array(point) >= np.array(points[run.name]))
            }
            assert set(run.dominated_by) == better


def test_intervals_cover_the_true_score() -> None:
    """Runs of a known score and machine noise: 95% intervals of the difference cover it about as often as they say."""
    true_scores = {"a": 0.6 * 0.8 + 0.4 * 1.0, "b": 0.6 * 0.7 + 0.4 / 1.5}
    covered = 0
    for trial in range(200):
        random = np.random.default_rng(trial)
        runs = {}
        for name, accuracy, latency in (("a", 0.8, 1.0), ("b", 0.7, 1.5)):
            run = made_up(200, accuracy, latency, seed=int(random.integers(1 << 30)))
            noise = math.exp(0.05 * random.standard_normal())
            runs[name] = RunColumns(run.correct, run.seconds * noise, run.units)
        _, (pair,) = score_runs(runs, ScoreRules())
        covered += pair.difference.low <= true_scores["a"] - true_scores["b"] <= pair.difference.high
    assert 180 <= covered <= 199


@pytest.mark.parametrize(
    ("runs", "problem"),
    [
        ({}, "nothing to score"),
        ({"a": columns([], [])}, "nothing to score"),
        ({"a": columns([1], [0.0])}, "a has no seconds"),
    ],
)
def test_what_cannot_be_scored(runs: dict[str, RunColumns], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        score_runs(runs, ScoreRules())


def test_groups_are_drawn_whole() -> None:
    run = columns([1, 1, 1, 0, 0, 0] * 10, [1.0] * 60)
    (alone,), _ = score_runs({"a": run}, ScoreRules())
    (grouped,), _ = score_runs({"a": run}, ScoreRules(), groups=[str(index // 3) for index in range(60)])
    assert grouped.accuracy.high - grouped.accuracy.low > 1.3 * (alone.accuracy.high - alone.accuracy.low)


def test_many_runs_are_still_told_apart() -> None:
    runs = {f"run-{step}": made_up(400, 0.15 + 0.07 * step, 1.0, seed=step) for step in range(12)}
    scored, pairs = score_runs(runs, ScoreRules())
    assert len(pairs) == 66
    assert (scored[0].name, scored[0].rank) == ("run-11", 1)
    assert scored[-1].rank == 10


def test_the_front_alone_is_compared() -> None:
    runs = {
        "accurate": made_up(400, 0.95, 1.0, seed=1),
        "fast": made_up(400, 0.4, 0.8, seed=2),
        **{f"worse-{number}": made_up(400, 0.3, 2.0 + number, seed=3 + number) for number in range(10)},
    }
    scored, pairs = score_runs(runs, ScoreRules(), front_only=True)
    assert [(pair.first, pair.second, pair.better) for pair in pairs] == [("accurate", "fast", "accurate")]
    assert [(run.name, run.rank) for run in scored[:2]] == [("accurate", 1), ("fast", 2)]
    assert {run.rank for run in scored[2:]} == {None}
    all_compared, _ = score_runs(runs, ScoreRules())
    assert {run.name: run.score.value for run in scored} == {run.name: run.score.value for run in all_compared}
