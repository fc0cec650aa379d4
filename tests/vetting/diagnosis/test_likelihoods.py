"""Measured numbers as weights: the directions that must hold whatever the thresholds are."""

from __future__ import annotations

import math

import pytest

from lorica.vetting.diagnosis import likelihoods
from lorica.vetting.diagnosis.finding_likelihoods import finding_likelihoods
from lorica.vetting.diagnosis.posterior import NONE
from lorica.vetting.findings import causes, finding

NAN = float("nan")


def best(weights: dict[str, float]) -> str:
    return max(weights, key=lambda cause: weights[cause])


def changed(facts: dict[str, object]) -> dict[str, float]:
    return finding_likelihoods(finding("L342", "changed", facts=facts))


def test_the_scale_that_does_best_tells_in_which_direction_it_is_wrong() -> None:
    over = likelihoods.scale_weights(0.12, over_one=8, over_base=9, ranking_gain=0.2, ranking_z=4)
    under = likelihoods.scale_weights(8.0, over_one=8, over_base=9, ranking_gain=0.2, ranking_z=4)
    assert (best(over), best(under)) == ("over_scaled", "under_scaled")
    assert over["under_scaled"] < -3
    right = likelihoods.scale_weights(1.2, over_one=1, over_base=9, ranking_gain=0.0, ranking_z=0)
    assert right["over_scaled"] < -3
    assert right["under_scaled"] < -3


def test_short_training_is_no_wrong_scale() -> None:
    """Too little confidence with the right order of rows is what few steps leave."""
    weights = likelihoods.scale_weights(3.5, over_one=4, over_base=9, ranking_gain=0.0, ranking_z=0)
    assert weights["under_scaled"] < 1
    assert weights["healthy"] > -1


def test_an_update_that_moves_much_is_not_too_small() -> None:
    weights = likelihoods.scale_weights(64.0, over_one=5, over_base=6, ranking_gain=0.3, ranking_z=4, kl=0.5)
    assert weights["under_scaled"] < 0
    # Nor one that as it is helps nothing: a small step in the right direction helps a little.
    weights = likelihoods.scale_weights(
        12.0, over_one=5, over_base=6, ranking_gain=0.6, ranking_z=4, kl=0.01, here_z=0.3
    )
    assert weights["under_scaled"] < 0
    # Nor one whose effect at the better scale would be beyond all measure.
    weights = likelihoods.scale_weights(180.0, over_one=5, over_base=6, ranking_gain=0.6, ranking_z=4, kl=0.05)
    assert weights["under_scaled"] < 0


def test_the_worse_of_two_explanations_falls() -> None:
    still = likelihoods.rivals_weights(4.0)
    assert max(still["over_scaled"], still["under_scaled"]) < -5 < 0 < still["prompt_mismatch"]
    assert likelihoods.rivals_weights(-4.0) == {"prompt_mismatch": -6.0}
    assert likelihoods.rivals_weights(0.5) == {}


def test_what_moves_another_task_and_not_this_one_was_trained_for_that() -> None:
    assert best(likelihoods.elsewhere_weights(kl_rows=0.0005, kl_probes=0.03)) == "prompt_mismatch"
    assert likelihoods.elsewhere_weights(kl_rows=0.0005, kl_probes=0.03)["under_scaled"] < -5
    # An update that is too small for its own task moves others as much less.
    assert likelihoods.elsewhere_weights(kl_rows=0.0012, kl_probes=0.00003) == {}
    assert likelihoods.elsewhere_weights(kl_rows=0.04, kl_probes=0.16) == {}


def test_all_rows_moved_alike_is_one_answer_for_all() -> None:
    assert best(likelihoods.shift_weights(-2.5, 0.06, 0.14)) == "ignores_input"
    # Hardly trained, and found the commoner answer first; well trained, and prefers one answer.
    assert likelihoods.shift_weights(-0.41, 0.07, 0.11) == {}
    assert likelihoods.shift_weights(-1.8, 1.42, 1.41) == {}


def test_the_opposite_needs_knowledge_of_the_rows() -> None:
    sure = likelihoods.skill_weights(0.03, 0.02, -9.0, 0.6, -0.3)
    assert best(sure) == "inverted"
    assert max(sure["prompt_mismatch"], sure["under_scaled"]) <= -6
    # The base is backwards by itself, and the adapter takes a hundredth of a nat.
    assert likelihoods.skill_weights(0.04, 0.02, -4.6, 0.05, -0.006).get("inverted", 0) <= 0


def test_a_small_edit_of_the_scale_is_an_edit_and_a_large_one_a_wrong_scale() -> None:
    assert best(likelihoods.ratio_weights(2.0)) == "altered"
    assert best(likelihoods.ratio_weights(0.5)) == "altered"
    assert best(likelihoods.ratio_weights(8.0)) == "over_scaled"
    assert best(likelihoods.ratio_weights(1 / 32)) == "under_scaled"
    # Which way it went is known.
    assert likelihoods.ratio_weights(8.0)["under_scaled"] < -5
    assert changed({"changed": {"lora_alpha": [32, 256]}, "scale_factor": 8.0})["under_scaled"] < -5
    assert changed({"changed": {"use_rslora": [False, True]}})["under_scaled"] < 0


def test_when_no_scale_helps_the_scale_is_not_what_is_wrong() -> None:
    weights = likelihoods.scale_weights(0.06, over_one=5, over_base=0.4, ranking_gain=0.1, ranking_z=1)
    assert max(weights.values()) < 0


def test_too_much_confidence_in_the_right_order_speaks_of_hard_labels() -> None:
    weights = likelihoods.scale_weights(0.4, over_one=5, over_base=6, ranking_gain=0.0, ranking_z=0)
    assert best(weights) == "hard_labels"


def test_skill() -> None:
    assert best(likelihoods.skill_weights(0.9, 0.03, 6.0, 0.5)) == "healthy"
    assert best(likelihoods.skill_weights(0.1, 0.03, -6.0, 0.5)) == "inverted"
    # The base orders the rows backwards by itself, and the adapter adds nothing to it.
    assert likelihoods.skill_weights(0.1, 0.03, 0.1, 0.1).get("inverted", 0) < 0
    nothing = likelihoods.skill_weights(0.52, 0.05, 0.3, 0.5)
    assert nothing["healthy"] < -2
    assert nothing["hard_task"] > 0
    # A task that is no ranking has no AUC: the gain over the base decides.
    assert best(likelihoods.skill_weights(NAN, NAN, 6.0, NAN)) == "healthy"


def test_no_change_at_all_leaves_two_causes() -> None:
    weights = likelihoods.change_weights(0.0, 0.0)
    assert weights["no_effect"] == weights["not_applied"] > 2
    assert likelihoods.change_weights(1.0, 0.5)["no_effect"] < -3


def test_formats() -> None:
    assert best(likelihoods.format_weights(8.0, 8.0, 0.1)) == "prompt_mismatch"
    assert likelihoods.format_weights(-3.0, 0.0, 6.0)["prompt_mismatch"] < -3
    assert likelihoods.format_weights(0.5, 0.0, 0.5)["prompt_mismatch"] < 0


def test_inputs_that_do_not_matter() -> None:
    assert best(likelihoods.spread_weights(1e-6, 0.0, 0.1, 0.0, 0.0)) == "ignores_input"
    assert best(likelihoods.spread_weights(0.3, 0.0, 0.1, 1.0, 0.0)) == "ignores_input"
    assert best(likelihoods.spread_weights(0.4, 0.99, 0.1, 0.5, 0.0)) == "hard_labels"
    assert best(likelihoods.spread_weights(0.4, 0.0, 0.1, 0.0, 0.9)) == "hard_labels"
    assert max(likelihoods.spread_weights(0.3, 0.0, 0.1, 0.2, 0.3).values()) < 0
    assert best(likelihoods.input_weights(6.0, 0.2, 6.0)) == "ignores_input"
    assert likelihoods.input_weights(0.1, 8.0, 6.0)["ignores_input"] < -1


def test_the_base_by_alignment() -> None:
    assert best(likelihoods.alignment_weights("mismatch", 0.001)) == "wrong_base"
    assert likelihoods.alignment_weights("match", 0.999)["wrong_base"] < -5
    assert abs(likelihoods.alignment_weights("undecided", 0.5)["wrong_base"]) < 1e-9
    assert likelihoods.alignment_weights("undecided", NAN) == {}
    assert best(likelihoods.rival_weights(1.0, 20.0)) == "wrong_base"


@pytest.mark.parametrize(
    ("reading", "effect", "odd", "cause"),
    [
        ("other_adapter", 8.0, 0.5, "over_scaled"),
        ("other_adapter", 0.12, 0.2, "under_scaled"),
        ("not_applied", 0.0, 1.0, "not_applied"),
    ],
)
def test_canaries_tell_how_much_of_the_effect_arrives(reading: str, effect: float, odd: float, cause: str) -> None:
    assert best(likelihoods.canary_weights(reading, effect, odd, 0.0)) == cause


def test_canaries_tell_a_revision_from_a_stranger() -> None:
    near, far = (likelihoods.canary_weights("other_base", 1.0, 0.2, distance) for distance in (0.3, 9.0))
    assert (best(near), best(far)) == ("wrong_revision", "wrong_base")
    assert max(likelihoods.canary_weights("reproduced", 1.0, 0.0, 0.0).values()) < 0


def test_a_base_that_makes_no_sense() -> None:
    assert best(likelihoods.sense_weights(1.23)) == "tokenizer_mismatch"
    assert best(likelihoods.sense_weights(1.0)) == "wrong_base"
    assert likelihoods.sense_weights(0.3)["tokenizer_mismatch"] < 0


def test_tokens_out_of_their_order() -> None:
    assert likelihoods.token_order_weights(1.0) == {}
    assert best(likelihoods.token_order_weights(0.6)) == "tokenizer_mismatch"


def test_all_speak_of_known_causes() -> None:
    found = [
        likelihoods.repair_weights(5, 5, True),
        likelihoods.partner_weights(40, 0.6, 10),
        likelihoods.partner_weights(40, 0.6, 0),
        likelihoods.learnable_weights(0.9, 0.03),
        likelihoods.learnable_weights(0.5, 0.05),
        likelihoods.kind_weights(4.0, 0.3, 6, 0.02),
    ]
    for weights in found:
        assert weights
        assert set(weights) <= {*causes(), NONE}
        assert all(math.isfinite(value) for value in weights.values())
