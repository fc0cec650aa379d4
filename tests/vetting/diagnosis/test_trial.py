"""What is measured on labelled rows: against scikit-learn and plain loops."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from lorica.records import Row
from lorica.vetting.behaviour.setting import Setting, Workplace
from lorica.vetting.diagnosis.inputs import MOST_ROWS, chosen
from lorica.vetting.diagnosis.trial import Trial, auc_error, centred, compare, divergence


def trial(base: Path, rows: tuple[Row, ...]) -> Trial:
    work = Workplace(Setting(base, task="rules"))
    return Trial(work.engine(all_kinds=False), work.setting.load_task(), work.encoder(), rows)


def test_the_shift_is_the_best_there_is() -> None:
    linear = pytest.importorskip("sklearn.linear_model")
    chance = np.random.default_rng(0)
    odds, gold = 3 * chance.standard_normal(80) + 4, chance.random(80) < 0.3
    found = centred(odds, gold)
    tried = [-np.logaddexp(0, -np.where(gold, 1, -1) * (odds + shift)).mean() for shift in np.linspace(-20, 20, 4001)]
    assert found.mean() == pytest.approx(max(tried), abs=1e-6)
    # A regression that may also stretch the odds can only do better.
    model = linear.LogisticRegression(C=1e9).fit(odds[:, None], gold)
    assert np.log(model.predict_proba(odds[:, None])[np.arange(80), gold.astype(int)]).mean() >= found.mean() - 1e-9


def test_adapter_and_base_are_asked_the_same(
    trained: Path, bases: tuple[Path, Path], held_out: tuple[Row, ...]
) -> None:
    asked = trial(bases[0], held_out)
    base, adapted = asked.score(None), asked.score(trained)
    assert asked.score(trained) is adapted
    assert divergence(base, base) == 0
    assert divergence(adapted, base) > 0.01
    assert asked.auc(adapted)[0] > asked.auc(base)[0]
    assert compare(adapted, adapted).z == 0
    assert all(np.exp(vector).sum() == pytest.approx(1) for vector in map(np.array, adapted.vectors))
    swapped = asked.score(trained, shift=5)
    expected = np.array([*adapted.vectors[5:], *adapted.vectors[:5]])
    assert np.allclose(np.array(swapped.vectors), expected, atol=1e-4)


def test_what_was_added_is_taken_out_again(trained: Path, bases: tuple[Path, Path], held_out: tuple[Row, ...]) -> None:
    asked = trial(bases[0], held_out)
    first = asked.score(trained)
    part = asked.part(10)
    assert len(part.rows) == 10
    part.score(trained)
    part.forget_all()
    asked.forget_all()
    assert asked.engine._adapters == {}  # type: ignore[attr-defined]
    assert np.array_equal(asked.score(trained).first, first.first)


def test_the_error_of_an_auc() -> None:
    """Hanley and McNeil's figures for an AUC of 0.5 are those of the rank sum: (n + m + 1) / (12 n m)."""
    assert auc_error(0.5, 40, 60) == pytest.approx(np.sqrt(101 / (12 * 40 * 60)), rel=0.01)
    assert auc_error(1.0, 40, 60) > 0
    assert np.isnan(auc_error(0.9, 0, 5))


def test_rows_are_chosen_evenly_and_both_labels_equally(held_out: tuple[Row, ...]) -> None:
    assert chosen(held_out) == list(held_out)
    many = [msgspec.structs.replace(held_out[n % 48], id=str(n), gold=int(n % 10 == 0)) for n in range(1000)]
    picked = chosen(many)
    assert len(picked) == MOST_ROWS
    assert sum(row.gold == 1 for row in picked) == MOST_ROWS // 2
    assert [int(row.id) for row in picked] == sorted(int(row.id) for row in picked)
