"""Suggestions are a function of the seed and of the trials that ended, and learn from them."""

from __future__ import annotations

import math
from typing import Any

import pytest

from lorica.errors import MissingExtraError
from lorica.tuning.dimensions import Dimension, choices, number_range
from lorica.tuning.optuna_study import importances, load_optuna, suggest
from lorica.tuning.trial_store import Trial

SPACE = (
    number_range("training.learning_rate", 1e-5, 1e-1),
    choices("lora.r", (4, 8, 16)),
    choices("task.style", ("plain", "structured")),
    choices("lora.target_modules", (["q_proj"], "all-linear")),
)


def value_of(settings: dict[str, Any]) -> float:
    """Best at a learning rate of 1e-3; the rank matters a little, the rest nothing."""
    rate, rank = float(settings["training.learning_rate"]), int(settings["lora.r"])
    return 1 - 0.2 * abs(math.log10(rate) + 3) + 0.001 * rank


def search(count: int, *, seed: int = 0, space: tuple[Dimension, ...] = SPACE) -> list[Trial]:
    trials: list[Trial] = []
    while len(trials) < count:
        settings = suggest(space, trials, seed=seed, maximize=True)
        assert settings is not None
        trials.append(Trial(number=len(trials), settings=settings, state="finished", value=value_of(settings)))
    return trials


def test_the_same_trials_and_seed_suggest_the_same() -> None:
    trials = search(12)
    assert search(12) == trials
    for number in (0, 5, 11):
        assert suggest(SPACE, trials[:number], seed=0, maximize=True) == trials[number].settings
    assert suggest(SPACE, trials, seed=1, maximize=True) != suggest(SPACE, trials, seed=0, maximize=True)


@pytest.mark.parametrize("seed", [0, 1, 42])
def test_the_first_suggestions_are_spread(seed: int) -> None:
    first = [trial.settings for trial in search(6, seed=seed)]
    assert sorted(settings["lora.r"] for settings in first) == [4, 4, 8, 8, 16, 16]
    assert sorted(settings["task.style"] for settings in first) == ["plain"] * 3 + ["structured"] * 3
    parts = sorted(int((math.log10(settings["training.learning_rate"]) + 5) / 4 * 6) for settings in first)
    assert parts == [0, 1, 2, 3, 4, 5]


def test_it_does_better_than_chance() -> None:
    late = [trial.value or 0 for trial in search(24)[16:]]
    random_rates = [1 - 0.2 * abs(math.log10(1e-5 * 10 ** (4 * step / 99)) + 3) for step in range(100)]
    assert sum(late) / len(late) > sum(random_rates) / 100 + 0.02


def test_values_stay_in_the_space() -> None:
    for trial in search(10, seed=3):
        assert all(dimension.holds(trial.settings[dimension.key]) for dimension in SPACE)


def test_nothing_is_tried_twice_and_a_finite_space_ends() -> None:
    space = (choices("lora.r", (4, 8)), choices("task.style", ("plain", "structured", "contrastive")))
    trials: list[Trial] = []
    while (settings := suggest(space, trials, seed=0, maximize=True)) is not None:
        assert settings not in [trial.settings for trial in trials]
        trials.append(Trial(number=len(trials), settings=settings, state="failed"))
    assert len(trials) == 6


def test_settings_outside_the_space_and_pruned_trials_do_no_harm() -> None:
    outside = Trial(number=0, settings={"training.learning_rate": 0.5}, state="finished", value=0.9)
    pruned = Trial(
        number=1,
        settings={
            "training.learning_rate": 1e-2,
            "lora.r": 4,
            "task.style": "plain",
            "lora.target_modules": ["q_proj"],
        },
        state="pruned",
        curve=((0.3, 0.7),),
    )
    assert suggest(SPACE, [outside, pruned], seed=0, maximize=False) is not None


def test_importance_names_what_mattered() -> None:
    shares = importances(SPACE, search(20))
    assert next(iter(shares)) == "training.learning_rate"
    assert sum(shares.values()) == pytest.approx(1)
    assert importances(SPACE, search(20)) == shares
    assert importances(SPACE, search(5)) == {}, "too few"


def test_without_optuna_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda module: None)
    with pytest.raises(MissingExtraError, match=r"lorica tune needs the package 'optuna'(.|\n)*lorica\[tune\]"):
        load_optuna()


CONDITIONAL = (
    Dimension("lora.r", (4, 8, 16), needs=("training.method", ("lora",))),
    choices("training.method", ("full", "lora")),
    Dimension(
        "training.learning_rate",
        low=0.1,
        high=10.0,
        logarithmic=True,
        origin_key="training.method",
        origins={"full": 2e-5, "lora": 1e-3},
    ),
)


def conditional_value(settings: dict[str, Any]) -> float:
    """LoRA at twice its learning rate and rank 16 is best."""
    is_lora = bool(settings["training.method"] == "lora")
    multiple = float(settings["training.learning_rate"]) / (1e-3 if is_lora else 2e-5)
    distance = abs(math.log10(multiple / 2))
    return 0.8 + 0.1 * is_lora - 0.1 * distance + 0.001 * float(settings.get("lora.r", 0))


def test_settings_that_need_others_are_learned_from_the_trials_that_have_them() -> None:
    trials: list[Trial] = []
    while len(trials) < 24:
        settings = suggest(CONDITIONAL, trials, seed=1, maximize=True)
        assert settings is not None
        assert ("lora.r" in settings) == (settings["training.method"] == "lora")
        assert settings not in [trial.settings for trial in trials]
        trials.append(Trial(number=len(trials), settings=settings, state="finished", value=conditional_value(settings)))
    for number in (7, 15, 23):
        assert suggest(CONDITIONAL, trials[:number], seed=1, maximize=True) == trials[number].settings
    late = [trial.settings for trial in trials[14:]]
    assert sum(settings["training.method"] == "lora" for settings in late) > 6
    shares = importances(CONDITIONAL, trials)
    assert set(shares) == {"training.method", "training.learning_rate"}, "of the keys that all trials set"
