"""Blends against their definitions, written out with scipy and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import rankdata, spearmanr
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from lorica.ensemble.blends import blend_scores, unit_ranks, vote
from lorica.ensemble.calibrated import fit_calibrated
from lorica.ensemble.members import EnsembleMember, Scores, average_ranks, degenerate_reasons, rank_correlations
from lorica.ensemble.stacking import cross_fitted, fit_logistic
from lorica.errors import TrainingError
from lorica.metrics.metric_table import METRICS
from lorica.records import Answer


def _columns(row_count: int = 120, seed: int = 0) -> tuple[list[Scores], list[int]]:
    random = np.random.default_rng(seed)
    labels = random.integers(0, 2, row_count)
    columns = [1 / (1 + np.exp(-(labels * shift + random.normal(size=row_count)))) for shift in (0.5, 1.0, 1.5)]
    return columns, labels.tolist()


def test_ranks_are_scipys_with_and_without_groups() -> None:
    scores = np.array([0.3, 0.1, 0.3, 0.9, 0.1, 0.5])
    assert average_ranks(scores).tolist() == rankdata(scores).tolist()
    groups = ["a", "b", "a", "b", "b", "c"]
    ranks = unit_ranks(scores, groups)
    assert ranks[[0, 2]].tolist() == [0.5, 0.5]
    assert ranks[[1, 3, 4]].tolist() == pytest.approx([1 / 3, 5 / 6, 1 / 3])
    assert ranks[5] == 0.5
    assert unit_ranks(np.array([0.1, 0.2]), ["a", "a\0"]).tolist() == [0.5, 0.5], "numpy drops zeros at the end"


def test_correlations_are_spearmans() -> None:
    columns, _ = _columns()
    expected = spearmanr(np.stack(columns, axis=1)).statistic
    assert rank_correlations(columns) == pytest.approx(expected)


def test_mean_rank_and_power_by_their_formulas() -> None:
    (first, second, _), _ = _columns()
    weights = (0.25, 0.75)
    assert blend_scores([first, second], weights, "mean") == pytest.approx(0.25 * first + 0.75 * second)
    ranked = 0.25 * (rankdata(first) - 0.5) / 120 + 0.75 * (rankdata(second) - 0.5) / 120
    assert blend_scores([first, second], weights, "rank") == pytest.approx(ranked)
    powered = (0.25 * first**3 + 0.75 * second**3) ** (1 / 3)
    assert blend_scores([first, second], weights, "power", power=3.0) == pytest.approx(powered)
    with pytest.raises(ValueError, match="from 0 on"):
        blend_scores([first - 1, second], weights, "power", power=2.0)


def test_power_means_neither_vanish_nor_divide_by_zero() -> None:
    first, second = np.array([0.0, 0.5, 0.02]), np.array([0.4, 0.5, 0.04])
    with np.errstate(all="raise"):
        high = blend_scores([first, second], [0.5, 0.5], "power", power=1000.0)
        low = blend_scores([first, second], [0.5, 0.5], "power", power=-2.0)
        alone = blend_scores([first, second], [0.0, 1.0], "power", power=-2.0)
    assert high == pytest.approx([0.4, 0.5, 0.04], rel=1e-3)
    assert low == pytest.approx([0.0, 0.5, (0.5 * (0.02**-2 + 0.04**-2)) ** -0.5])
    assert alone == pytest.approx(second)


def test_ranks_within_rules_restore_what_a_shift_of_one_rule_destroyed() -> None:
    (_, first, second), labels = _columns(600)
    rules = [f"rule {index % 3}" for index in range(600)]
    shift = np.array([0.8 if rule == "rule 1" else 0.0 for rule in rules])
    plain = METRICS["roc_auc"](labels, blend_scores([first, second], (0.5, 0.5), "rank", groups=rules))
    shifted = [first + shift, second + shift]
    destroyed = METRICS["roc_auc"](labels, blend_scores(shifted, (0.5, 0.5), "rank"))
    restored = METRICS["roc_auc"](labels, blend_scores(shifted, (0.5, 0.5), "rank", groups=rules))
    assert destroyed < plain - 0.1
    assert restored == pytest.approx(plain, abs=1e-12)


def test_a_stack_scores_no_row_that_it_was_fitted_on() -> None:
    columns, labels = _columns()
    features = np.stack([np.log(column / (1 - column)) for column in columns], axis=1)
    for groups in (None, [f"g{index // 4}" for index in range(120)]):
        expected = np.empty(120)
        splitter = StratifiedKFold if groups is None else StratifiedGroupKFold
        folds = splitter(5, shuffle=True, random_state=0).split(features, labels, groups)
        for fitted, judged in folds:
            model = LogisticRegression(C=1.0, max_iter=1000).fit(features[fitted], np.asarray(labels)[fitted])
            expected[judged] = model.predict_proba(features[judged])[:, 1]
            if groups:
                assert not {groups[index] for index in fitted} & {groups[index] for index in judged}
        assert cross_fitted(["a", "b", "c"], columns, labels, groups=groups) == pytest.approx(expected, abs=1e-9)


def test_a_fitted_model_serves_a_single_row() -> None:
    columns, labels = _columns()
    model = fit_logistic(["a", "b", "c"], columns, labels)
    together = model.predict(columns)
    assert model.predict([column[7:8] for column in columns])[0] == pytest.approx(together[7], abs=1e-15)


def test_fitting_refuses_what_cannot_be_fitted() -> None:
    columns, labels = _columns()
    with pytest.raises(TrainingError, match="at least 5 rows of label 0 and of label 1; there are 116 and 4"):
        cross_fitted(["a"], columns[:1], [1] * 4 + [0] * 116)
    with pytest.raises(TrainingError, match="needs probabilities, and scores go from"):
        fit_logistic(["a"], [columns[0] * 9], labels)
    blend = fit_calibrated(["a"], columns[:1], [1.0], labels)
    with pytest.raises(TrainingError, match="needs probabilities, and scores go from"):
        blend.predict([columns[0] * 9])
    with pytest.raises(TrainingError, match="belong to 2 groups"):
        cross_fitted(["a"], columns[:1], labels, groups=["x", "y"] * 60)


def test_scores_that_are_all_alike_are_degenerate() -> None:
    columns, labels = _columns()
    assert degenerate_reasons(columns[0]) == ""
    assert "all rows get the same score" in degenerate_reasons(np.full(120, 0.3))
    assert "hard labels" in degenerate_reasons(np.asarray(labels, dtype=np.float64))


def test_votes_follow_the_weights_and_ties_are_flagged() -> None:
    texts = [("A", "B", "B"), ("A", "B", None), ("C", "B", "A"), (None, " ", None)]
    members = [
        EnsembleMember(str(column), {str(row): Answer(str(row), answers[column]) for row, answers in enumerate(texts)})
        for column in range(3)
    ]
    equal = vote(members, (1 / 3, 1 / 3, 1 / 3), ["0", "1", "2", "3"])
    assert [answer.answer for answer in equal] == ["B", "A", "C", None]
    assert [answer.flags for answer in equal] == [(), ("tied",), ("tied",), ("invalid",)]
    assert vote(members, (0.6, 0.2, 0.2), ["0"])[0].answer == "A"
    silent = vote(members, (0.0, 0.0, 1.0), ["0", "1"])
    assert [answer.answer for answer in silent] == ["B", None], "who has no say has none where others are silent"
    assert silent[1].flags == ("invalid",)
