"""The expected gain: paired per rule, an interval for further rules, a control that must gain nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from lorica.adaptation.expected_gain import LeftOutRule, expected_gain, shuffled_labels
from lorica.adaptation.harvest import LabelledText
from lorica.metrics.score_metrics import roc_auc
from lorica.records import Row
from lorica.tasks.rules import RulesCase

GENERATOR = np.random.default_rng(1)


def scores(labels: Sequence[int], signal: float) -> tuple[float, ...]:
    return tuple(np.array(labels) * signal + GENERATOR.normal(0, 1, len(labels)))


def make_rules(signals: Sequence[tuple[float, float, float]]) -> list[LeftOutRule]:
    labels = (0, 1) * 100
    return [
        LeftOutRule(
            f"rule {number}", labels, scores(labels, before), scores(labels, after), scores(labels, control), 40
        )
        for number, (before, after, control) in enumerate(signals)
    ]


def test_the_gain_is_the_mean_of_the_rules_and_the_interval_students() -> None:
    stats = pytest.importorskip("scipy.stats")
    rules = make_rules([(0.2, 1.5, 0.2), (0.0, 1.0, 0.0), (0.5, 2.5, 0.4), (0.1, 1.2, 0.1)])
    estimate = expected_gain(rules, 2)
    gains = [roc_auc(rule.labels, rule.adapted) - roc_auc(rule.labels, rule.unadapted) for rule in rules]
    assert estimate.gain.value == pytest.approx(np.mean(gains))
    assert [gain.value for gain in estimate.rules.values()] == pytest.approx(gains)
    margin = stats.t.ppf(0.975, 3) * np.std(gains, ddof=1) * math.sqrt(1 / 2 + 1 / 4)
    assert (estimate.low, estimate.high) == pytest.approx((np.mean(gains) - margin, np.mean(gains) + margin), abs=1e-4)
    assert estimate.expected
    assert estimate.verdict.startswith("A gain is expected")


def test_no_gain_is_said_and_a_control_that_gains_is_not_believed() -> None:
    assert expected_gain(make_rules([(1, 1, 1), (1, 1, 1)]), 1).verdict.startswith("No gain is expected")
    leaking = expected_gain(make_rules([(0, 2, 2), (0, 2, 2)]), 1)
    assert not leaking.expected
    assert "shuffled labels help as well" in leaking.verdict


def test_a_control_that_gains_on_a_model_below_chance_takes_its_share_off_the_gain() -> None:
    """A training may rank an unseen rule upside down by chance; any other one then looks better."""
    estimate = expected_gain(make_rules([(-1, 2, 0), (-1, 2, 0)]), 1)
    assert estimate.control_gains
    assert estimate.expected
    assert estimate.by_labels.value == pytest.approx(estimate.gain.value - estimate.control.value)
    assert f"count on {estimate.by_labels.value:+.3f}" in estimate.verdict


def test_one_rule_alone_gives_no_interval_for_others() -> None:
    estimate = expected_gain(make_rules([(0, 2, 0)]), 1)
    assert math.isnan(estimate.low)
    assert "on unseen rules" not in estimate.verdict


def test_shuffled_labels_tell_nothing() -> None:
    items = [
        LabelledText(
            str(number), "rule", Row(str(number), RulesCase(f"text {number}", "rule"), gold=number % 2), ("x",)
        )
        for number in range(80)
    ]
    shuffled = shuffled_labels(items, 3)
    agreeing = sum(before.label == after.label for before, after in zip(items, shuffled, strict=True))
    assert agreeing == 40
    assert sum(item.label for item in shuffled) == 40
    assert shuffled_labels(items, 3) == shuffled
