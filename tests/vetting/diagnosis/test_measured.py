"""What is measured on labelled rows: against scikit-learn and plain loops, once, and alike for check and diagnosis."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from tests.vetting.diagnosis.conftest import broken

from lorica.adapters.config import read_adapter_config
from lorica.adapters.folder import WEIGHTS_NAME
from lorica.adapters.header import read_header
from lorica.adapters.tensor_map import map_tensors
from lorica.records import Row
from lorica.vetting.base_checks import check_behaviour
from lorica.vetting.diagnosis import Diagnosis
from lorica.vetting.diagnosis.diagnose import find_adapter
from lorica.vetting.levels import examine
from lorica.vetting.measure.adapter_measurement import AdapterMeasurement
from lorica.vetting.measure.divergence import choices_kl
from lorica.vetting.measure.loaded_adapter import load_adapter
from lorica.vetting.measure.measurements import Behaviour
from lorica.vetting.measure.model_session import ModelSession, SessionSettings
from lorica.vetting.measure.probe_rows import chosen_rows
from lorica.vetting.measure.quality import auc_error, centred, compare, skill


def measurement(base: Path, folder: Path, rows: Sequence[Row], copies: Path) -> AdapterMeasurement:
    weights = folder / WEIGHTS_NAME
    session = ModelSession(SessionSettings(base, task="rules"))
    layout = map_tensors(read_header(weights))
    return AdapterMeasurement(load_adapter(session, read_adapter_config(folder), weights, layout, copies), rows)


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
    trained: Path, bases: tuple[Path, Path], held_out: tuple[Row, ...], tmp_path: Path
) -> None:
    measured = measurement(bases[0], trained, held_out, tmp_path)
    adapted, base = measured.own, measured.base
    assert [row.id for row in adapted.rows] == [row.id for row in base.rows] == [row.id for row in held_out]
    assert choices_kl(base, base) == 0
    assert (choices_kl(adapted, base) or 0) > 0.01
    assert (skill(adapted).value or 0) > (skill(base).value or 0)
    assert compare(adapted, adapted).z == 0
    assert all(row.sum() == pytest.approx(1) for row in adapted.probabilities)


def test_what_was_scored_is_not_scored_again_and_leaves_nothing_behind(
    trained: Path, bases: tuple[Path, Path], held_out: tuple[Row, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = measurement(bases[0], trained, held_out, tmp_path)
    engine, counts = measured.adapter.engine, list[int]()
    run = engine.run

    def counting(requests: Sequence[Any], *rest: Any) -> Any:
        counts.append(len(requests))
        return run(requests, *rest)

    monkeypatch.setattr(engine, "run", counting)
    assert measured.so_far().n == len(counts) == 0
    first = measured.behaviour()
    asked = len(counts)
    assert measured.behaviour() == first
    assert measured.so_far() == msgspec.structs.replace(
        first, generated=None, probes_quality=None, labelled=measured.labelled
    )
    assert len(counts) == asked
    # The same adapter once more: only what the base says is known.
    again = AdapterMeasurement(measured.adapter, held_out)
    assert np.array_equal(again.own.first, measured.own.first)
    assert len(counts) == asked
    measured.adapter.close()
    assert engine._adapters == {}  # type: ignore[attr-defined]


def test_what_was_never_asked_is_not_asked_for_the_report(
    trained: Path, bases: tuple[Path, Path], held_out: tuple[Row, ...], tmp_path: Path
) -> None:
    measured = measurement(bases[0], trained, held_out, tmp_path)
    measured.adapter.close()  # as where canaries alone decided a diagnosis
    assert measured.so_far().n == 0


def test_the_error_of_an_auc() -> None:
    """Hanley and McNeil's figures for an AUC of 0.5 are those of the rank sum: (n + m + 1) / (12 n m)."""
    assert auc_error(0.5, 40, 60) == pytest.approx(np.sqrt(101 / (12 * 40 * 60)), rel=0.01)
    assert auc_error(1.0, 40, 60) > 0
    assert np.isnan(auc_error(0.9, 0, 5))


def test_rows_are_chosen_from_both_labels_equally(held_out: tuple[Row, ...]) -> None:
    assert chosen_rows(held_out, 128, 0) == list(held_out)
    many = [msgspec.structs.replace(held_out[n % 48], id=str(n), gold=int(n % 10 == 0)) for n in range(1000)]
    picked = chosen_rows(many, 128, 0)
    assert sum(row.gold == 1 for row in picked) == 64
    assert [int(row.id) for row in picked] == sorted(int(row.id) for row in picked)


CHANGES: dict[str, dict[str, Any]] = {"sound": {}, "too large": {"lora_alpha": 384}, "too small": {"lora_alpha": 2}}


@pytest.mark.parametrize("change", CHANGES)
def test_check_and_diagnosis_report_the_same_numbers(
    trained: Path,
    bases: tuple[Path, Path],
    held_out: tuple[Row, ...],
    tmp_path: Path,
    ask: Callable[..., Diagnosis],
    change: str,
) -> None:
    folder = broken(trained, tmp_path / "adapter", None, **CHANGES[change])
    examined = examine(find_adapter(folder))
    assert examined.specimen is not None
    assert examined.layout is not None
    session = ModelSession(SessionSettings(bases[0], task="rules"))
    checked, _ = check_behaviour(examined.specimen, examined.layout, session, held_out)
    diagnosed = ask(folder).measured
    assert diagnosed is not None
    assert shared_records(diagnosed, checked) >= {"divergence", "variation", "formats", "scales"}
    assert (diagnosed.n, diagnosed.labelled_rows) == (checked.n, checked.labelled_rows)


def shared_records(diagnosed: Behaviour, checked: Behaviour) -> set[str]:
    """The records that both have, after comparing them. The diagnosis asks for more factors and formats."""
    shared = set()
    for name in ("divergence", "variation", "examples", "elsewhere"):
        if getattr(diagnosed, name) is not None:
            assert getattr(diagnosed, name) == getattr(checked, name)
            shared.add(name)
    if diagnosed.labelled is not None and checked.labelled is not None:
        assert diagnosed.labelled == msgspec.structs.replace(checked.labelled, tfidf=None)
        shared.add("labelled")
    if diagnosed.scales:
        by_factor = {result.factor: result for result in diagnosed.scales}
        assert [by_factor[result.factor] for result in checked.scales] == list(checked.scales)
        shared.add("scales")
    if diagnosed.formats:
        by_name = {result.name: result for result in diagnosed.formats}
        for result in checked.formats:
            assert by_name[result.name].n > result.n or by_name[result.name] == result
        shared.add("formats")
    return shared
