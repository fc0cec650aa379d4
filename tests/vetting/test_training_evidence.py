from __future__ import annotations

import random
from typing import Any

import pytest
from tests.vetting.specimens import codes, pairs, specimen

from lorica.vetting.claims.training_evidence import check_evidence, training_evidence

PLAIN = pairs({"self_attn.q_proj": (32, 32)}, range(2))


def documents(**named: Any) -> dict[str, Any]:
    return {"documents": {f"{name}.json": value for name, value in named.items()}}


def test_evidence_of_a_trainer() -> None:
    logs: list[dict[str, Any]] = [{"step": i, "loss": 2 - i / 1000, "learning_rate": 1e-4} for i in range(1, 1001)]
    logs += [{"step": 500, "eval_loss": 1.6}, {"step": 1000, "eval_loss": 1.4, "eval_auc": 0.8, "eval_runtime": 9.0}]
    state = {"log_history": logs, "global_step": 1000, "max_steps": 1000, "epoch": 2.0, "best_metric": 1.4}
    found = training_evidence(specimen(PLAIN, name="run-fold2", card="# x", **documents(trainer_state=state))[0])
    assert len(found.losses) == 200
    assert found.losses[0][0] == 1
    assert found.losses[-1] == (1000, 1.0)
    assert (found.loss_first, found.loss_last, found.loss_lowest) == (1.999, 1.0, 1.0)
    assert (found.eval_last, found.eval_lowest, found.eval_lowest_step) == (1.4, 1.4, 1000)
    assert found.metrics == {"loss": 1.4, "auc": 0.8}
    assert (found.steps, found.finished, found.epochs, found.rate) == (1000, True, 2.0, 1e-4)
    assert (found.held_out, found.fold, found.card, found.dropout) == (True, 2, True, 0.0)


def test_evidence_of_lorica() -> None:
    record = {
        "status": "finished",
        "manifest": {"training.seed": "7", "training.epochs": "6", "lora.lora_dropout": "0.1"},
        "result": {
            "steps": 24,
            "best_step": 12,
            "base_loss": 3.5,
            "trained_loss": 3.2,
            "train_loss": 2.9,
            "eval_loss": 3.1,
        },
        "rows": {"held_out": 7, "training": 20},
    }
    found = training_evidence(specimen(PLAIN, **documents(training=record))[0])
    assert (found.seed, found.epochs, found.steps, found.finished) == (7, 6.0, 24, True)
    assert (found.held_out, found.held_out_rows, found.training_rows) == (True, 7, 20)
    assert (found.base_loss, found.trained_loss, found.eval_lowest_step) == (3.5, 3.2, 12)
    assert training_evidence(specimen(PLAIN)[0]).steps is None


def test_a_checkpoint_is_described_as_of_its_own_step() -> None:
    manifest = {"training.epochs": "8"}
    result = {
        "steps": 200,
        "best_step": 125,
        "trained_loss": 0.2,
        "base_loss": 0.5,
        "train_loss": 0.1,
        "eval_loss": 0.3,
    }
    record = {"status": "finished", "manifest": manifest, "result": result}
    whole = training_evidence(specimen(PLAIN, name="step-200", **documents(training=record))[0])
    assert (whole.steps, whole.epochs, whole.loss_last, whole.finished) == (200, 8.0, 0.1, True)
    one, _ = specimen(PLAIN, name="step-100", **documents(training=record))
    found = training_evidence(one)
    assert (found.steps, found.epochs, found.loss_last, found.trained_loss) == (100, 4.0, None, None)
    assert (found.base_loss, found.finished) == (0.5, None)
    (said,) = check_evidence(one, found)
    assert (said.code, said.facts) == ("L174", {"best": 125, "here": 100})


def _curve(losses: list[float], *, begin: int = 1, every: int = 1) -> list[str]:
    """Codes of the findings on a trainer's log of these losses."""
    logs = [{"step": begin + i * every, "loss": loss} for i, loss in enumerate(losses)]
    one = specimen(PLAIN, **documents(trainer_state={"log_history": logs}))[0]
    return codes(check_evidence(one, training_evidence(one)), "warn")


def _noise(level: float, spread: float, count: int, seed: int = 0) -> list[float]:
    rng = random.Random(seed)
    return [level + rng.gauss(0, spread) for _ in range(count)]


EARLY = [1.39, 1.38, 1.34, 0.84, 0.44, 0.36]


@pytest.mark.parametrize("seed", range(5))
def test_a_curve_that_falls_early_and_is_then_flat_has_fallen(seed: int) -> None:
    assert _curve(EARLY + _noise(0.25, 0.02, 500, seed)) == []
    assert _curve(EARLY + _noise(0.25, 0.12, 500, seed)) == []  # noisy
    assert _curve(EARLY + [0.25 + i * 1e-5 for i in range(500)]) == []  # creeping up afterwards
    assert _curve([2.4, *_noise(1.1, 0.1, 3000, seed)]) == []  # in one step
    assert _curve([1.4] * 12 + _noise(1.0, 0.2, 1000, seed)) == []  # after a warm-up
    assert _curve([3.0, 0.41, 0.4, 0.4, 0.41, 0.4, 0.41]) == []  # a log of few entries


@pytest.mark.parametrize("seed", range(5))
def test_a_flat_curve_has_not_fallen(seed: int) -> None:
    assert _curve(_noise(1.386, 0.002, 500, seed)) == ["L171"]
    assert _curve(_noise(1.386, 0.03, 2000, seed)) == ["L171"]
    assert _curve([1.386 + i * 1e-5 for i in range(600)]) == ["L171"]
    assert _curve([2.0] * 7) == ["L171"]
    assert _curve([1.386, 1.36, *_noise(1.386, 0.03, 500, seed)]) == ["L171"]


def test_a_log_that_begins_in_the_middle_says_nothing_of_the_fall() -> None:
    """A resumed training of which only the later log was kept."""
    flat = _noise(0.25, 0.01, 100)
    assert _curve(flat, begin=5010, every=10) == []
    assert _curve(flat, begin=10, every=10) == ["L171"]
    assert _curve(EARLY + flat + flat) == []
    assert _curve([0.25, 0.24, 0.26]) == []  # too few to tell


def test_a_curve_that_falls_and_rises_again_has_risen() -> None:
    assert _curve(EARLY + _noise(0.25, 0.01, 100) + _noise(0.9, 0.01, 100)) == ["L172"]
