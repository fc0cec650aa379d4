"""The median rule on shares of the updates."""

from __future__ import annotations

from lorica.tuning.pruning import comparable_curves, is_hopeless
from lorica.tuning.trial_store import Curve, Trial

FORMER: list[Curve] = [((0.5, loss), (1.0, loss / 2)) for loss in (1.0, 0.8, 0.6, 0.4)]  # median at half: 0.7


def test_worse_than_half_of_the_finished_ones_is_hopeless() -> None:
    assert is_hopeless(((0.5, 0.71),), FORMER)
    assert not is_hopeless(((0.5, 0.69),), FORMER)


def test_the_lowest_loss_so_far_counts_of_both() -> None:
    assert not is_hopeless(((0.25, 0.5), (0.5, 9.0)), FORMER)
    rising: list[Curve] = [((0.25, 0.3), (0.5, 9.0)) for _ in range(4)]
    assert is_hopeless(((0.5, 0.31),), rising)


def test_the_share_of_the_updates_decides_what_is_compared() -> None:
    assert not is_hopeless(((0.4, 9.0),), FORMER), "none of them was evaluated so early"
    assert is_hopeless(((0.6, 0.71),), FORMER), "what they had at half holds until they were evaluated again"


def test_few_finished_trials_say_nothing_and_a_trial_at_its_end_is_not_ended() -> None:
    assert not is_hopeless(((0.5, 9.0),), FORMER[:3])
    assert not is_hopeless(((1.0, 9.0),), FORMER)
    assert not is_hopeless((), FORMER)


def test_losses_on_other_answers_are_not_compared() -> None:
    def trial(number: int, method: str, state: str = "finished") -> Trial:
        settings = {"task.method": method, "lora.r": number}
        return Trial(number=number, settings=settings, state=state, curve=FORMER[0])  # type: ignore[arg-type]

    trials = [trial(0, "choice"), trial(1, "generate"), trial(2, "choice", "pruned")]
    assert comparable_curves(trials, {"task.method": "choice", "lora.r": 64}) == [FORMER[0]]
    assert len(comparable_curves(trials, {"lora.r": 64})) == 0
