"""What a run says of itself: that it diverged, overfitted or changed nothing, and advice that leads on."""

from __future__ import annotations

import json
import math
import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training import tiny as tiny_module
from tests.training.tiny import Recorder, rows, run, tiny_decoder

from lorica.config.schema import TrainingConfig
from lorica.errors import BaseNotFiniteError, NotFiniteError, ResumeError
from lorica.records import Encoded
from lorica.training import loop as loop_module
from lorica.training import step as step_module
from lorica.training.outcome import Losses, advice, judge_outcome, lower_rate
from lorica.training.types import Example

QUICK = TrainingConfig(epochs=4, batch_size=4, gradient_accumulation_steps=1, learning_rate=5e-3, eval_steps=100)


def _blow_up(monkeypatch: pytest.MonkeyPatch, first: int) -> None:
    """As if the weights were useless from this update on."""
    real = step_module.evaluate

    def evaluate(learner: Any, batches: Any, *, step: int, warming_up: bool = False) -> float:
        return real(learner, batches, step=step, warming_up=warming_up) * (50 if step >= first else 1)

    monkeypatch.setattr(loop_module, "evaluate", evaluate)


@pytest.mark.parametrize("held", [0, 7])
def test_a_diverged_training_says_so_with_figures(held: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _blow_up(monkeypatch, 1)
    listener = Recorder()
    validation = rows(7, seed=1, prefix="held")[:held]
    result = run(tmp_path / "a", replace(QUICK, learning_rate=0.03), listener=listener, validation=validation)
    assert (result.outcome, result.useful) == ("diverged", False)
    said = listener.notes[-1]
    assert said == result.advice
    assert f"loss {result.seen_base:.4f} (base model) -> {result.seen_last:.4f} on its own training rows" in said
    assert f"gradient norm up to {result.max_grad_norm:.3g} (update " in said
    assert "learning rate 0.03;" in said
    assert "do not use it. Train again with training.learning_rate=0.001, into another run_dir" in said
    assert "raise" not in said
    record = json.loads((tmp_path / "a" / "training.json").read_text())["result"]
    assert (record["outcome"], record["advice"]) == ("diverged", said)


def test_what_was_best_before_it_diverged_is_what_is_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _blow_up(monkeypatch, 12)
    result = run(tmp_path / "a", QUICK)
    assert (result.outcome, result.useful, result.best_step) == ("diverged", True, 10)
    assert "what is saved is update 10, from before, which is better than the base model" in result.advice


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(
    ("count", "batch_size", "rate"), [(1, 1, 5e-3), (3, 1, 5e-3), (8, 1, 2e-3), (20, 4, 5e-3), (20, 1, 1e-2)]
)
def test_healthy_noisy_runs_are_not_called_diverged(
    count: int, batch_size: int, rate: float, seed: int, tmp_path: Path
) -> None:
    settings = replace(QUICK, epochs=3, batch_size=batch_size, learning_rate=rate, seed=seed)
    for held in ([], rows(2, seed=seed + 50, prefix="held")):
        folder = tmp_path / str(len(held))
        result = run(folder, settings, examples=rows(count, seed=seed), validation=held)
        assert result.outcome != "diverged", (result.seen_base, result.seen_last)


def test_rows_learned_by_heart_are_not_called_diverged(tmp_path: Path) -> None:
    """Answers without a rule: what is learned of some says nothing of others."""
    chance = random.Random(3)

    def noise(prefix: str, count: int) -> list[Example]:
        return [
            Example(f"{prefix}{i}", Encoded((*(chance.randrange(8, 64) for _ in range(6)), chance.randrange(8, 64)), 6))
            for i in range(count)
        ]

    settings = replace(QUICK, epochs=30, learning_rate=2e-2, eval_steps=1000)
    result = run(tmp_path / "a", settings, examples=noise("a", 6), validation=noise("b", 20))
    assert result.seen_last < result.seen_base
    assert result.outcome in ("overfitted", "better")


def test_each_outcome_has_its_own_words() -> None:
    folder = Path("runs/a")

    def said(*losses: float, rate: float = 0.02) -> tuple[str, str]:
        both = Losses(*losses)
        outcome = judge_outcome(both)
        return outcome, advice(
            outcome, both, learning_rate=rate, gradient_norm=437.2, norm_step=7, best_step=3, folder=folder
        )

    assert said(2.0, 1.0, 2.0, 1.0) == ("better", "")
    outcome, text = said(2.0, 2.5, 2.1, 0.3, rate=1e-3)
    assert outcome == "overfitted"
    assert "by heart (2.1000 -> 0.3000): fewer training.epochs" in text
    outcome, text = said(2.0, 2.5, 2.1, 0.3)  # one epoch of such a rate is as bad
    assert outcome == "overfitted"
    assert "by heart (2.1000 -> 0.3000): train again with training.learning_rate=0.001" in text
    outcome, text = said(2.0, 2.0, 2.0, 2.0, rate=1e-3)
    assert outcome == "no better"
    assert text.endswith("train longer, or raise training.learning_rate")
    outcome, text = said(2.0, 2.0, 2.0, 2.0)
    assert outcome == "no better"
    assert "train again with training.learning_rate=0.001" in text, "a high rate is not to be raised"
    outcome, text = said(2.0, 2.3, 2.0, 2.3)
    assert outcome == "no better"
    assert "training.learning_rate=0.001" in text
    assert "raise" not in text
    assert said(0.001, 0.02, 0.001, 0.02)[0] == "no better"  # a hundredth of a nat is noise


@pytest.mark.parametrize(("rate", "lower"), [(1, 1e-3), (0.05, 1e-3), (2e-3, 2e-4), (1e-4, 1e-5)])
def test_a_lower_rate_is_one_that_can_work(rate: float, lower: float) -> None:
    assert lower_rate(rate) == pytest.approx(lower)


def test_a_loss_that_is_not_finite_says_what_is_kept_and_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = step_module.update

    def breaking(*arguments: Any, **named: Any) -> Any:
        if named["step"] == 12:
            raise NotFiniteError("the loss is not finite at update 12", fix="lower training.learning_rate")
        return real(*arguments, **named)

    monkeypatch.setattr(loop_module, "update", breaking)
    with pytest.raises(NotFiniteError) as caught:
        run(tmp_path / "a", QUICK)
    text = str(caught.value)
    assert "gradient norm up to" in text
    assert re.search(r"update (5|10) did best on the held-out rows .*checkpoints/best-\1", text)
    assert "-> lower training.learning_rate: train again with training.learning_rate=0.0005, into" in text
    record = json.loads((tmp_path / "a" / "training.json").read_text())
    assert record["diverged"].startswith("the loss is not finite at update 12")
    with pytest.raises(ResumeError, match=r"holds a run that diverged: the loss.*\n.*lower training\.learning_rate"):
        run(tmp_path / "a", QUICK)  # going on would end where it ended
    with pytest.raises(NotFiniteError, match="nothing worth using is kept"):
        run(tmp_path / "b", QUICK, validation=[])


def test_a_base_model_that_fails_leaves_the_folder_to_a_better_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> Any:
        decoder = tiny_decoder()
        with torch.no_grad():
            decoder.get_parameter("model.layers.0.self_attn.q_proj.weight")[0, 0] = math.nan
        return decoder

    nothing: list[Example] = []
    for validation in (nothing, None):
        with monkeypatch.context() as patched:
            patched.setattr(tiny_module, "tiny_decoder", broken)
            with pytest.raises(BaseNotFiniteError, match="base model itself fails"):
                run(tmp_path / "a", QUICK, validation=validation)
        assert not (tmp_path / "a").exists() or not list((tmp_path / "a").iterdir())
    assert run(tmp_path / "a", QUICK).outcome == "better"
