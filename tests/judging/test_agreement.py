"""Cohen's kappa against scikit-learn's, and what a verdict of two orders is."""

from __future__ import annotations

import math
import warnings
from random import Random

import pytest
from sklearn.metrics import cohen_kappa_score

from lorica.judging.agreement import agreement
from lorica.judging.calls import CallRecord, from_logprobs
from lorica.judging.rubrics import RUBRICS
from lorica.judging.verdicts import combine


def test_kappa_is_scikit_learns() -> None:
    generator = Random(0)
    for case in range(1000):
        n, names = generator.randint(1, 40), ("correct", "incorrect", "tie")[: generator.randint(1, 3)]
        first = [generator.choice(names) for _ in range(n)]
        second = [label if generator.random() < 0.5 else generator.choice(names) for label in first]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = cohen_kappa_score(first, second)
        kappa = agreement("another reader", first, second, label="correct").kappa
        assert kappa.value == pytest.approx(expected, nan_ok=True, abs=1e-12), case


def test_a_judge_that_calls_all_correct_agrees_by_chance() -> None:
    truth = ["correct"] * 90 + ["incorrect"] * 10
    entry = agreement("exact match", truth, ["correct"] * 100, label="correct")
    assert entry.accuracy.value == pytest.approx(0.9)
    assert entry.kappa.value == 0
    assert not entry.is_beyond_chance
    assert (entry.base_rate, entry.judge_rate) == (0.9, 1.0)


def test_both_orders_share_in_the_verdict() -> None:
    rubric = RUBRICS["reference"]
    sure, unsure = CallRecord({"correct": 0.9, "incorrect": 0.1}), CallRecord({"correct": 0.4, "incorrect": 0.6})
    verdict = combine("1", rubric, (sure, unsure))
    assert (verdict.label, verdict.orders, verdict.is_consistent) == ("correct", ("correct", "incorrect"), False)
    assert verdict.score == pytest.approx(0.65)


def test_labels_that_contradict_each_other_are_no_praise() -> None:
    yes, no = CallRecord({"correct": 1.0, "incorrect": 0.0}), CallRecord({"correct": 0.0, "incorrect": 1.0})
    assert combine("1", RUBRICS["reference"], (yes, no)).label == "incorrect"
    first = CallRecord({"first": 1.0, "second": 0.0, "tie": 0.0})
    second = CallRecord({"first": 0.0, "second": 1.0, "tie": 0.0})
    assert combine("1", RUBRICS["pairwise"], (first, second)).label == "tie"


def test_one_failed_order_fails_the_row() -> None:
    fine = CallRecord({"correct": 1.0, "incorrect": 0.0})
    verdict = combine("1", RUBRICS["reference"], (fine, CallRecord(failure="no_verdict", detail="x")))
    assert (verdict.is_judged, verdict.failure) == (False, "no_verdict")
    assert combine("1", RUBRICS["reference"], (fine, None)).failure == "not_asked"


def test_log_probabilities_are_shared_out_among_the_labels() -> None:
    names = {"A": "correct", "B": "incorrect"}
    shares, mass = from_logprobs({"A": math.log(0.3), "B": math.log(0.1)}, names)
    assert shares == pytest.approx({"correct": 0.75, "incorrect": 0.25})
    assert mass == pytest.approx(0.4)
    for broken in ({"A": math.nan}, {"A": 0.5}, {"A": math.inf}, {}):
        with pytest.raises(ValueError, match="probability"):
            from_logprobs(broken, names)
