"""The guards of a round: each stops what it is for, and lets pass what is sound."""

from __future__ import annotations

import numpy as np
import pytest

from lorica.adaptation.guards import canary_rows, class_balance, pick_pseudo_labels, score_distance, teacher_agreement
from lorica.config.adapt_section import AdaptConfig

LIMITS = AdaptConfig()
GENERATOR = np.random.default_rng(0)
LABELS = [0, 1] * 40
GOOD = np.clip(np.array(LABELS) * 0.6 + 0.2 + GENERATOR.normal(0, 0.1, 80), 0.01, 0.99)


def test_the_distance_of_scores_is_scipys() -> None:
    stats = pytest.importorskip("scipy.stats")
    moved = GENERATOR.random(80)
    assert score_distance(moved, GOOD, LIMITS).value == pytest.approx(stats.wasserstein_distance(moved, GOOD))


def test_scores_that_collapse_are_stopped() -> None:
    assert score_distance(GOOD * 0.95, GOOD, LIMITS).passed
    collapsed = score_distance(np.full(80, 0.5), GOOD, LIMITS)
    assert not collapsed.passed
    assert collapsed.reason
    assert not score_distance(np.clip(GOOD + 0.5, 0, 1), GOOD, LIMITS).passed


def test_one_class_is_stopped() -> None:
    assert class_balance("answers", 0.6, 0.5, LIMITS).passed
    one_class = class_balance("answers", 0.0, 0.5, LIMITS)
    assert not one_class.passed
    assert "0% are 1, and 50% were expected" in one_class.reason


def test_a_round_that_turns_on_its_teacher_is_stopped() -> None:
    turned = teacher_agreement(1 - GOOD, GOOD, LIMITS)
    assert turned.value == 0
    assert not turned.passed
    assert teacher_agreement(GOOD * 0.9 + 0.05, GOOD, LIMITS).passed
    unsure = teacher_agreement(GOOD, np.full(80, 0.5), LIMITS)
    assert (unsure.value, unsure.passed) == (None, True)


def test_a_rare_label_that_is_given_up_is_stopped() -> None:
    teacher = np.array([0.1] * 90 + [0.9] * 10)
    given_up = np.linspace(0.01, 0.3, 100)  # agrees on 90 of 100 rows, and says 1 of none
    reading = teacher_agreement(given_up, teacher, LIMITS)
    assert (reading.value, reading.passed) == (0, False)
    assert "0% of the 10 rows that the teacher is sure of to be 1" in reading.reason
    assert teacher_agreement(teacher * 0.8 + 0.1, teacher, LIMITS).passed
    few = np.array([0.1] * 98 + [0.9] * 2)  # two rows say nothing by themselves
    assert teacher_agreement(given_up, few, LIMITS).passed


def test_canary_rows_stop_a_fall_and_not_noise() -> None:
    assert not canary_rows(1 - GOOD, GOOD, LABELS, LIMITS).passed
    assert canary_rows(GOOD, GOOD, LABELS, LIMITS).passed
    few = [0, 1, 0, 1]  # of four rows one changed its rank: chance explains that
    assert canary_rows(np.array([0.1, 0.9, 0.2, 0.15]), np.array([0.1, 0.9, 0.2, 0.8]), few, LIMITS).passed
    assert canary_rows(np.empty(0), np.empty(0), [], LIMITS).value is None


def test_only_confident_scores_become_labels() -> None:
    scores = {"a": 0.19, "b": 0.2, "c": 0.5, "d": 0.8, "e": 0.81}
    assert pick_pseudo_labels(scores, LIMITS) == {"a": 0, "e": 1}
