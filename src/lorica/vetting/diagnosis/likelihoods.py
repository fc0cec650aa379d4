"""From measured numbers to weights: small pure functions, each with the reason for its thresholds.

Weights are natural-log likelihood ratios; see `posterior.py`. The thresholds on z are those of a two-sided test: 2 is a
hint, 3 is beyond chance even after a dozen looks. Where a threshold comes from trials, the trials are named.
"""

from __future__ import annotations

import math

from lorica.vetting.measure.measurements import Elsewhere
from lorica.vetting.measure.quality import HINT, SURE

Weights = dict[str, float]

# Optimal scales of adapters that are as they were trained lie between these: 0.7 to 1.2 on held-out and on training
# rows (lorica_tiny, ranks 8 and 16, 160 rows); overtrained ones are a little too confident, hence the lower bound.
SCALE_LOW, SCALE_HIGH = 0.5, 2.0
# Beyond these no training explains the optimum; a lost rsLoRA flag moves it by sqrt(r), so by 2.8 at rank 8.
SCALE_FAR_LOW, SCALE_FAR_HIGH = 0.36, 2.8
# Nats of divergence that an update of the right size makes (0.3 to 0.7), and an eighth of it does not (0.01 to 0.03).
MUCH = 0.15
# Divergence grows with the square of the scale while it is small; no adapter has more nats than this at its own scale.
MOST = 30.0
# What AUC or accuracy must gain before a better scale is more than a better calibration.
RANKING = 0.03
# Nats per row. What adapters trained on inverted labels take from the right answers is 0.3 to 0.6, what one for another
# task does 0.01.
HARMED = 0.05


def scale_weights(
    best_factor: float,
    over_one: float,
    over_base: float,
    ranking_gain: float,
    ranking_z: float,
    *,
    kl: float = math.nan,
    here_z: float = math.inf,
) -> Weights:
    """best_factor: on the update, under which the gold answers are most probable. over_one: z of that scale against
    the adapter as it is. over_base: z of that scale against the base. ranking_gain: what AUC or accuracy gains by it;
    ranking_z: in standard errors, where AUC is then better than chance. kl: nats by which the adapter as it is diverges
    from the base; here_z: z of the adapter as it is against the base.
    """
    if over_base < SURE and ranking_z < SURE:
        # No scale helps, so the scale is not what is wrong.
        return {"over_scaled": -3.0, "under_scaled": -3.0, "healthy": -2.0}
    if SCALE_LOW <= best_factor <= SCALE_HIGH:
        return {"over_scaled": -4.0, "under_scaled": -4.0, "no_effect": -2.0, "wrong_base": -2.0}
    if over_one < HINT:
        return {"over_scaled": -2.0, "under_scaled": -2.0, "no_effect": -2.0, "wrong_base": -2.0}
    direction, opposite = ("over_scaled", "under_scaled") if best_factor < 1 else ("under_scaled", "over_scaled")
    if best_factor > 1 and (kl > MUCH or kl * best_factor**2 > MOST or here_z < HINT):
        # An update that is far too small moves little, and that little surely in the right direction. One that moves
        # much, or as it is helps nothing, does better elsewhere by chance.
        return {"under_scaled": -2.0, "over_scaled": -1.0}
    working_weights = {opposite: -5.0, "wrong_base": -3.0, "broken_weights": -2.0, "no_effect": -3.0}
    if best_factor > 1 and ranking_gain < -RANKING:
        # Giving an update its true size back does not spoil the order of the rows.
        return working_weights | {"under_scaled": -1.0, "healthy": -0.5}
    if ranking_gain < RANKING:
        # Only the confidence is mended, not the order of the rows. Too little of it is what short training leaves, and
        # too much what training to 0 and 1 does.
        excess = best_factor < SCALE_FAR_LOW / 2 or best_factor > SCALE_FAR_HIGH * 2
        working_weights |= {"hard_labels": 2.0} if best_factor < 1 else {}
        return working_weights | {direction: 3.0 if excess else 1.5 if best_factor < 1 else 0.5, "healthy": -0.5}
    is_far = (best_factor <= SCALE_FAR_LOW or best_factor >= SCALE_FAR_HIGH) and over_one >= SURE
    return working_weights | {direction: 6.0 if is_far else 2.0, "healthy": -3.0 if is_far else -1.0, "hard_task": -3.0}


def ratio_weights(scale_ratio: float) -> Weights:
    """scale_ratio: the scale of the config over that of training, which the record or the passport states."""
    unsound = {"healthy": -5.0, "hard_task": -5.0}
    if 0.99 <= scale_ratio <= 1.01:
        return unsound | {"altered": 4.0}
    direction, opposite = ("over_scaled", "under_scaled") if scale_ratio > 1 else ("under_scaled", "over_scaled")
    unsound[opposite] = -8.0
    # An edit of a factor of two may be meant, and changes little; what spoils the answers is a large one.
    is_large = max(scale_ratio, 1 / scale_ratio) >= 6
    return unsound | ({direction: 6.5, "altered": 4.0} if is_large else {"altered": 6.0, direction: 4.0})


def skill_weights(auc: float, error: float, gain_z: float, base_auc: float, gain: float = -math.inf) -> Weights:
    """auc: of the adapter's answers, error: its standard error (nan for tasks that are no ranking). gain: how much
    more probable the gold answers are than under the base alone, in nats per row; gain_z: over its standard error.
    base_auc: of the base.
    """
    z = (auc - 0.5) / error if error > 0 else gain_z
    # Against the base, in ranking: its own error is that of the adapter's about twice over.
    risen_z = (auc - base_auc) / (2 * max(error, 0.02)) if error > 0 and base_auc == base_auc else 0.0
    if z >= SURE and (gain_z >= HINT or risen_z >= SURE):
        # A wrong base, broken weights or missing names would not make right answers more probable.
        working_weights = {"not_applied": -5.0, "unsupported": -3.0}
        working_weights |= {"no_effect": -6.0, "inverted": -7.0, "wrong_base": -2.5}
        is_strong = not error > 0 or auc >= 0.75
        healthy_weight = 2.5 if is_strong else 1.0
        return working_weights | {
            "healthy": healthy_weight,
            "ignores_input": -5.0 if is_strong else -1.0,
            "hard_task": -3.0 if is_strong else 0.0,
            "tokenizer_mismatch": -0.6 * healthy_weight,
            "incomplete": -0.4 * healthy_weight,
            "altered": -0.4 * healthy_weight,
            "broken_weights": -1.0 - healthy_weight,
            "prompt_mismatch": -1.0,
        }
    # The base itself may order the rows backwards; the adapter is to blame only for what it adds to that.
    if z <= -SURE and (risen_z <= -SURE or (gain_z <= -HINT and gain <= -HARMED and risen_z <= 0)):
        refuted = dict.fromkeys(("broken_weights", "ignores_input"), -2.0) | {"wrong_base": -1.0}
        # To answer the opposite it must know the rows, as they are asked and at its scale: what is far too small, or
        # does not know the prompts, leaves the base's order.
        refuted |= dict.fromkeys(("prompt_mismatch", "under_scaled"), -6.0)
        return refuted | {"inverted": 6.0, "no_effect": -5.0, "not_applied": -4.0, "healthy": -7.0, "hard_task": -5.0}
    if z < HINT and gain_z < SURE:
        # On a relative of its base it would still do something of what it learned.
        failing = {"healthy": -4.0, "inverted": -3.0, "over_scaled": -0.5, "under_scaled": -0.5, "wrong_revision": -1.5}
        return failing | {"hard_task": 1.0, "wrong_base": 1.0, "broken_weights": 0.5, "prompt_mismatch": 0.5}
    return {"inverted": -2.0, "no_effect": -2.0, "not_applied": -2.0}


def change_weights(changed: float, kl: float) -> Weights:
    """changed: share of rows whose probabilities differ from the base's at all. kl: mean divergence in nats."""
    if changed == 0:
        return {"no_effect": 3.0, "not_applied": 3.0, "healthy": -7.0, "hard_task": -6.0, "over_scaled": -6.0}
    weights = {"not_applied": -4.0}
    if kl < 1e-5:
        return weights | {"no_effect": 2.5, "under_scaled": 2.0, "healthy": -3.0}
    return weights | {"no_effect": -5.0}


def rivals_weights(z: float) -> Weights:
    """z: of the gold answers in the best other format, as it is or at the best scale, against the format in use at the
    best scale. Where the scale is what is wrong, the format in use at the right scale is the best of all."""
    if z >= HINT:
        return {"over_scaled": -6.0, "under_scaled": -6.0, "prompt_mismatch": 1.0}
    if z <= -HINT:
        return {"prompt_mismatch": -6.0}
    return {}


def elsewhere_weights(kl_rows: float, kl_probes: float) -> Weights:
    """kl_rows, kl_probes: nats by which the adapter's answers diverge from the base's, on the rows and on shipped
    probes of another task. Both grow alike with the scale, so an update that is too small leaves their ratio."""
    if not Elsewhere("", kl_rows, kl_probes).belongs:
        return {}
    refuted = dict.fromkeys(("no_effect", "inverted", "ignores_input", "hard_labels", "not_applied", "altered"), -4.0)
    refuted |= dict.fromkeys(("wrong_base", "healthy", "hard_task"), -4.0)
    refuted |= {"over_scaled": -4.0, "under_scaled": -6.0, "tokenizer_mismatch": -1.0}
    return refuted | {"prompt_mismatch": 7.0, "broken_weights": -2.0, "wrong_revision": -2.0}


def shift_weights(shift: float, spread: float, change_spread: float) -> Weights:
    """shift: of the mean log-odds over the rows, from base to adapter. spread: standard deviation of the adapter's
    log-odds. change_spread: of the change of each row's.

    An adapter trained on one label moves all rows alike: shift over change_spread is 10 to 30, and the spread left
    0.04 to 0.09. It is at most 3.7 for healthy adapters, hardly trained ones among them, and those of other faults.
    """
    if abs(shift) >= 1.0 and abs(shift) >= 6 * change_spread and spread <= 0.25:
        refuted = dict.fromkeys(("inverted", "under_scaled", "prompt_mismatch", "hard_labels"), -3.0)
        return refuted | {"ignores_input": 5.0, "healthy": -6.0, "hard_task": -1.0, "wrong_revision": -2.0}
    return {}


def kind_weights(factor: float, gain: float, z: float, next_gain: float) -> Weights:
    """factor: on the update of one kind of module, whose gain in nats per row is the largest. next_gain: the largest
    of another kind in the same direction; a scale of all is another matter."""
    if z >= SURE + 0.5 and gain >= 0.08 and gain >= 3 * max(next_gain, 0.0):
        towards = "over_scaled" if factor < 1 else "under_scaled"
        return {towards: 3.0, "healthy": -2.0, "hard_task": -1.0, "altered": 0.5}
    return {}


def format_weights(margin_z: float, gain_z: float, here_z: float, ranking_z: float = 0.0) -> Weights:
    """margin_z: the best other format against the one in use, in z of the gold answers' log-probability. gain_z: the
    adapter against the base in that format. here_z: the same in the format in use. ranking_z: AUC in that format
    against AUC in the one in use; 0 where there is none, or where it is no better than chance.
    """
    if ranking_z >= SURE or (margin_z >= SURE and gain_z >= SURE):
        # Weights, base and scale are then those that this other format was trained with.
        elsewhere = {"healthy": -4.0, "hard_task": -5.0, "wrong_base": -4.0, "broken_weights": -4.0, "inverted": -2.0}
        elsewhere |= {"over_scaled": -3.0, "under_scaled": -3.0, "ignores_input": -2.0}
        return elsewhere | {"prompt_mismatch": 6.0 if ranking_z >= SURE or here_z < gain_z else 2.0}
    if (margin_z >= HINT and gain_z >= SURE) or ranking_z >= HINT:
        return {"prompt_mismatch": 1.5, "healthy": -0.5}
    if here_z >= SURE:
        return {"prompt_mismatch": -5.0}
    # It is no better under any of them; but not every format that exists was tried, and no other task.
    return {"prompt_mismatch": -0.5}


def repair_weights(gain_z: float, auc_z: float, changed: bool) -> Weights:
    """What a mended copy does to causes that mending could not help. gain_z: of the copy over the base."""
    if gain_z >= SURE or auc_z >= SURE:
        return {"broken_weights": -4.0, "wrong_base": -4.0, "wrong_size": -4.0, "no_effect": -5.0, "hard_task": -4.0}
    return {"no_effect": -2.0} if changed else {"no_effect": 3.0}


def partner_weights(judged: int, own_correlation: float, mismatched: int) -> Weights:
    """own_correlation: median correlation of the halves of a pair. mismatched: pairs whose half clearly goes with
    another module's.

    On adapters trained here every pair of 42 is its own best partner (median 0.67; strangers 0.00 with a deviation of
    0.09), so two of them mismatched are no accident.
    """
    if mismatched >= 2:
        return {"broken_weights": 7.0, "healthy": -6.0, "hard_task": -5.0, "wrong_base": -3.0, "wrong_size": -1.0}
    if judged >= 4 and own_correlation >= 0.3:
        return {"broken_weights": -1.5}
    return {}


# Whoever ranks rows clearly better with another input was trained with that: weights and base are then right.
OTHER_INPUT: Weights = {
    "prompt_mismatch": 6.0,
    **dict.fromkeys(("healthy", "hard_task", "wrong_base", "broken_weights"), -4.0),
    **dict.fromkeys(("inverted", "ignores_input"), -2.0),
}


def other_base_weights(z: float, here_z: float) -> Weights:
    """z: by how many standard errors rows are ranked better on a base that was expected; here_z: than by chance on the
    base that was given."""
    if z >= SURE:
        refuted = dict.fromkeys(("healthy", "hard_task"), -5.0)
        refuted |= dict.fromkeys(("broken_weights", "prompt_mismatch", "inverted", "no_effect"), -4.0)
        return refuted | {"wrong_base": 6.0}
    return {"wrong_base": -3.0} if here_z >= SURE else {}


def learnable_weights(baseline_auc: float, standard_error: float) -> Weights:
    """baseline_auc: cross-validated, of a TF-IDF baseline on the same rows."""
    z = (baseline_auc - 0.5) / standard_error if standard_error > 0 else 0.0
    if z >= SURE and baseline_auc >= 0.65:
        return {"hard_task": -4.0}
    if z < HINT:
        return {"hard_task": 3.0}
    return {"hard_task": -0.5}


def input_weights(auc_shuffled_z: float, drop_z: float, skill_z: float) -> Weights:
    """drop_z: how much less probable the gold answers are with the texts of other rows. skill_z: with their own, how
    far the answers are better than chance."""
    if drop_z >= SURE:
        # A trace of the input is left in answers that hardly vary, too.
        return {"ignores_input": -2.0, "no_effect": -1.0}
    if skill_z >= SURE and auc_shuffled_z >= SURE:
        return {"ignores_input": 3.0, "healthy": -2.0}
    return {}


def spread_weights(spread: float, saturated: float, base_spread: float, one_sided: float, plateaus: float) -> Weights:
    """spread: standard deviation of P(first choice) over the rows, base_spread: the same of the base. saturated: share
    of rows within 0.001 of 0 or 1; one_sided: within 0.02 of one and the same end. plateaus: share of rows within 0.1
    of the middle log-odds of their side, where there are rows on both sides of one half.

    On the zoo, adapters that were trained to two values have 0.8 to 0.9 of their rows on plateaus, others up to 0.4.
    """
    if spread < 1e-4 or one_sided >= 0.97:
        return {"ignores_input": 5.0, "healthy": -6.0, "hard_task": -3.0, "inverted": -4.0, "hard_labels": -1.0}
    if spread < 0.02 and spread < base_spread / 2:
        return {"ignores_input": 4.5, "healthy": -4.0, "hard_task": -2.0, "inverted": -1.0, "hard_labels": -2.0}
    weights: Weights = {"ignores_input": -3.0}
    if plateaus >= 0.7:
        weights |= {"healthy": -3.5, "hard_task": -2.0, "under_scaled": -4.0}
        return weights | {"hard_labels": 5.5, "over_scaled": 1.0}
    if saturated >= 0.9:
        return weights | {"hard_labels": 3.0, "over_scaled": 2.0, "healthy": -1.5, "under_scaled": -4.0}
    if saturated <= 0.5:
        weights["hard_labels"] = -3.0
    return weights


def alignment_weights(decided: str, p_true: float) -> Weights:
    """decided, p_true: see `vetting.base.alignment.Alignment`. Its own benches say how seldom it errs: a match or a
    mismatch is wrong less than once in a thousand pairs of adapters and bases."""
    if decided == "match":
        return {"wrong_base": -6.0, "wrong_size": -2.0, "unsupported": -2.0, "no_effect": -1.0}
    if decided == "mismatch":
        weights = dict.fromkeys(("wrong_revision", "prompt_mismatch", "hard_labels", "ignores_input", "inverted"), -2.0)
        weights |= {"healthy": -5.0, "hard_task": -5.0}
        # wrong_size: where only the number of layers differs, shapes leave it open and this decides.
        return weights | {"wrong_base": 6.0, "wrong_size": 4.0, "broken_weights": 1.5}
    if math.isnan(p_true):
        return {}
    log_odds = math.log(max(p_true, 1e-6) / max(1 - p_true, 1e-6))
    return {"wrong_base": max(-1.5, min(1.5, -log_odds))}


def sense_weights(loss_ratio: float) -> Weights:
    """loss_ratio: the base's loss on plain text over that of guessing evenly. Sound bases of the zoo have 0.59 to 0.70,
    with untrained weights 1.00, with layers of another model up to 1.01, with permuted tokens 1.21 to 1.24."""
    if not math.isfinite(loss_ratio):
        return {"wrong_base": 2.0, "healthy": -4.0, "hard_task": -4.0}
    unsound = {"healthy": -5.0, "hard_task": -5.0, "prompt_mismatch": -3.0, "over_scaled": -2.0, "under_scaled": -2.0}
    if loss_ratio > 1.08:
        return unsound | {"tokenizer_mismatch": 6.0, "wrong_base": 3.0, "wrong_revision": 1.0}
    if loss_ratio > 0.95:
        # It knows nothing; an adapter may have been trained on it all the same, which the alignment tells.
        return {"wrong_base": 2.0, "wrong_revision": 1.0, "tokenizer_mismatch": 0.5, "healthy": -1.0}
    return {"tokenizer_mismatch": -2.5} if loss_ratio < 0.85 else {}


def token_order_weights(ascending: float) -> Weights:
    """ascending: share of neighbouring merges whose tokens' numbers ascend. 1.000 in every tokenizer that was looked at
    (GPT-2, Qwen, Mistral, SmolLM2, lorica_tiny), for training numbers tokens as it makes them."""
    if ascending < 0.98:
        return {"tokenizer_mismatch": 5.0, "healthy": -3.0, "hard_task": -3.0, "prompt_mismatch": -1.0}
    return {}


def rival_weights(given_score: float, expected_score: float) -> Weights:
    """Alignment scores (z against chance) with the given base and with the best of the expected ones."""
    if expected_score - given_score >= SURE:
        return {"wrong_base": 4.0, "healthy": -3.0, "hard_task": -3.0}
    return {"wrong_base": -3.0} if given_score - expected_score >= SURE else {}


def canary_weights(reading: str, effect: float, odd: float, base_largest: float) -> Weights:
    """All four: see `lorica.admission.canaries.CanaryResult`. effect: the shift from base to adapter, as a factor of
    what was promised; odd: what is left of it otherwise."""
    if reading in ("reproduced", "faint"):
        proved = ("altered", "wrong_base", "wrong_size", "wrong_revision", "not_applied", "over_scaled", "under_scaled")
        return dict.fromkeys(proved, -6.0) | dict.fromkeys(("broken_weights", "incomplete", "no_effect"), -4.0)
    unsound = {"healthy": -6.0, "hard_task": -5.0}
    if reading == "not_applied":
        return unsound | {"not_applied": 3.0, "no_effect": 3.0, "over_scaled": -4.0, "wrong_base": -2.0}
    if reading == "other_base":
        # Unrelated weights are several nats away; a revision or a quantised copy is near.
        base_weight, revision_weight = (2.0, 4.0) if base_largest < 2.0 else (4.0, 2.0)
        return unsound | {"wrong_base": base_weight, "wrong_revision": revision_weight, "altered": -1.0}
    if effect > 1.3 and odd < effect / 2:
        return unsound | {"over_scaled": 5.0, "under_scaled": -4.0, "altered": 2.0, "wrong_base": -4.0}
    if 0 < effect < 0.77 and odd < 0.5:
        return unsound | {"under_scaled": 4.0, "over_scaled": -4.0, "altered": 2.0, "wrong_base": -4.0}
    return unsound | {"altered": 2.0, "broken_weights": 2.0, "incomplete": 1.5, "over_scaled": 1.0, "wrong_base": -4.0}
