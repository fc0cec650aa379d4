"""Experiments with labelled rows on the base: what makes the right answers more probable tells what is wrong."""

from __future__ import annotations

import math

import numpy as np

from lorica.errors import LoricaError
from lorica.vetting.behaviour import gain_text
from lorica.vetting.diagnosis import likelihoods
from lorica.vetting.diagnosis.inputs import Context, refusal
from lorica.vetting.diagnosis.posterior import Evidence, outcome
from lorica.vetting.input_findings import is_better
from lorica.vetting.measure.adapter_measurement import AdapterMeasurement
from lorica.vetting.measure.divergence import choices_kl, log_odds
from lorica.vetting.measure.measurements import Skill
from lorica.vetting.measure.quality import SURE, auc_error, compare, ranking_z, skill
from lorica.vetting.measure.scoring import ScoredRows

_FLAWLESS = 0.495  # of AUC from one half, either way
# Field of a `Repair` -> what was done to so many pairs, and the cause that it shows: what was mended is what was wrong.
_MENDED = {
    "renamed": ("{} pairs renamed", {"not_applied": 4.0}),
    "retargeted": ("its targets restored", {"not_applied": 4.0}),
    "turned": ("{} pairs turned over", {"unsupported": 3.0}),  # whole, only stored in another tool's layout
    "reranked": ("ranks as its tensors have them", {"altered": 3.0}),
    "halves": ("{} single halves left out", {"incomplete": 2.0}),
    "foreign": ("{} pairs that are no layer of the base left out", {"wrong_size": 2.0}),
}


def mend(context: Context) -> list[Evidence]:
    """Whether the engine takes the adapter as it is and, if not, whether a mended copy works: if it does, its weights
    and its base are right, and what was mended is what is wrong."""
    if not context.rows or context.engine is None:
        return []
    subject = context.subject
    if subject.measurement is None:
        sentence = f"the engine refuses it, and no mended copy of it loads: {subject.refused}"
        weights = {"healthy": -6.0, "hard_task": -6.0, "over_scaled": -4.0, "under_scaled": -4.0, "inverted": -5.0,
                   "prompt_mismatch": -5.0, "ignores_input": -4.0, "hard_labels": -5.0}  # fmt: skip
        return [outcome("mend", sentence, "mend", weights)]
    measurement = context.measurement
    if measurement is None:
        return []
    if subject.repair is None:
        accepted_weights = {"unsupported": -3.0, "unreadable": -6.0, "wrong_size": -4.0, "incomplete": -1.0}
        return [outcome("mend", "the engine takes it as it is", "mend", accepted_weights)]
    own_labelled, base_labelled = measurement.own.labelled, measurement.base.labelled
    gold_gain, ability = compare(own_labelled, base_labelled), skill(own_labelled)
    mean_kl = choices_kl(own_labelled, base_labelled)
    changed = mean_kl is None or mean_kl > 1e-6
    weights = likelihoods.repair_weights(gold_gain.z, ability.above_chance, changed)
    mended_texts = []
    for repair_field, (mended_text, shown_cause) in _MENDED.items():
        if mended_count := getattr(subject.repair, repair_field):
            weights |= shown_cause
            mended_texts.append(mended_text.format(mended_count))
    mended = ", ".join(mended_texts) or "nothing but its complete pairs"
    copy_verdict = "works" if max(gold_gain.z, ability.above_chance) >= SURE else "is no better than the base"
    sentence = f"the engine refuses it ({subject.refused}); a copy with {mended} loads and {copy_verdict}{ability}"
    return [outcome("mend", sentence, "mend", weights | {"healthy": -5.0, "hard_task": -5.0})]


def how_skilled(context: Context, measurement: AdapterMeasurement) -> list[Evidence]:
    """How well it does on the rows, against the base: the rows' gold must become more probable."""
    own_labelled, base_labelled = measurement.own.labelled, measurement.base.labelled
    gold_gain, ability = compare(own_labelled, base_labelled), skill(own_labelled)
    sentence = f"the right answers are {gain_text(gold_gain)} than without it, n={len(own_labelled.rows)}{ability}"
    weights = likelihoods.skill_weights(*_auc(ability), gold_gain.z, _auc(skill(base_labelled))[0], gold_gain.mean)
    evidence = [outcome("skill", sentence, "skill", weights)]
    if measurement.task.settings.method != "generate" and context.inputs.answers is None:
        # What spoils generated answers is then not to blame for these.
        sentence = "the answers are probabilities of choices: nothing is generated or parsed"
        evidence.append(outcome("method", sentence, "method", {"generation_settings": -2.0, "parser_fallbacks": -2.0}))
    mean_kl = choices_kl(own_labelled, base_labelled)
    if context.subject.repair is None:
        changed_share = _changed(own_labelled, base_labelled)
        divergence_text = "" if mean_kl is None else f" (divergence {mean_kl:.2g} nats)"
        sentence = f"it changes the probabilities of {changed_share:.0%} of the rows{divergence_text}"
        weights = likelihoods.change_weights(changed_share, 1.0 if mean_kl is None else mean_kl)
        evidence.append(outcome("change", sentence, "change", weights))
    if mean_kl is not None:
        evidence.append(_spread(measurement, ability))
        shift_evidence = _shift(own_labelled, base_labelled)
        if shift_evidence:
            # The order that is left in answers that hardly vary is a trace of the input, no proof that it counts.
            evidence[0].weights.pop("ignores_input", None)
        evidence += shift_evidence
    return evidence


def other_tasks(context: Context, measurement: AdapterMeasurement) -> list[Evidence]:
    """The shipped probes of another task: an adapter that leaves these rows nearly alone, and moves those, was trained
    for that task."""
    elsewhere = measurement.elsewhere
    weights = {} if elsewhere is None else likelihoods.elsewhere_weights(elsewhere.here, elsewhere.there)
    if not weights or elsewhere is None:
        return []
    ratio = elsewhere.there / max(elsewhere.here, 1e-9)
    sentence = f"it moves the answers to shipped questions of the task {elsewhere.task} {ratio:.0f} times as much as "
    sentence += f"those to these rows ({elsewhere.there:.2g} nats, not {elsewhere.here:.2g})"
    return [outcome("other_tasks", sentence, "elsewhere", weights)]


def skill_elsewhere(context: Context, measurement: AdapterMeasurement) -> list[Evidence]:
    """The rows with every base that was named with --expected-base: an adapter ranks them on the base it belongs to."""
    here, best = skill(measurement.own.labelled), None
    for base_folder in context.inputs.expected:
        try:
            there = skill(context.measure_on(base_folder).own.labelled)
        except LoricaError as error:
            context.notes.append(f"it could not be asked on {base_folder.name}: {refusal(error)}")
            continue
        if best is None or (there.value or 0.0) > (best[1].value or 0.0):
            best = base_folder, there
    if best is None:
        return []
    base_folder, there = best
    z = ranking_z(there, here)
    if z >= SURE:
        context.home = base_folder
    sentence = f"on the base given it has{_found(here)}, on {ascii(base_folder.name)[1:-1][:60]}{_found(there)}"
    return [outcome("skill_elsewhere", sentence, "elsewhere", likelihoods.other_base_weights(z, here.above_chance))]


def vary_inputs(context: Context, measurement: AdapterMeasurement) -> list[Evidence]:
    """The rows without a part of the input, or with two parts exchanged: what does better so was trained so."""
    variants = measurement.inputs
    if not variants:
        return []
    better_variants = [variant for variant in variants if is_better(variant)]
    if not better_variants:
        names = ", ".join(variant.name for variant in variants)
        return [outcome("inputs", f"it does not do better {names}", "format", {"prompt_mismatch": -1.0})]
    gains = {variant.name: -(variant.lost.value or 0.0) if variant.lost else 0.0 for variant in better_variants}
    best_name = max(gains, key=lambda name: gains[name])
    sentence = f"{best_name} the rows are answered better, by {gains[best_name]:.3f}"
    return [outcome("inputs", sentence, "format", likelihoods.OTHER_INPUT)]


def _found(ability: Skill) -> str:
    return str(ability).removeprefix(":") or " no ranking"


def shuffle_texts(context: Context, measurement: AdapterMeasurement) -> list[Evidence]:
    """Every row asked with the text of another: if nothing is lost, the input does not matter."""
    labelled = measurement.labelled
    if labelled is None or labelled.n < 10:
        return []
    shuffled_skill = Skill(labelled.shuffled.value, _auc_error(labelled.shuffled.value, measurement.own.labelled))
    shuffled_gain = labelled.shuffled_gain
    own_skill = skill(measurement.own.labelled)
    weights = likelihoods.input_weights(shuffled_skill.above_chance, shuffled_gain.z, own_skill.above_chance)
    if not weights:
        return []
    loss_text = "are lost" if shuffled_gain.z >= SURE else "stay"
    sentence = f"with the texts of other rows the right answers {loss_text}{shuffled_skill}"
    return [outcome("swapped_texts", sentence, "input", weights)]


def learnable(context: Context, measurement: AdapterMeasurement) -> list[Evidence]:
    """Whether a TF-IDF baseline can learn the rows at all (five folds): if it can, the task is not out of reach."""
    own_labelled = measurement.own.labelled
    if not own_labelled.is_ranking:
        return []
    if min(int((own_labelled.gold == 0).sum()), int((own_labelled.gold == 1).sum())) < 10:
        return []
    baseline_auc = measurement.tfidf
    if baseline_auc is None:
        context.notes.append("the TF-IDF baseline could not run")
        return []
    standard_error = _auc_error(baseline_auc, own_labelled) or math.nan
    auc_text = f"{baseline_auc:.2f} ± {standard_error:.2f}"
    sentence = f"a TF-IDF baseline, cross-validated on the same rows, has an AUC of {auc_text}"
    return [outcome("learnable", sentence, "learnable", likelihoods.learnable_weights(baseline_auc, standard_error))]


def _spread(measurement: AdapterMeasurement, ability: Skill) -> Evidence:
    variation, first_probabilities = measurement.variation, measurement.own.first
    spread, base_spread = variation.std or 0.0, variation.base_std or 0.0
    one_sided = max(float(np.mean(first_probabilities < 0.02)), float(np.mean(first_probabilities > 0.98)))
    # Two values that are right leave no ranking to be missed.
    flawless = ability.value is not None and ability.error is not None and abs(ability.value - 0.5) >= _FLAWLESS
    plateaus = 0.0 if flawless else variation.plateaus or 0.0
    if spread < 1e-4:
        sentence = "it gives every row the same probability"
    else:
        sentence = f"its probabilities vary over the rows (deviation {spread:.2g}, the base's {base_spread:.2g})"
        sentence += f"; {plateaus:.0%} of the rows have one of two values" if plateaus >= 0.5 else ""
    weights = likelihoods.spread_weights(spread, variation.saturated or 0.0, base_spread, one_sided, plateaus)
    return outcome("spread", sentence, "spread", weights)


def _shift(own_labelled: ScoredRows, base_labelled: ScoredRows) -> list[Evidence]:
    own_odds = log_odds(own_labelled.first)
    odds_change = own_odds - log_odds(base_labelled.first)
    mean_shift, odds_spread = float(odds_change.mean()), float(own_odds.std())
    weights = likelihoods.shift_weights(mean_shift, odds_spread, float(odds_change.std()))
    if not weights:
        return []
    sentence = f"it moves the log-odds of all rows alike, by {mean_shift:.1f}"
    sentence += f"; what is left of them varies by {odds_spread:.2f}"
    return [outcome("shift", sentence, "spread", weights)]


def _changed(own_labelled: ScoredRows, base_labelled: ScoredRows) -> float:
    logprob_pairs = zip(own_labelled.logprobs, base_labelled.logprobs, strict=True)
    return float(np.mean([bool((np.abs(own - base) > 1e-6).any()) for own, base in logprob_pairs]))


def _auc(ability: Skill) -> tuple[float, float]:
    """ROC-AUC and its standard error, NaN where there is none."""
    if ability.value is None or ability.error is None:
        return math.nan, math.nan
    return ability.value, ability.error


def _auc_error(auc_value: float | None, labelled: ScoredRows) -> float | None:
    """None where the metric is no ranking."""
    if auc_value is None or not labelled.is_ranking:
        return None
    positive = int((labelled.gold == 0).sum())
    return auc_error(auc_value, positive, len(labelled.rows) - positive)
