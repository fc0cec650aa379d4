"""Trials and seconds on disk: nothing is lost or doubled by a kill, and a pause does not count."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lorica.errors import DataError
from lorica.tuning.trial_store import TRIALS_NAME, Trial, TrialStore, best_of


def finished(number: int, value: float) -> Trial:
    return Trial(
        number=number,
        settings={"lora.r": 8, "lora.target_modules": ["q_proj"]},
        state="finished",
        value=value,
        curve=((0.5, 0.7), (1.0, 0.6)),
    )


def test_trials_are_read_back_as_they_were(tmp_path: Path) -> None:
    store = TrialStore(tmp_path)
    trials = [finished(0, 0.8), Trial(number=1, settings={}, state="failed", problem="loss")]
    for trial in trials:
        store.add(trial)
    with (tmp_path / TRIALS_NAME).open("ab") as log_file:
        log_file.write(b'{"number":2,"settings":{"lora.r"')  # a kill
    again = TrialStore(tmp_path)
    assert list(again.all) == trials
    again.add(finished(2, 0.9))
    assert [trial.number for trial in TrialStore(tmp_path).finished] == [0, 2]


def test_a_trial_that_was_cut_is_replaced_when_it_goes_on(tmp_path: Path) -> None:
    store = TrialStore(tmp_path)
    store.add(finished(0, 0.8))
    store.add(Trial(number=1, settings={"lora.r": 4}, state="cut"))
    assert (len(store.all), len(store.ended)) == (2, 1)
    store.add(finished(1, 0.9))
    again = TrialStore(tmp_path)
    assert [trial.state for trial in again.all] == ["finished", "finished"]


@pytest.mark.parametrize("numbers", [(1,), (0, 2), (0, 0)])
def test_trials_that_do_not_follow_are_refused(tmp_path: Path, numbers: tuple[int, ...]) -> None:
    lines = [json.dumps({"number": number, "settings": {}, "state": "pruned"}) for number in numbers]
    (tmp_path / TRIALS_NAME).write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError, match=f"trial {numbers[-1]} does not follow") as raised:
        TrialStore(tmp_path)
    assert f"delete {tmp_path} with all that was trained" in raised.value.fix, "what is left would be believed"


def test_the_best_is_the_first_of_equals_by_the_metric_s_direction() -> None:
    trials = (finished(0, 0.8), finished(1, 0.9), finished(2, 0.9), Trial(number=3, settings={}, state="pruned"))
    highest, lowest = best_of(trials, maximize=True), best_of(trials, maximize=False)
    assert (highest, lowest) == (trials[1], trials[0])
    assert best_of(trials[3:], maximize=True) is None
