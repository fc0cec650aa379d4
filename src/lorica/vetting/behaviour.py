"""L4: what the measured behaviour means. Shipped prompts reject only what is wrong for whatever it was trained."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import msgspec

from lorica.metrics.health import LOW_MASS
from lorica.metrics.metric_table import METRICS
from lorica.vetting.findings import Finding, Severity, finding
from lorica.vetting.input_findings import HARD, NO_CHANGE, judge_inputs, weight_of
from lorica.vetting.measure.format_sweep import CLEARLY, format_gain
from lorica.vetting.measure.measurements import (
    ENOUGH,
    Behaviour,
    Comparison,
    Divergence,
    FormatResult,
    Labelled,
    ScaleResult,
    Written,
)
from lorica.vetting.measure.quality import HINT, SURE

SMALL_CHANGE = 1e-3
# Nats, the mean and the largest: single improbable words may move further while no answer does.
_SMALL_KL, _SMALL_KL_MOST = 1e-6, 1e-5
_LOST_MASS, _HAD_MASS = 0.02, 0.1
_CLEAR_GAIN = 0.05  # nats per row
_KEPT = 0.05  # so much ROC-AUC or accuracy may chance take from a scale that is better in log-loss
_SURER = 0.1
_REACHED = 0.3  # of the fall in log-loss that the best scale brings
_FAR_BELOW, _FAR_ABOVE = 0.25, 4.0
_BACKWARDS = 0.4
_NO_HEAD = "its head is zero, or was never trained: train it again, or take it from where it was made"
_READABLE, _CUT, _UNSTABLE, _AGREEING = 0.05, 0.2, 0.2, 0.8


def judge_behaviour(behaviour: Behaviour) -> list[Finding]:
    """All findings on what was measured, in the order of their codes."""
    groups = [_numbers(behaviour), _difference(behaviour), judge_inputs(behaviour)]
    groups += [_formats(behaviour), _scales(behaviour), _right(behaviour), _elsewhere(behaviour), _texts(behaviour)]
    return sorted((finding for findings in groups for finding in findings), key=lambda finding: finding.code)


def _numbers(behaviour: Behaviour) -> Iterator[Finding]:
    prompts = behaviour.n + behaviour.broken + behaviour.base_broken
    if behaviour.broken:
        facts = {"broken": behaviour.broken, "asked": prompts}
        yield finding("L401", f"{behaviour.broken} of {prompts} prompts; the base model answers them", facts=facts)
    if outside_count := behaviour.outside_vocabulary:
        yield finding("L440", f"{outside_count} prompts", facts={"prompts": outside_count})
    reasons = {reason: prompt_count for reason, prompt_count in behaviour.errors.items() if "vocabulary" not in reason}
    if reasons or behaviour.base_broken:
        first_reason = next(iter(reasons), "the base model's own output is not a number")
        prompt_count = sum(reasons.values()) + behaviour.base_broken
        yield finding("L441", f"{prompt_count} prompts, the first: {first_reason}", facts={"prompts": prompt_count})


def _difference(behaviour: Behaviour) -> Iterator[Finding]:
    divergence = behaviour.divergence
    if divergence is None:
        return
    facts = {field: getattr(divergence, field) for field in ("kl", "kl_most", "changed", "largest_change")}
    if divergence.largest_change <= NO_CHANGE:
        if not behaviour.broken:
            largest_text = f"no log-probability differs by more than {divergence.largest_change:.1e}"
            sentence, fix = f"over {divergence.n} prompts {largest_text}", "" if behaviour.writes else _NO_HEAD
            yield finding("L402", sentence, fix=fix, facts=facts)
    elif divergence.largest_change < SMALL_CHANGE or _says_the_same(divergence):
        sentence = f"over {divergence.n} prompts log-probabilities differ by at most {divergence.largest_change:.1e}"
        if _says_the_same(divergence):
            sentence += f"; {divergence.kl:.1e} nats from the base, and no best answer is another"
        yield finding("L403", sentence, facts=facts)
    mass, base_mass = divergence.mass, divergence.base_mass
    if mass is not None and base_mass is not None and base_mass > _HAD_MASS and mass < _LOST_MASS * base_mass:
        sentence = f"the probability of any possible answer falls from {base_mass:.2f} to {mass:.1e}"
        facts |= {"mass": mass, "base_mass": base_mass}
        yield finding("L404", f"{sentence} (KL {divergence.kl:.1f} nats)", severity=weight_of(behaviour), facts=facts)
    elif mass is not None and mass < LOW_MASS and behaviour.method == "choice" and not behaviour.foreign:
        of_base = "" if base_mass is None else f", of the base model's {base_mass:.2g}"
        sentence = f"{mass:.2g} on average{of_base}, over {divergence.n} prompts"
        yield finding("L470", sentence, expected=f"above {LOW_MASS:g}", facts={"mass": mass, "base_mass": base_mass})


def _says_the_same(divergence: Divergence) -> bool:
    return not divergence.changed and divergence.kl < _SMALL_KL and divergence.kl_most < _SMALL_KL_MOST


def _formats(behaviour: Behaviour) -> Iterator[Finding]:
    own = next((result for result in behaviour.formats if result.configured), None)
    alternatives = [result for result in behaviour.formats if not result.configured]
    if own is None or not alternatives or _unmoved(behaviour):
        return
    facts: dict[str, Any] = {"formats": [_format_facts(result) for result in behaviour.formats]}
    better_results = [result for result in alternatives if result.n >= ENOUGH and format_gain(result).strength >= SURE]
    best = max(better_results, key=lambda result: format_gain(result).strength, default=None)
    if best is not None and best.margin is not None:
        sentence = f"{best.name}: {best.quality or 0.0:.3f} on {best.n} rows, with the right answers "
        sentence += f"{gain_text(best.margin)} than as configured ({own.name})"
        facts |= {"best_format": best.name, "best_style": best.style, "best_method": best.method}
        yield finding("L410", sentence, severity="warn" if behaviour.source == "rows" else "note", facts=facts)
        return
    surest = max(alternatives, key=_made_surer)
    if surest.surer is not None and surest.surer.above > _SURER and _made_surer(surest) > _SURER:
        sentence = f"its best answer has {surest.surer} more probability than as configured ({own.name})"
        facts |= {"surer_format": surest.name, "surer": surest.surer.value}
        yield finding("L411", f"{surest.name}: {sentence}", facts=facts)


def gain_text(gain: Comparison) -> str:
    """How much more probable the right answers are."""
    comparative = "more" if gain.mean >= 0 else "less"
    return f"{math.exp(min(abs(gain.mean), 20.0)):.2f} times {comparative} probable (z {gain.z:.1f})"


def _made_surer(result: FormatResult) -> float:
    """How much surer a format makes the adapter than it makes the base."""
    return (result.surer.value or 0.0) - (result.base_surer or 0.0) if result.surer else 0.0


def _format_facts(result: FormatResult) -> dict[str, Any]:
    names = ("configured", "confidence", "mass", "kl", "quality", "base_quality")
    facts = {"format": result.name} | {field: getattr(result, field) for field in names}
    margin = result.margin
    return facts | ({} if margin is None else {"margin": margin.mean, "margin_z": margin.z})


def _unmoved(behaviour: Behaviour) -> bool:
    return behaviour.divergence is None or behaviour.divergence.largest_change < SMALL_CHANGE


def _scales(behaviour: Behaviour) -> Iterator[Finding]:
    by_factor = {result.factor: result for result in behaviour.scales}
    own = by_factor.get(1.0)
    if own is None or _unmoved(behaviour):
        return
    facts = {"scales": [_scale_facts(result) for result in behaviour.scales]}
    nothing = by_factor.get(0.0)
    # A classifier brings its head whole.
    if nothing is not None and nothing.largest_change > SMALL_CHANGE and behaviour.writes:
        change = f"log-probabilities differ by up to {nothing.largest_change:.2g}: whole modules or magnitudes"
        yield finding("L416", f"{change} are not scaled", facts=facts)
    candidates = [result for result in behaviour.scales if result.factor and result.gain is not None]
    best = max(candidates, key=lambda result: result.gold or 0.0, default=None)
    if best is not None and best.gain is not None and behaviour.labelled_rows >= ENOUGH:
        better_factors = [result.factor for result in candidates if _clearly_better(result, own)]
        is_below = best.factor < 1 and any(factor <= _FAR_BELOW for factor in better_factors)
        is_above = best.factor > 1 and any(factor >= _FAR_ABOVE for factor in better_factors)
        if is_below or is_above:
            code = "L412" if is_below else "L413"
            # Short trainings leave every adapter less sure than it could be; ranking does not suffer from that.
            ranks_better = best.quality is not None and own.quality is not None and best.quality > own.quality + CLEARLY
            enough = is_above and _reached(by_factor, own, best) > _REACHED and not ranks_better
            sentence = f"at {best.factor:g} times its scale the right answers are {gain_text(best.gain)} than as it is"
            severity: Severity = "warn" if behaviour.source == "rows" and not enough else "note"
            yield finding(code, sentence, severity=severity, facts=facts | {"best_factor": best.factor})
            return
    yield from _scale_hints(by_factor, own, facts)


def _reached(by_factor: dict[float, ScaleResult], own: ScaleResult, best: ScaleResult) -> float:
    """The part of what the best scale gains over the base model that the adapter reaches as it is; 0 without both."""
    nothing = by_factor.get(0.0)
    if nothing is None or nothing.gold is None or own.gold is None or best.gold is None or nothing.gold >= best.gold:
        return 0.0
    return (own.gold - nothing.gold) / (best.gold - nothing.gold)


def _clearly_better(best: ScaleResult, own: ScaleResult) -> bool:
    """Better than as it is, and better than no adapter at all, which a bad adapter would lose to as well."""
    gain, over_base = best.gain, best.over_base
    if gain is None or over_base is None or gain.z < HINT or gain.mean < _CLEAR_GAIN:
        return False
    keeps_quality = best.quality is None or own.quality is None or best.quality >= own.quality - _KEPT
    return over_base.z >= SURE and keeps_quality


def _scale_hints(by_factor: dict[float, ScaleResult], own: ScaleResult, facts: dict[str, Any]) -> Iterator[Finding]:
    quarter, fourfold = by_factor.get(0.25), by_factor.get(4.0)
    if own.saturated is not None and quarter is not None and quarter.saturated is not None and quarter.changed:
        sentence = (
            f"{own.saturated:.0%} of its answers have a probability above 0.999, {quarter.saturated:.0%} at a quarter"
        )
        if own.saturated > HARD and quarter.saturated < 0.3:
            yield finding("L414", f"{sentence} of its scale", facts=facts)
            return
    nothing = by_factor.get(0.0)
    if nothing is not None and quarter is not None and None not in (nothing.mass, own.mass, quarter.mass):
        base_mass, own_mass, quarter_mass = nothing.mass or 0.0, own.mass or 0.0, quarter.mass or 0.0
        if base_mass > _HAD_MASS and own_mass < _LOST_MASS * base_mass and quarter_mass > 0.5 * base_mass:
            sentence = (
                f"the probability of any answer is {own_mass:.1e}, and {quarter_mass:.2f} at a quarter of its scale"
            )
            yield finding("L414", sentence, facts=facts)
            return
    # Far below saturation the divergence grows with the square of the scale: 16-fold from 1 to 4.
    if fourfold is not None and own.kl < 1e-3 and not own.changed and own.kl > 0 and 8 < fourfold.kl / own.kl < 32:
        sentence = f"KL {own.kl:.1e} nats from the base, {fourfold.kl:.1e} at four times its scale"
        yield finding("L415", sentence, facts=facts)


def _scale_facts(result: ScaleResult) -> dict[str, Any]:
    values = {
        field: getattr(result, field)
        for field in ("factor", "kl", "confidence", "saturated", "std", "mass", "loss", "quality")
    }
    return {field: None if value == float("inf") else value for field, value in values.items()}


def _right(behaviour: Behaviour) -> Iterator[Finding]:
    labelled = behaviour.labelled
    if labelled is None:
        probes = behaviour.probes_quality
        # Foreign prompts: an adapter for one thing may well be wrong about another.
        if probes is not None and behaviour.answer_type == "score" and probes.high is not None and probes.high < 0.5:
            sentence = f"ROC-AUC {probes} on {probes.n} shipped prompts"
            yield finding("L422", sentence, severity=weight_of(behaviour), facts={"quality": probes.value})
        return
    facts = _labelled_facts(labelled)
    inverted = labelled.metric == "roc_auc" and labelled.adapter.high is not None and labelled.adapter.high < 0.5
    difference = f"difference {labelled.over_base} on {labelled.n} rows"
    sentence = f"{labelled.metric} {labelled.adapter}, base {labelled.base}, {difference}"
    if inverted:
        base_too = labelled.base.high is not None and labelled.base.high < 0.5
        is_certain = not base_too and (labelled.adapter.value or 0) < _BACKWARDS
        yield finding("L422", sentence, severity="reject" if is_certain else "warn", facts=facts)
    elif labelled.over_base.above > 0:
        yield finding("L420", sentence, facts=facts)
    elif labelled.over_base.below > 0 and (labelled.over_base.value or 0) < -CLEARLY:
        yield finding("L421", sentence, facts=facts)
    else:
        yield finding("L423", sentence, facts=facts)
    chance = 0.5 if labelled.metric == "roc_auc" else 0.4
    is_good = labelled.adapter.low is not None and labelled.adapter.low > chance + 0.1
    if is_good and labelled.over_shuffled.above <= 0:
        with_others = f"{labelled.metric} {labelled.adapter}, with the texts of other rows {labelled.shuffled}"
        yield finding("L424", with_others, facts=facts)
    if labelled.top_letter is not None and labelled.top_letter > (labelled.gold_top_letter or 0) + 0.3:
        of_gold = f"{labelled.gold_top_letter:.0%} of the gold"
        yield finding("L425", f"{labelled.top_letter:.0%} of its answers are one letter, {of_gold}", facts=facts)


def _elsewhere(behaviour: Behaviour) -> Iterator[Finding]:
    elsewhere = behaviour.elsewhere
    if elsewhere is not None and elsewhere.belongs:
        sentence = f"shipped questions of {elsewhere.task} move by {elsewhere.there:.2g} nats, these rows by "
        yield finding("L427", f"{sentence}{elsewhere.here:.2g}", facts=msgspec.structs.asdict(elsewhere))


def _labelled_facts(labelled: Labelled) -> dict[str, Any]:
    facts: dict[str, Any] = {field: getattr(labelled, field) for field in ("n", "metric", "tfidf", "accuracy")}
    for field in ("adapter", "base", "shuffled", "over_base", "over_shuffled"):
        interval = getattr(labelled, field)
        facts |= {field: interval.value, f"{field}_low": interval.low, f"{field}_high": interval.high}
    return facts


def _texts(behaviour: Behaviour) -> Iterator[Finding]:
    generated = behaviour.generated
    if generated is None:
        return
    facts = {field: getattr(generated, field) for field in generated.__struct_fields__ if field != "written"}
    severity = weight_of(behaviour)
    is_worse = generated.unparsed_share > max(_READABLE, generated.base_unparsed_share if behaviour.foreign else 0.0)
    if is_worse:
        base_share = f"of the base model's {generated.base_unparsed_share:.0%}"
        sentence = f"{generated.unparsed_share:.0%} of {generated.n} answers, {base_share}"
        yield finding("L430", sentence, severity=severity, facts=facts)
    if generated.cut_off_share > _CUT:
        base_share = f"of the base model's {generated.base_cut_off_share:.0%}"
        sentence = f"{generated.cut_off_share:.0%} of {generated.n} answers, {base_share}"
        yield finding("L431", sentence, severity=severity, facts=facts)
    if generated.unstable_share is not None and generated.unstable_share > _UNSTABLE:
        sentence = f"{generated.unstable_share:.0%} of {generated.n} answers"
        yield finding("L432", sentence, severity=severity, facts=facts)
    if generated.written is not None and behaviour.source == "rows":
        yield _written(generated.written)
    if generated.agreement is not None and generated.agreement < _AGREEING:
        yield finding("L433", f"{1 - generated.agreement:.0%} of those that could be read", facts=facts)


def _written(written: Written) -> Finding:
    titles = {metric: f"{metric} ({METRICS[metric].normalisation})" for metric in written.adapter}
    sentences = [
        f"{titles[metric]} {estimate}, base {written.base[metric]}" for metric, estimate in written.adapter.items()
    ]
    is_worse = written.over_base.below > 0 and written.n >= ENOUGH
    facts = {metric: estimate.value for metric, estimate in written.adapter.items()} | {"n": written.n}
    sentence = f"{'; '.join(sentences)} on {written.n} rows"
    return finding("L434", sentence, severity="warn" if is_worse else "note", facts=facts)
