"""The expected gain: paired per rule, an interval for further rules, a control that must gain nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from lorica.adaptation.expected_gain import LeftOutRule, expected_gain, shuffled_labels
from lorica.adaptation.harvest import LabelledText
from lorica.metrics.metric_table import METRICS
from lorica.records import Row
from lorica.tasks.rules import RulesCase

GENERATOR = np.random.default_rng(1)


def scores(labels: Sequence[int], signal: float) -> tuple[float, ...]:
    return tuple(np.array(labels) * signal + GENERATOR.normal(0, 1, len(labels)))


def make_rules(
    signals: Sequence[tuple[float, float, float]], *, shuffles: int = 3, deviation: float = 0.0, pairs: int = 100
) -> list[LeftOutRule]:
    """signals: of each rule, how far the labels are apart in the scores of the unadapted and adapted models and, in the
    mean, of the control. deviation: of the control's from shuffle to shuffle."""
    labels = (0, 1) * pairs
    return [
        LeftOutRule(
            f"rule {number}",
            labels,
            scores(labels, before),
            scores(labels, after),
            tuple(scores(labels, GENERATOR.normal(control, deviation)) for _ in range(shuffles)),
        )
        for number, (before, after, control) in enumerate(signals)
    ]


def test_the_gain_is_the_mean_of_the_rules_and_the_interval_students() -> None:
    stats = pytest.importorskip("scipy.stats")
    rules = make_rules([(0.2, 1.5, 0.2), (0.0, 1.0, 0.0), (0.5, 2.5, 0.4), (0.1, 1.2, 0.1)])
    estimate = expected_gain(rules, 2)
    gains = [
        METRICS["roc_auc"](rule.labels, rule.adapted) - METRICS["roc_auc"](rule.labels, rule.unadapted)
        for rule in rules
    ]
    assert estimate.gain.value == pytest.approx(np.mean(gains))
    assert [rule.gain.value for rule in estimate.rules.values()] == pytest.approx(gains)
    margin = stats.t.ppf(0.975, 3) * np.std(gains, ddof=1) * math.sqrt(1 / 2 + 1 / 4)
    assert (estimate.low, estimate.high) == pytest.approx((np.mean(gains) - margin, np.mean(gains) + margin), abs=1e-4)
    assert estimate.expected
    assert not estimate.control_gains
    assert estimate.verdict.startswith("A gain is expected")
    assert "no gain, " in estimate.verdict


def test_no_gain_is_said_and_a_control_that_gains_is_not_believed() -> None:
    assert expected_gain(make_rules([(1, 1, 1), (1, 1, 1)]), 1).verdict.startswith("No gain is expected")
    leaking = expected_gain(make_rules([(0, 2, 2), (0, 2, 2)]), 1)
    assert not leaking.expected
    assert leaking.control_gains
    assert "shuffled labels help as well" in leaking.verdict
    assert "IT GAINS, TOO" in leaking.verdict


def test_a_control_that_only_forgets_a_wrong_ranking_does_not_gain() -> None:
    """A model may rank an unseen rule upside down; whatever is learned of its texts lifts it towards chance."""
    estimate = expected_gain(make_rules([(-1, 2, 0), (-1, 2, 0)]), 1)
    assert estimate.control.low > 0
    assert estimate.above_chance.low <= 0
    assert not estimate.control_gains
    assert estimate.expected
    assert estimate.by_labels.value == pytest.approx(estimate.gain.value - estimate.control.value)
    assert f"{estimate.control.value:+.3f}" in estimate.verdict, "what it gains over the unadapted model is said"
    assert "worse than chance" in estimate.verdict
    assert estimate.verdict.endswith("count on that alone.")


def test_a_control_that_gains_beyond_chance_is_said_to_and_takes_its_share_off_the_gain() -> None:
    estimate = expected_gain(make_rules([(0, 2, 0.8), (0, 2, 0.8)]), 1)
    assert estimate.control_gains
    assert estimate.expected
    assert "IT GAINS, TOO" in estimate.verdict
    assert estimate.verdict.endswith("count on that alone.")


def test_a_control_without_information_is_rarely_said_to_gain_however_its_shuffles_differ() -> None:
    """Of one shuffle, the interval of its rows alone says so in every other case."""
    alarms = 0
    for _ in range(40):
        estimate = expected_gain(make_rules([(0, 1, 0)] * 3, deviation=0.5, pairs=20), 1)
        alarms += estimate.control_gains
        assert estimate.deviation > 0.05
    assert alarms <= 2


def test_p_is_the_share_of_choices_of_labellings_that_do_as_well() -> None:
    estimate = expected_gain(make_rules([(0, 0.3, 0), (0, 0.2, 0.2), (0, 0.1, 0)]), 1)
    columns = [(rule.adapted, *rule.shuffled) for rule in estimate.rules.values()]
    observed = sum(column[0] for column in columns)
    expected = np.mean([sum(choice) >= observed - 1e-9 for choice in product(*columns)])
    assert 1 / 64 < expected < 1
    assert estimate.p_value == pytest.approx(expected)
    assert expected_gain(make_rules([(0, 3, 0), (0, 3, 0)]), 1).p_value == 1 / 16
    many = expected_gain(make_rules([(0, 0.1, 0)] * 9, pairs=20), 1)  # 4^9 choices: so many are drawn
    columns = [(rule.adapted, *rule.shuffled) for rule in many.rules.values()]
    totals = np.zeros(1)
    for column in columns:
        totals = np.add.outer(totals, column).ravel()
    assert many.p_value == pytest.approx((totals >= sum(column[0] for column in columns) - 1e-9).mean(), abs=0.01)


def test_labels_must_beat_the_shuffles_and_not_only_their_mean() -> None:
    rule = make_rules([(0, 1, 0)])[0]
    assert expected_gain([rule], 1).expected, "one rule allows no less than 1/4: it beats all three"
    better = replace(rule, shuffled=(scores(rule.labels, 1.5), *rule.shuffled[1:]))
    assert not expected_gain([better], 1).beats_shuffles


def test_one_rule_alone_gives_no_interval_for_others() -> None:
    estimate = expected_gain(make_rules([(0, 2, 0)]), 1)
    assert math.isnan(estimate.low)
    assert "on unseen rules" not in estimate.verdict


def test_shuffled_labels_tell_nothing_and_keep_their_number_within_each_rule() -> None:
    items = [
        LabelledText(
            str(number),
            f"rule {number % 2}",
            Row(str(number), RulesCase(f"text {number}", f"rule {number % 2}"), gold=int(number % 6 < 2)),
            ("x",),
        )
        for number in range(90)
    ]
    shuffles = [shuffled_labels(items, f"{number}") for number in range(200)]
    for shuffled in shuffles:
        for stratum in ("rule 0", "rule 1"):
            assert sum(item.label for item in shuffled if item.stratum == stratum) == 15
        assert [item.row.id for item in shuffled] == [item.row.id for item in items]
    agreement = np.mean([[a.label == b.label for a, b in zip(items, own, strict=True)] for own in shuffles])
    assert agreement == pytest.approx(1 / 3 * 1 / 3 + 2 / 3 * 2 / 3, abs=0.01), "as chance has it"
    assert shuffled_labels(items, "3") == shuffles[3]
    assert shuffles[3] != shuffles[4]
